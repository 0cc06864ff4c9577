"""One run with integer codes and every command on it: figures, codes as integers, a fitted prior, export."""

import jax
import numpy as np
import pytest
from commands import SMALL, check_refusal

LEVELS, PLACES = 4, 3


LATENT = SMALL.index("--model.latent-dim")
SETTINGS = [
    "--model", "codes", "--model.places", PLACES, "--posterior", "fsq", "--posterior.levels", LEVELS, "--prior",
    "uniform-codes", "--train.steps", 10, "--mesh.data", 1, *SMALL[:LATENT], *SMALL[LATENT + 2 :],
]  # fmt: skip


@pytest.mark.thorough
def test_a_run_whose_codebook_is_a_collection_is_evaluated(tmp_path, call):
    np.save(tmp_path / "images.npy", np.random.default_rng(0).integers(0, 256, (60, 6, 6), dtype=np.uint8))
    flags = [flag for flag in SETTINGS if flag not in ("--posterior.levels", LEVELS)]
    flags[flags.index("fsq")] = "vq"
    run = tmp_path / "run"
    trained = call("train", "--workdir", run, "--data.name", tmp_path / "images.npy", *flags,
                   "--posterior.codebook-size", 4).result  # fmt: skip
    assert call("evaluate", run).result["elbo"] == pytest.approx(trained["elbo"])


def test_the_commands_on_a_run_with_codes(tmp_path, call):
    np.save(tmp_path / "images.npy", np.random.default_rng(0).integers(0, 256, (60, 6, 6), dtype=np.uint8))
    run = tmp_path / "run"
    trained = call("train", "--workdir", run, "--data.name", tmp_path / "images.npy", *SETTINGS).result
    assert trained["bits_per_code"] == pytest.approx(2)
    assert 0 < trained["code_usage"] <= 1 <= trained["code_perplexity"] <= LEVELS
    assert (trained["num_samples"], trained["nll"]) == (1, pytest.approx(-trained["elbo"]))
    names = {path.stem for path in (run / "figures").iterdir()}
    assert names == {"samples", "reconstructions", "code_usage", "codebook", "uniform_samples", "curves"}

    encoded = call("encode", run, "--split", "all").result["codes"]
    with np.load(encoded, allow_pickle=False) as arrays:
        assert set(arrays) == {"codes", "index", "split"}
        codes = arrays["codes"]
    assert (codes.shape, codes.dtype, codes.min() >= 0, codes.max() < LEVELS) == ((60, PLACES), np.int32, True, True)
    decoded = call("sample", run, "--codes", encoded, "--to", tmp_path / "out").result
    images = np.load(decoded["samples"])
    assert (images.shape, images.dtype) == ((60, 6, 6, 1), np.uint8)
    same = (codes[:, None] == codes[None]).all(axis=-1)
    assert (np.abs(images[:, None].astype(int) - images[None]).max(axis=(2, 3, 4)) == 0)[same].all()

    fitted = call("fit-prior", run, "--prior", "transformer-codes", "--prior.layers", 1, "--prior.width", 8,
                  "--steps", 4, "--batch-size", 8).result  # fmt: skip
    assert fitted["train"]["uniform_log_prob"] == pytest.approx(-PLACES * np.log(LEVELS))
    own, replaced = (call("evaluate", run, "--split", "validation", "--prior", name).result
                     for name in ("model", "fitted"))  # fmt: skip
    assert own["kl"] == pytest.approx(PLACES * np.log(LEVELS))
    assert replaced["kl"] == pytest.approx(-fitted["validation"]["log_prob"], abs=3e-3)  # other draws of the pixels
    assert abs(replaced["kl"] - own["kl"]) > 1e-2
    assert replaced["reconstruction"] == pytest.approx(own["reconstruction"], rel=1e-5)
    samples = call("sample", run, "--prior", "fitted", "--count", 5).result
    assert np.load(samples["samples"]).shape == (5, 6, 6, 1)

    call("export", run)
    decoder = jax.export.deserialize(bytearray((run / "exported" / "decoder.jax").read_bytes()))
    exported = decoder.call(codes[:4].astype(np.int32))
    np.testing.assert_allclose(np.rint(np.asarray(exported) * 255), images[:4], atol=1)

    np.savez(tmp_path / "wrong.npz", codes=codes + LEVELS)
    np.savez(tmp_path / "floats.npz", mean=codes.astype(np.float32))
    refusals = {
        ("sample", run, "--codes", tmp_path / "wrong.npz"): "the codes of this model are 0 to 3",
        ("sample", run, "--codes", tmp_path / "floats.npz"): "use the codes of this model, integers [N, 3]",
        ("sample", run, "--codes", tmp_path / "images.npy"): "is no file of `vae-jax encode`",
        ("sample", run, "--codes", encoded, "--prior", "fitted"): "and --seed have no effect with --codes",
        ("sample", run, "--codes", encoded, "--count", 4): "and --seed have no effect with --codes",
        ("sample", run, "--codes", encoded, "--seed", 0): "and --seed have no effect with --codes",
        ("interpolate", run): "codes of the model are integers",
        ("fit-prior", run, "--prior", "mixture"): "for codes that are integers",
        ("evaluate", run, "--prior", "fitted", "--likelihood", "ais"): "--prior=fitted has no effect with --likelihood",
        ("evaluate", run, "--prior", "fitted", "--likelihood", "optimized"): "--prior=fitted has no effect",
    }
    for argv, words in refusals.items():
        check_refusal(call, tmp_path, list(argv), words)
