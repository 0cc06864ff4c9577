"""A run with few labels: its commands, the same bits after an interruption, and refused changes of the labels."""

import numpy as np
import pytest
from commands import SMALL

from vae_jax.runs import read_metrics

STEPS = ["--schedule", "constant", "--train.log-every", 5, "--train.save-every", 5]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """File of 90 images of three classes."""
    path, rng = tmp_path_factory.mktemp("data") / "data.npz", np.random.default_rng(0)
    np.savez(path, x=rng.integers(0, 256, (90, 6, 6), dtype=np.uint8), y=np.arange(90) % 3)
    return path


@pytest.mark.thorough
@pytest.mark.parametrize("model", [["m2"], ["sdgm", "--model.auxiliary-dim", 2, "--model.auxiliary-hidden", 8]])
def test_a_run_with_few_labels_has_every_command_and_the_same_bits_after_a_stop(model, data, tmp_path, call):
    run, other = tmp_path / "run", tmp_path / "other"
    settings = ["--data.name", data, "--model", *model, "--model.num-classes", 3, "--data.labelled", 9,
                "--mesh.data", 1, "--evaluation.class-samples", 2, *SMALL, *STEPS]  # fmt: skip
    first = call("train", "--workdir", run, *settings, "--train.steps", 5).result
    assert 0 <= first["classifier_error"] <= 1
    result = call("train", "--workdir", run, *settings, "--train.steps", 10).result
    assert result["classifier_calibration_error"] >= 0
    call("train", "--workdir", other, *settings, "--train.steps", 10)
    losses = [
        {row["step"]: row["loss"] for row in read_metrics(d / "metrics.jsonl") if "loss" in row} for d in (run, other)
    ]
    assert losses[0] == losses[1]
    assert set(losses[0]) == {5, 10}
    assert "reliability.png" in {path.name for path in (run / "figures").iterdir()}

    evaluated = call("evaluate", run, "--per-example", "--num-samples", 2).result
    assert evaluated["generative_error"] == result["generative_error"]
    scores = np.load(evaluated["scores"])
    np.testing.assert_allclose(np.exp(scores["log_qy"]).sum(axis=1), 1, rtol=1e-5)
    assert np.mean(scores["log_qy"].argmax(axis=1) != scores["label"]) == pytest.approx(evaluated["classifier_error"])
    assert len(np.load(call("sample", run, "--count", 4, "--condition", 2).result["samples"])) == 4
    assert set(call("export", run).result["programs"]) == {"encoder", "decoder", "sampler"}
    changed = call("train", "--workdir", run, *settings, "--train.steps", 10, "--data.labelled-draw", 1)
    assert changed.code == 2
    assert "data.labelled_draw" in changed.err[-1]
