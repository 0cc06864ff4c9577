"""vae_jax/cli/evaluate.py: the numbers of a run on a split, progress, and refused options."""

import json

import numpy as np
import pytest
from commands import snapshot
from inputs import random_images

from vae_jax.cli.evaluate import Evaluate
from vae_jax.runs import plots
from vae_jax.runtime import host


def test_evaluate(trained, call, monkeypatch):
    directory, _, out, _ = trained
    first, before = json.loads(out.splitlines()[-1]), snapshot(directory)
    result = call("evaluate", directory).result  # on eight devices
    for name in ("reconstruction", "kl", "elbo", "nll", "nll_se", "ess"):
        assert result[name] == pytest.approx(first[name], rel=1e-5), name
    monkeypatch.setattr(host, "free_memory", lambda devices=1: 0)
    reduced = call("evaluate", directory, "--split", "validation", "--num-samples", 0)
    assert any("do not fit in the free memory; the evaluation uses 8 and 1, with" in line for line in reduced.err)
    other = reduced.result
    assert (other["split"], other["num_examples"], other["batch_size"]) == ("validation", 144, 8)
    assert "nll" not in other
    assert snapshot(directory) == before


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["evaluate"], ["no run directory", "vae-jax evaluate RUN"]),
        (["evaluate", "EMPTY"], ["contains no run (config.json is missing)"]),
        (["evaluate", "RUN", "--split", "tset"], ["split='tset' is not a split; use train, validation, test or all"]),
        (["evaluate", "RUN", "--num-samples", "-1"], ["evaluation.num_samples=-1"]),
        (["evaluate", "RUN", "--chunk", "-1"], ["evaluation.chunk=-1"]),
        (["evaluate", "RUN", "--ais.chains", "8"], ["--ais.* has no effect with --likelihood=importance"]),
        (
            ["evaluate", "RUN", "--likelihood", "ais", "--optimized.steps", "8"],
            ["--optimized.* has no effect"],
        ),
        (
            ["evaluate", "RUN", "--likelihood", "ais", "--per-example"],
            ["--per-example has no effect with --likelihood"],
        ),
        (["evaluate", "RUN", "--likelihood", "ais", "--ais.simulated=-1"], ["--ais.simulated=-1 must be at least 0"]),
        (["evaluate", "RUN", "--likelihood", "ais", "--ais.chains", "0"], ["--ais.chains=0 must be greater than 0"]),
        (["evaluate", "RUN", "--likelihood", "ais", "--ais.examples", "400"], ["must be from 1 to 359"]),
        (["evaluate", "RUN", "--likelihood", "optimized", "--optimized.steps", "0"], ["must be greater than 0"]),
    ],
)
def test_evaluate_refuses(argv, words, refuses):
    refuses(argv, *words)


def test_names_of_files_contain_the_prior_and_that_of_scores_k():
    given = [{}, {"num_samples": 5}, {"prior": "fitted", "num_samples": 5}, {"split": "train"}]
    names = [(options.label, options.variant) for options in (Evaluate(**settings) for settings in given)]
    assert names == [("test", ""), ("test-K5", ""), ("test-fitted-K5", "test-fitted"), ("train", "train")]


def test_scores_of_each_example_and_an_evaluation_on_other_data(trained_on_file, call):
    directory, *_ = trained_on_file
    result = call("evaluate", directory, "--per-example").result
    others = call("evaluate", directory, "--per-example", "--num-samples", 3).result
    assert (result["scores"], others["scores"]) == tuple(
        str(directory / f"scores-{name}.npz") for name in ("test", "test-K3")
    )
    with np.load(result["scores"], allow_pickle=False) as scores:
        assert scores["index"].shape == (6,)
        for name in ("reconstruction", "kl", "elbo", "nll"):
            assert scores[name].mean(dtype=np.float64) == pytest.approx(result[name], rel=1e-6)
    np.savez(directory.parent / "new.npz", x=random_images(9, 6, 6, seed=5), y=np.arange(9))
    before = snapshot(directory)
    other = call(
        "evaluate", directory, "--data.name", "new.npz", "--per-example", "--to", directory.parent / "to"
    ).result
    assert (other["split"], other["num_examples"], other["data"]) == ("all", 9, "new.npz")
    assert "examples" not in result
    np.savez(directory.parent / "newer.npz", x=random_images(9, 6, 6, seed=6), y=np.arange(9))
    ais = (
        "--likelihood",
        "ais",
        "--ais.distributions",
        2,
        "--ais.chains",
        1,
        "--ais.examples",
        1,
        "--ais.simulated",
        0,
    )
    optimized = ("--likelihood", "optimized", "--optimized.steps", 1, "--optimized.samples", 2)
    stated = [
        call("evaluate", directory, "--data.name", name, "--to", directory.parent / "to", *flags).result
        for name, flags in (("new.npz", ais), ("new.npz", optimized), ("newer.npz", optimized))
    ]
    assert other["examples"] == stated[0]["examples"] == stated[1]["examples"] != stated[2]["examples"]
    assert all("test_examples" in evaluation for evaluation in (result, others))
    assert not any("test_examples" in evaluation for evaluation in (other, *stated))
    with np.load(directory.parent / "to" / "scores-new-all.npz", allow_pickle=False) as scores:
        assert scores["label"].tolist() == list(range(9))
        assert scores["nll"].shape == (9,)
    assert snapshot(directory) == before


@pytest.mark.fault
def test_examples_that_have_changed_are_listed(trained_on_file, call):
    directory, *_ = trained_on_file
    images = np.load("images.npy")
    np.save("images.npy", np.concatenate([images, images[::-1]]))
    refused = call("evaluate", directory)
    assert refused.code == 2
    line = refused.err[-1]
    assert (
        "(train: 49 examples then, 97 now; validation: 5 examples then, 11 now; test: 6 examples then, 12 now)" in line
    )
    assert "restore them, evaluate the model on other examples with --data.name NAME, or continue the training" in line


def test_annealed_importance_sampling_is_stored_and_reported(copied, call, monkeypatch):
    directory, argv = copied
    monkeypatch.setattr(plots, "plot_all", lambda *_: [])
    flags = ["--likelihood", "ais", "--ais.distributions", 3, "--ais.chains", 2, "--ais.examples", 8]
    done = call("evaluate", directory, *flags, "--ais.simulated", 8)
    stored = json.loads((directory / "evaluation.json").read_text())
    (ais,) = stored["ais"]
    assert ais == {name: value for name, value in done.result.items() if name != "workdir"}
    assert ais["num_examples"] == ais["bdmc"]["num_examples"] == 8
    assert "AIS: 8 of 8 examples" in done.err
    assert "Annealed importance sampling" in (directory / "report.html").read_text()
    assert not list(directory.glob("ais-*"))
    again = call(*argv, "--evaluation.num-samples", 6)  # another evaluation of the same weights keeps it
    assert again.result["num_samples"] == 6
    assert json.loads((directory / "evaluation.json").read_text())["ais"] == [ais]


def test_the_gap_of_an_optimized_posterior_is_stored_and_reported(copied, call):
    directory, _ = copied
    flags = ["--likelihood", "optimized", "--optimized.steps", 3, "--optimized.samples", 30, "--optimized.examples", 8]
    done = call("evaluate", directory, *flags)
    assert {"nll", "elbo", "optimized_elbo", "approximation_gap", "amortization_gap", "seconds"} <= set(done.result)
    assert (done.result["num_examples"], done.result["evaluation_samples"], done.result["num_steps"]) == (8, 30, 3)
    assert "optimized posteriors: 8 of 8 examples" in done.err
    (stored,) = json.loads((directory / "evaluation.json").read_text())["optimized"]
    assert stored == {name: value for name, value in done.result.items() if name != "workdir"}
    assert "Gap between NLL and ELBO" in (directory / "report.html").read_text()
    before = (directory / "evaluation.json").read_bytes()
    call("evaluate", directory, *flags[:3], 4, *flags[4:], "--to", directory / "other")
    assert (directory / "evaluation.json").read_bytes() == before
