"""experiments/benchmarks/sweep.py: the commands of both sides, and their ratio."""

from scripts import load

from vae_jax.cli import sweep as sweep_command, train as train_command
from vae_jax.runs.members import make_members


def test_both_sides_train_the_same_models(tmp_path):
    script = load("benchmarks/sweep")
    lines = script.commands(tmp_path, (0.5, 2.0), (0, 1, 2), ["--train.steps", "7"])
    (sweep,) = lines["sweep"]
    options, config, varied = sweep_command.parse_arguments(sweep[1:])
    trainings = [train_command.parse_arguments(line[1:]) for line in lines["train"]]
    assert [member.config for member in make_members(config, varied)] == [single for _, single in trainings]
    assert len({single.workdir for single, _ in trainings} | {options.workdir}) == 7
    assert {single.compilation_cache for single, _ in trainings} != {options.compilation_cache}
    assert config.train.steps == 7


def test_the_ratio_is_that_of_complete_commands():
    def done(seconds):
        return {"seconds": seconds, "result": {"train_seconds": 1.0}}

    results = {"sweep": [done(6.0)], "train": [done(9.0), done(2.0), done(1.0)]}
    table = load("benchmarks/sweep").summarize(results, models=3)
    assert table["ratio"] == 0.5
    assert table["train"] == {"commands": 3, "seconds": 12.0, "train_seconds": 3.0}
    # Two more commands, each with the median of those after the first.
    table = load("benchmarks/sweep").summarize(results, models=5)
    assert table["train"] == {"commands": 3, "seconds": 15.0, "train_seconds": 5.0}
    assert table["ratio"] == 0.4
