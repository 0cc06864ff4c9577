"""vae_jax/cli/train.py: training, resuming, and refused settings."""

import json
import math
import signal
from pathlib import Path

import numpy as np
import pytest
from commands import FIGURES, check_refusal, read_png, snapshot

from vae_jax.cli import train
from vae_jax.errors import StorageError
from vae_jax.runs import RunDirectory, callbacks, fit, plots
from vae_jax.runs.storage.loggers import read_metrics
from vae_jax.runtime import host
from vae_jax.training import evaluator


def test_training_ends_with_an_evaluation_and_figures(trained):
    directory, _, out, err = trained
    result = json.loads(out.splitlines()[-1])
    assert len(out.splitlines()) == 1
    assert (result["status"], result["step"], result["split"], result["num_examples"]) == ("done", 20, "test", 359)
    assert all(math.isfinite(result[name]) for name in ("elbo", "nll", "nll_se", "reconstruction", "kl"))
    assert result["elbo"] == pytest.approx(result["reconstruction"] - result["kl"])
    stored = json.loads((directory / "evaluation.json").read_text())
    assert stored["elbo"] == result["elbo"]
    assert {path.stem for path in (directory / "figures").iterdir()} == FIGURES
    for path in (directory / "figures").iterdir():
        assert path.suffix == ".png"
        assert len(np.unique(read_png(path))) > 2  # not blank
    assert [row["step"] for row in read_metrics(directory / "metrics.jsonl")] == [5, 10, 10, 15, 20, 20]
    assert sorted(path.name for path in (directory / "checkpoints").iterdir()) == ["10", "20"]
    assert "step 20/20" in err
    assert "Traceback" not in err


def test_the_same_command_again_prints_the_same_results(trained, call, monkeypatch):
    directory, argv, out, _ = trained
    before = snapshot(directory)
    monkeypatch.setattr(host, "free_memory", lambda devices=1: 0)  # an evaluation would not fit
    again = call(*argv, "--profile", directory.parent / "trace")
    assert any("--profile=" in line and "no step is left to trace" in line for line in again.err)
    assert any("do not fit in the free memory; the evaluation uses 1 and 1, with" in line for line in again.err)
    assert "all 20 steps are finished" in again.err[-1]
    first = json.loads(out.splitlines()[-1])
    assert again.result == {name: value for name, value in first.items() if name not in ("train_seconds", "seconds")}
    after = snapshot(directory)
    changed = {path for path in {*before, *after} if before.get(path) != after.get(path)}
    assert all(path == "lock" or path.startswith("events.") for path in changed), changed


def test_a_run_directory_is_enough_to_continue(copied, call, monkeypatch):
    directory, _ = copied
    before = (directory / "metrics.jsonl").read_bytes()
    monkeypatch.setattr(plots, "plot_all", lambda *_: [])
    result = call("train", "--workdir", directory, "--train.steps", 30, "--compilation-cache", "None").result
    assert (result["status"], result["step"]) == ("done", 30)
    after = (directory / "metrics.jsonl").read_bytes()
    assert after.startswith(before)
    assert [row["step"] for row in read_metrics(directory / "metrics.jsonl")][6:] == [25, 30, 30]
    assert json.loads((directory / "evaluation.json").read_text())["step"] == 30


@pytest.mark.fault
def test_a_signal_in_the_evaluation_ends_it_and_the_same_command_repeats_it(copied, call, monkeypatch):
    directory, argv = copied
    expected = json.loads((directory / "evaluation.json").read_text())
    (directory / "evaluation.json").unlink()
    monkeypatch.setattr(plots, "plot_all", lambda *_: [])
    likelihood = evaluator.Evaluator.likelihood

    def interrupted(self, *args, **kwargs):
        signal.raise_signal(signal.SIGTERM)
        return likelihood(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(evaluator.Evaluator, "likelihood", interrupted)
        stopped = call(*argv)
    assert stopped.result["status"] == "interrupted"
    assert "plotted: " in stopped.err  # before the evaluation, which may be interrupted
    assert "elbo" not in stopped.result
    assert not (directory / "evaluation.json").exists()
    assert call(*argv).result["elbo"] == pytest.approx(expected["elbo"], rel=1e-6)


@pytest.mark.fault
def test_a_report_that_was_not_written_is_written_by_the_same_command(copied, call, monkeypatch):
    directory, argv = copied
    monkeypatch.setattr(plots, "plot_all", lambda *_: [])
    changed = [*argv, "--evaluation.num-samples", 6]

    def refuse(directory):
        raise StorageError(f"cannot write {directory}")

    with monkeypatch.context() as patch:
        patch.setattr("vae_jax.report.write_report", refuse)
        assert call(*changed).code == 5
    assert json.loads((directory / "evaluation.json").read_text())["num_samples"] == 6
    assert call(*changed).code == 0
    assert "K = 6 samples" in (directory / "report.html").read_text()


@pytest.mark.fault
def test_no_results_are_written_if_another_process_has_trained_further(copied, call, monkeypatch):
    directory, argv = copied
    before = (directory / "evaluation.json").read_bytes()

    def overtaken(*args, **kwargs):
        outcome = fit(*args, **kwargs)
        (directory / "checkpoints" / "40").mkdir()
        return outcome

    monkeypatch.setattr("vae_jax.runs.fit", overtaken)
    done = call(*argv, "--evaluation.num-samples", 6)
    assert (done.code, done.result["status"]) == (0, "not evaluated")
    assert f"another process has saved step 40 in {directory}, so no results of step 20 are written" in done.err
    assert (directory / "evaluation.json").read_bytes() == before


@pytest.mark.fault
@pytest.mark.parametrize(("where", "step"), [("on_start", 20), ("on_steps", 25)])
def test_more_training_steps_delete_the_evaluation(where, step, copied, call, monkeypatch):
    """Scripts use `evaluation.json` as the sign of a finished run, so an interrupted one must not have it."""
    directory, argv = copied
    method = getattr(callbacks.StopWhen, where)

    def interrupted(self, *args):
        signal.raise_signal(signal.SIGTERM)
        return method(self, *args)

    monkeypatch.setattr(callbacks.StopWhen, where, interrupted)
    stopped = call(*argv, "--train.steps", 40).result
    assert (stopped["status"], stopped["step"]) == ("interrupted", step)
    assert not (directory / "evaluation.json").exists()


def test_a_finished_run_is_evaluated_again_with_other_evaluation_settings(copied, call, monkeypatch):
    directory, argv = copied
    monkeypatch.setattr(plots, "plot_all", lambda *_: [])
    again = call(*argv, "--evaluation.num-samples", 6).result
    assert again["num_samples"] == 6
    stored = json.loads((directory / "evaluation.json").read_text())
    assert (stored["num_samples"], stored["nll"]) == (6, again["nll"])
    (directory / "report.html").unlink()  # as if a full disk had refused it
    assert call(*argv, "--evaluation.num-samples", 6).result["nll"] == again["nll"]
    assert (directory / "report.html").exists()
    assert "nll" not in call(*argv, "--evaluation.num-samples", 0).result


@pytest.mark.fault
def test_more_steps_with_a_schedule_are_reported_and_stored_and_fewer_are_refused(copied, call, monkeypatch):
    directory, argv = copied
    monkeypatch.setattr(plots, "plot_all", lambda *_: [])
    before = (directory / "config.json").read_bytes()
    fewer = call(*argv, "--train.steps", 10)
    assert (fewer.code, fewer.out) == (2, [])
    assert fewer.err[-1] == f"vae-jax: train.steps=10 must be at least 20, the newest step in {directory}"
    assert (directory / "config.json").read_bytes() == before
    more = call(*argv, "--train.steps", 25)
    message = (
        "train.steps changes from 20 to 25 at step 20, and with it the learning rate (schedule=cosine spans all steps)"
    )
    assert [line for line in more.err if line.startswith("train.steps changes ")] == [message]
    stored = json.loads((directory / "config.json").read_text())["changes"]
    assert stored == [{"step": 20, "setting": "train.steps", "from": 20, "to": 25}]
    again = call(*argv, "--train.steps", 25)
    assert not any(line.startswith("train.steps changes ") for line in again.err)
    assert again.result["step"] == 25


@pytest.mark.fault
@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--preset", "mnits"], ["--preset=mnits must be one of", "did you mean 'mnist'?"]),
        (
            ["--modle.hidden", "3"],
            ["--modle.hidden", "did you mean --network.hidden or --posterior.hidden or --prior.hidden?"],
        ),
        (["--optimizer.learning-rate", "-1"], ["optimizer.learning_rate=-1.0", "greater than 0"]),
        (["--optimizer.learning-rate", "nan"], ["optimizer.learning_rate=nan", "finite"]),
        (["--optimizer.learning-rate", "fast"], ["--optimizer.learning-rate", "fast"]),
        (["--train.steps", "1.5"], ["--train.steps", "1.5"]),
        (["--objective", "elbow"], ["objective='elbow'", "did you mean 'elbo'?"]),
        (["--train.batch-size", "1296"], ["train.batch_size=1296", "at most", "1294"]),
        (["--train.batch-size", "21"], ["train.batch_size=21", "multiple of the 8 devices", "example 24"]),
        (["--mesh.data", "9"], ["mesh.data=9", "at most", "8 devices"]),
        (["--data.name", "mnist"], ["data.name='mnist' is not prepared", "run `vae-jax data prepare mnist`"]),
        (["--data.name", "digitz"], ["data.name='digitz'", "did you mean 'digits'?"]),
        (["--posterior", "deterministic"], ["objective=elbo", "posterior=deterministic"]),
        (["--likelihood", "logistic-mixture"], ["preprocess=dynamic-binarization", "likelihood=logistic-mixture"]),
        (["--network", "conv", "--network.tied"], ["network.tied has no effect with network=conv", "network=mlp"]),
        (["--train.patience", "2", "--train.evaluate-every", "0"], ["train.patience=2"]),
        (["--seed", "4294967296"], ["seed=4294967296"]),
        (
            ["--network.tied", "--likelihood", "logistic-mixture", "--preprocess", "scale"],
            ["network.tied=True"],
        ),
        (["--allow-change", "seed", "--allow-change", "data.name"], ["--allow-change is given twice"]),
        (["--allow-change", "seed", "--allow_change=data.name"], ["--allow-change is given twice"]),
        (["--workdir", ""], ["--workdir='' must be a directory"]),
        (["extra"], ["extra"]),
    ],
)
def test_train_refuses(flags, words, data_dir, tmp_path, monkeypatch, call):
    monkeypatch.chdir(tmp_path)
    argv = ["train", "--workdir", tmp_path / "run", "--data.data-dir", data_dir, "--compilation-cache", "None"]
    check_refusal(call, tmp_path, [*argv, *flags], *words)


class Unpickled:
    def __reduce__(self):
        return (Path.touch, (Path("unpickled"),))


@pytest.mark.fault
def test_train_refuses_files_without_images(tmp_path, monkeypatch, call):
    monkeypatch.chdir(tmp_path)
    np.savez("floats.npz", images=np.full((20, 4, 4), 1.5, np.float32))
    np.savez("objects.npz", images=np.array([Unpickled()] * 20, dtype=object))
    argv = ["train", "--workdir", "run", "--compilation-cache", "None", "--data.name"]
    check_refusal(call, tmp_path, [*argv, "floats.npz"], "floats.npz'", "from 1.5 to 1.5", "scale them to [0, 1]")
    check_refusal(
        call,
        tmp_path,
        [*argv, "objects.npz"],
        "objects.npz' ",
        "pickled Python objects, which are never loaded",
    )
    check_refusal(call, tmp_path, [*argv, "absent.npz"], "absent.npz' does not exist")
    np.savez("bytes.npz", images=np.zeros((20, 4, 4), np.uint8))
    without = [*argv, "bytes.npz", "--data.holdout", "0", "--train.batch-size", "8"]
    check_refusal(call, tmp_path, without, "data.holdout=0.0 results in no test examples")


@pytest.mark.fault
def test_train_refuses_the_directory_of_another_config(copied, call):
    directory, argv = copied
    check_refusal(call, directory, [*argv, "--seed", "1"], f"seed=1 differs from 0 in {directory}", "another --workdir")
    words = ["model.latent_dim=3 differs from 2 in ", "network.hidden=[9] differs from [8] in "]
    check_refusal(call, directory, [*argv, "--model.latent-dim", "3", "--network.hidden", "9"], *words)


@pytest.mark.fault
@pytest.mark.parametrize("workdir", ["file", "file/below/it", "/proc/nonexistent", "a" * 300])
def test_a_directory_that_cannot_be_created_is_refused_before_compilation(
    workdir, data_dir, tmp_path, monkeypatch, call
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("vae_jax.runs.fit", None)
    Path("file").write_text("mine")
    argv = ["train", "--workdir", workdir, "--data.data-dir", data_dir, "--compilation-cache", "None"]
    check_refusal(call, tmp_path, argv, workdir, code=5)


def test_a_finished_run_ends_with_a_table_on_a_terminal(copied, call, monkeypatch, tmp_path):
    _, argv = copied
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    done = call(*argv)
    assert done.result["status"] == "done"
    assert len(done.out) == 1
    (start,) = (i for i, line in enumerate(done.err) if line.endswith("step 20, 359 test examples"))
    table = {line[:16].strip(): line[16:].strip() for line in done.err[start + 1 :]}
    numbers = done.result
    assert table["ELBO"] == f"{numbers['elbo']:.2f} +/- {numbers['elbo_se']:.2f} nats"
    assert table["NLL"] == f"{numbers['nll']:.2f} +/- {numbers['nll_se']:.2f} nats, K=4"
    assert table["bits/dim"] == f"{numbers['bits_per_dim']:.3f} of the NLL"
    assert table["active units"] == str(numbers["active_units"])
    assert {"config.json", "evaluation.json", "figures/", "checkpoints/"} <= set(table["files"].split(", "))


def test_the_table_states_what_is_undefined_and_the_seconds(tmp_path):
    single = {"step": 5, "num_examples": 1, "split": "test", "elbo": -3.0, "elbo_se": None, "classifier_error": 0.0,
              "classifier_error_se": None, "undefined": [], "active_units": 2}  # fmt: skip
    rows = [" ".join(line.split()) for line in train.results_table(single, RunDirectory(tmp_path)).splitlines()[1:3]]
    assert rows == ["ELBO -3.00 nats", "error of q(y|x) 0.00 %"]
    result = {"step": 5, "num_examples": 7, "split": "test", "reconstruction": -3.0, "reconstruction_se": 0.5,
              "undefined": ["elbo", "nll"], "active_units": 2, "train_seconds": 1.25, "seconds": 3,
              "code_perplexity": 5.25, "code_usage": 0.75}  # fmt: skip
    lines = train.results_table(result, RunDirectory(tmp_path)).splitlines()
    assert [" ".join(line.split()) for line in lines[1:]] == [
        "reconstruction -3.00 +/- 0.50 nats", "ELBO undefined", "NLL undefined", "active units 2",
        "codes perplexity 5.2, 75% in use", "seconds 1.2 to the last step, 3.0 in all", "files",
    ]  # fmt: skip
