"""vae_jax/cli/sample.py: samples depend on the seed only, and refused options."""

import numpy as np
import pytest
from commands import FIGURES, SMALL, check_refusal, read_png

from vae_jax.runs import plots


def test_sample(copied, call):
    directory, _ = copied
    result = call("sample", directory, "--count", 7, "--seed", 3).result
    first = np.load(result["samples"], allow_pickle=False)
    assert (first.shape, first.dtype) == ((7, 8, 8, 1), np.uint8)
    (figure,) = result["figures"]
    assert figure == str(directory / "figures" / "samples.png")
    read_png(figure)
    again, other = (
        np.load(call("sample", directory, "--count", 7, "--seed", seed).result["samples"]) for seed in (3, 4)
    )
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_samples_of_counts_are_counts_and_are_compared_with_the_data(trained_on_counts, tmp_path, call):
    result = call("sample", trained_on_counts, "--count", 7, "--to", tmp_path).result
    samples = np.load(result["samples"], allow_pickle=False)
    assert (samples.shape, samples.dtype) == ((7, 5), np.int64)
    assert (samples >= 0).all()
    assert len(np.unique(samples)) > 2
    assert [path.removeprefix(str(tmp_path)) for path in result["figures"]] == [
        "/figures/mean_variance.png", "/figures/zero_fractions.png",
    ]  # fmt: skip
    for path in result["figures"]:
        read_png(path)
    more = np.load(call("sample", trained_on_counts, "--count", 9, "--to", tmp_path).result["samples"])
    np.testing.assert_array_equal(more[:7], samples)


def test_samples_at_a_low_temperature_are_similar(copied, call):
    directory, _ = copied
    result = call("sample", directory, "--count", 20).result
    usual = np.load(result["samples"]).astype(float)
    cold = np.load(call("sample", directory, "--count", 20, "--temperature", 0.1).result["samples"]).astype(float)
    assert cold.std(axis=0).mean() < 0.3 * usual.std(axis=0).mean()


def test_output_that_cannot_be_written_is_one_line_and_exit_code_5(copied, call):
    directory, _ = copied
    (directory / "samples.npy").mkdir()
    refused = call("sample", directory, "--count", 2)
    assert (refused.code, refused.out) == (5, [])
    assert refused.err == [f"vae-jax: cannot write {directory / 'samples.npy'}: Is a directory"]


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["sample", "EMPTY"], ["contains no run"]),
        (["sample", "RUN", "--count", "0"], ["--count=0"]),
        (["sample", "RUN", "--seed", "9" * 20], ["--seed=9999"]),
        (["sample", "RUN", "--temperature", "0"], ["--temperature=0.0 must be greater than 0"]),
        (["sample", "RUN", "--condition", "1"], ["--condition=1 has no effect with a model that reads no labels"]),
        (["sample", "RUN", "--temperature", "nan"], ["--temperature=nan must be greater than 0"]),
    ],
)
def test_sample_refuses(argv, words, refuses):
    refuses(argv, *words)


def test_samples_of_a_model_that_reads_labels(tmp_path, call):
    """One run: training, samples of each class and of one class, and labels that are refused."""
    rng, labels = np.random.default_rng(0), np.arange(60) % 3
    images = rng.integers(0, 256, (60, 6, 6), dtype=np.uint8)
    np.savez(tmp_path / "data.npz", x=images, y=labels)
    np.save(tmp_path / "unlabelled.npy", images)
    run, out = tmp_path / "run", tmp_path / "out"
    settings = ["--model", "conditional", "--model.num-classes", 3, "--train.label-dropout", 0.2, "--train.steps", 10,
                "--mesh.data", 1, *SMALL]  # fmt: skip
    trained = call("train", "--workdir", run, "--data.name", tmp_path / "data.npz", *settings).result
    assert trained["status"] == "done"
    names = {path.stem for path in (run / "figures").iterdir()}
    assert names == FIGURES | {"samples_by_class", "styles", "reliability"}

    result = call("sample", run, "--count", 7, "--to", out).result
    assert np.load(result["labels"]).tolist() == [0, 0, 0, 1, 1, 2, 2]
    assert result["figures"] == [str(out / "figures" / "samples_by_class.png")]
    every, one = np.load(result["samples"]), call("sample", run, "--count", 7, "--condition", 1, "--to", out).result
    assert np.load(one["labels"]).tolist() == [1] * 7
    assert one["figures"] == [str(out / "figures" / "samples-condition-1.png")]
    same = (np.load(one["samples"]) == every).all(axis=(1, 2, 3))  # the codes of equal classes are equal
    assert same.tolist() == [False, False, False, True, True, False, False]

    check_refusal(call, tmp_path, ["sample", run, "--condition", 3], "--condition=3 must be at least 0 and less than")
    unlabelled = ["evaluate", run, "--data.name", tmp_path / "unlabelled.npy"]
    check_refusal(call, tmp_path, unlabelled, "unlabelled.npy has no labels, which the model reads")
    new = ["train", "--workdir", tmp_path / "new", "--data.name", tmp_path / "unlabelled.npy", *settings]
    check_refusal(call, tmp_path, new, "unlabelled.npy has no labels, which the model reads")


@pytest.mark.thorough
def test_samples_of_counts_of_one_class_are_compared_with_that_class(tmp_path, call, monkeypatch):
    rng, compared = np.random.default_rng(0), []
    np.savez(tmp_path / "data.npz", x=rng.poisson(3, (90, 4)), y=np.arange(90) % 3, mask=np.arange(90) % 4 > 0)
    settings = ["--model", "conditional", "--model.num-classes", 3, "--likelihood", "poisson", "--preprocess",
                "identity", "--train.steps", 2, "--mesh.data", 1, *SMALL]  # fmt: skip
    monkeypatch.setattr(plots, "plot_all", lambda *_: [])
    assert call("train", "--workdir", tmp_path / "run", "--data.name", tmp_path / "data.npz", *settings).result
    monkeypatch.setattr(plots, "plot_kind", lambda e, p, d, arrays, *_, **__: compared.append(arrays) or [])
    assert call("sample", tmp_path / "run", "--condition", 1, "--count", 2).result
    assert call("sample", tmp_path / "run", "--count", 2).result
    assert [np.unique(arrays["y"]).tolist() for arrays in compared] == [[1], [0, 1, 2]]
    assert [arrays["mask"].all() for arrays in compared] == [True, False]  # an unknown label is of no class
