"""experiments/cells.py: the summary of the seeds on disk, and which seeds are not trained or evaluated again."""

import pytest
from scripts import load

from vae_jax.config import Config, override
from vae_jax.runtime import atomic_files

STEPS = 30


@pytest.fixture
def script():
    return load("cells")


def write_seed(directory, seed, **changes):
    evaluation = {
        "step": STEPS, "nll": 86.0 + seed, "nll_se": 0.2 + 0.1 * seed, "elbo": -90.0, "kl": 25.0, "active_units": 21,
        "num_samples": 50,
    }  # fmt: skip
    atomic_files.write_json(directory / f"seed={seed}" / "evaluation.json", evaluation | changes)


def test_the_summary_contains_finished_seeds_and_the_seconds_of_all_processes(script, tmp_path):
    assert script.summarize_cell(tmp_path / "none", STEPS) == {"seeds": 0}
    for seed in (0, 2, 10):
        write_seed(tmp_path, seed)
    write_seed(tmp_path, 3, step=STEPS - 1)
    for name, seconds, device in (("0", 5, "abacus"), ("2,10", 7, "slide rule"), ("4", 1, "abacus")):
        atomic_files.write_json(tmp_path / f"clock-of-seeds={name}.json", {"seconds": seconds, "device": device})
    atomic_files.write_json(tmp_path / "evaluation-clock-of-seeds=0.json", {"seconds": 3, "device": "abacus"})
    found = script.summarize_cell(tmp_path, STEPS)
    assert (found["seeds"], found["seconds"], found["evaluation_seconds"]) == (3, 13, 3)
    assert found["nll"] == {"mean": 90.0, "sd": pytest.approx(28**0.5)}
    assert found["nll_se"] == pytest.approx(1.2)
    assert found["active_units"] == [[21]] * 3
    assert found["device"] == "abacus; slide rule"


def test_seeds_with_fewer_samples_are_not_summarized(script, tmp_path):
    for seed, samples in enumerate((50, 5000, 50)):
        write_seed(tmp_path, seed, num_samples=samples)
    found = script.summarize_cell(tmp_path, STEPS)
    assert (found["seeds"], found["num_samples"], found["nll"]["mean"]) == (1, 5000, 87.0)


def test_only_seeds_without_an_evaluation_of_the_config_are_run(script, tmp_path, monkeypatch):
    config = override(Config(), train__steps=STEPS, objective__warmup_steps=0, evaluation__num_samples=50)
    write_seed(tmp_path, 0)
    write_seed(tmp_path, 1, num_samples=20)
    write_seed(tmp_path, 2, class_samples=config.evaluation.class_samples + 1)
    groups = []
    monkeypatch.setattr(script, "fit_group", lambda group, directory, stop: groups.append(group))
    assert script.run_cell(config, tmp_path, 1, stop=lambda: False) == []
    assert not groups
    script.run_cell(config, tmp_path, 5, stop=lambda: False)
    (members,) = groups
    assert [member.config.seed for member in members] == [1, 2, 3, 4]
    assert [member.config.mesh.data for member in members] == [4] * 4  # of eight devices, the most that divide them
