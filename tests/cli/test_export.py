"""vae_jax/cli/export.py: the exported programs, and refused options."""

import json

import jax
import numpy as np
import pytest
from jax.export import deserialize

from vae_jax.runs import opening, restoring
from vae_jax.runs.generation import decoding


def test_export(copied, call):
    directory, _ = copied
    result = call("export", directory).result
    assert (result["step"], result["platforms"]) == (20, ["cpu", "cuda", "rocm", "tpu"])
    assert {name: (program["takes"], program["gives"]) for name, program in result["programs"].items()} == {
        "encoder": ("float32[B,8,8,1]", {"mean": "float32[B,2]", "scale": "float32[B,2]"}),
        "decoder": ("float32[B,2]", "float32[B,8,8,1]"),
        "sampler": ("uint32[B,2]", "float32[B,8,8,1]"),
    }
    assert json.loads((directory / "exported" / "programs.json").read_text()) == {
        "step": 20, "kind": "images", "preprocess": "dynamic-binarization", "platforms": result["platforms"],
        "programs": result["programs"],
    }  # fmt: skip
    decoder = deserialize(bytearray((directory / "exported" / result["programs"]["decoder"]["file"]).read_bytes()))
    experiment, place, placement, changed = opening.open_run(directory)
    z = np.random.default_rng(0).normal(size=(5, 2)).astype(np.float32)
    assert {name: program["gradient"] for name, program in result["programs"].items()} == {
        "encoder": True, "decoder": True, "sampler": False,
    }  # fmt: skip
    assert np.abs(jax.grad(lambda z: decoder.call(z).sum())(z)).max() > 0
    with restoring.restored_params(experiment, place, placement, print, changed=changed) as (_, params):
        np.testing.assert_allclose(decoder.call(z), decoding.decode_codes(experiment, params, z, placement), rtol=1e-5)


@pytest.mark.thorough
def test_the_decoder_of_counts_is_not_clipped_to_the_range_of_images(trained_on_counts, tmp_path, call):
    result = call("export", trained_on_counts, "--to", tmp_path).result
    assert (result["kind"], result["preprocess"]) == ("counts", "identity")
    assert result["programs"]["encoder"]["takes"] == "float32[B,5]"
    decoder = deserialize(bytearray((tmp_path / "exported" / "decoder.jax").read_bytes()))
    assert (np.asarray(decoder.call(np.zeros((3, 2), np.float32))) > 1).any()


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["export", "EMPTY"], ["contains no run"]),
        (["export", "RUN", "--cout", "3"], ["--cout"]),
    ],
)
def test_export_refuses(argv, words, refuses):
    refuses(argv, *words)
