"""vae_jax/cli/export.py: the exported programs, and refused options."""

import json

import numpy as np
import pytest
from jax.export import deserialize

from vae_jax.runs import decoding, opening, restoring


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
        "step": 20, "binarization": "dynamic", "platforms": result["platforms"], "programs": result["programs"],
    }  # fmt: skip
    decoder = deserialize(bytearray((directory / "exported" / result["programs"]["decoder"]["file"]).read_bytes()))
    run = opening.open_run(directory)
    z = np.random.default_rng(0).normal(size=(5, 2)).astype(np.float32)
    with restoring.restored_params(run, print) as (_, params):
        np.testing.assert_allclose(decoder.call(z), decoding.decode_images(run, params, z), rtol=1e-5)


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["export", "EMPTY"], ["contains no run"]),
        (["export", "RUN", "--cout", "3"], ["--cout"]),
    ],
)
def test_export_refuses(argv, words, refuses):
    refuses(argv, *words)
