"""`vae-jax sweep`: results, refused settings, divergence, and interruption."""

import json
import signal

import pytest
from PIL import Image

from vae_jax.training import Evaluator

OPTIONS = [
    "--compilation-cache", "None", "--network.hidden", "8", "--model.latent-dim", "2", "--train.steps", "10",
    "--train.log-every", "5", "--train.evaluate-every", "0", "--train.save-every", "5", "--train.batch-size", "16",
]  # fmt: skip


@pytest.fixture
def sweep(call, data_dir):
    """sweep(directory, "--vary", ...) -> CommandResult of a small sweep."""
    return lambda directory, *words: call(
        "sweep", "--workdir", directory, "--data.data-dir", data_dir, *OPTIONS, *words
    )


def test_the_command_trains_evaluates_and_summarizes(sweep, call, tmp_path):
    result = sweep(tmp_path, "--evaluation.num-samples", "4", "--vary", "seed=0,1", "objective.beta=0.5,2")
    numbers = [result.result[name] for name in ("status", "members", "programs", "failed")]
    assert numbers == ["done", 4, 1, []]
    stored = json.loads((tmp_path / "sweep.json").read_text())
    assert [(m["seed"], m["objective.beta"]) for m in stored["members"]] == [(0, 0.5), (0, 2.0), (1, 0.5), (1, 2.0)]
    assert (tmp_path / "sweep.md").read_text().strip() in "\n".join(result.err)
    with Image.open(tmp_path / "sweep.png") as image:
        assert image.size[0] > 500
    again = call("evaluate", tmp_path / "seed=1,objective.beta=2.0").result
    assert again["elbo"] == pytest.approx(stored["members"][3]["elbo"], rel=1e-5)


@pytest.mark.parametrize(
    ("vary", "message"),
    [
        ([], "--vary is empty; give SETTING=VALUE,VALUE,..."),
        (["seed"], "--vary=seed must be SETTING=VALUE,VALUE,..."),
        (["objective.betta=1,2"], "objective.betta is not a setting; did you mean 'objective.beta'?"),
        (["network.hidden=1,2"], "network.hidden cannot be varied; vary a number, a name, or True and False"),
        (["seed=1", "seed=2"], "--vary=seed is given twice"),
        (["seed=1,2", "--vary", "objective.beta=1,2"], "--vary is given twice; give it once"),
        (["seed=a,b"], "seed='a' must be of type int"),
        (["objective=elbo,elbow"], "objective='elbow' must be one of "),
    ],
)
def test_settings_that_cannot_be_varied_are_refused_in_one_line(vary, message, tmp_path, call):
    result = call("sweep", "--workdir", tmp_path / "sweep", *(["--vary", *vary] if vary else []))
    assert result.code == 2
    (line,) = result.err
    assert line.startswith(f"vae-jax: {message}")
    assert not (tmp_path / "sweep").exists()


@pytest.mark.fault
def test_a_sweep_of_which_nothing_is_left_fails(sweep, tmp_path):
    diverging = ["--optimizer", "sgd", "--schedule", "constant"]
    result = sweep(tmp_path, *diverging, "--vary", "optimizer.learning_rate=1e30,1e31")
    assert (result.code, result.out) == (3, [])
    assert result.err[-1].startswith("vae-jax: none of the 2 members finished: step ")
    assert "failure" in json.loads((tmp_path / "sweep.json").read_text())["members"][1]


@pytest.mark.fault
@pytest.mark.parametrize(("method", "num_samples"), [("likelihood", 4), ("bound", 0)])
def test_a_sweep_that_is_stopped_in_its_evaluation_is_evaluated_by_the_same_command(
    method, num_samples, sweep, tmp_path, monkeypatch
):
    options = ["--evaluation.num-samples", num_samples, "--vary", "seed=0,1"]
    measure = getattr(Evaluator, method)

    def interrupted(self, *args, **kwargs):
        signal.raise_signal(signal.SIGTERM)
        return measure(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(Evaluator, method, interrupted)
        stopped = sweep(tmp_path, *options)
    assert stopped.result["status"] == "interrupted"
    assert "the same command evaluates again" in stopped.err[-1]
    assert not (tmp_path / "sweep.json").exists()
    assert sweep(tmp_path, *options).result["status"] == "done"
    assert len(json.loads((tmp_path / "sweep.json").read_text())["members"]) == 2


@pytest.mark.fault
def test_an_error_in_a_later_program_is_refused_before_the_first_is_trained(call, data_dir, tmp_path):
    argv = ["sweep", "--workdir", tmp_path / "sweep", "--compilation-cache", "None", "--data.data-dir", data_dir]
    result = call(*argv, "--vary", "data.name=digits,digitz")
    assert result.code == 2
    assert "data.name='digitz'" in result.err[-1]
    assert not (tmp_path / "sweep").exists()
