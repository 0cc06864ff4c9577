"""Flags, images and checks of the tests of commands."""

import hashlib
from pathlib import Path

import numpy as np
from PIL import Image

SMALL = [
    "--compilation-cache", "None", "--network.hidden", "8", "--model.latent-dim", "2", "--train.batch-size", "16",
    "--train.log-every", "5", "--train.evaluate-every", "10", "--train.save-every", "10",
    "--evaluation.num-samples", "4", "--evaluation.chunk", "3",
]  # fmt: skip
FIGURES = {
    "samples", "reconstructions", "interpolations", "traversals", "manifold", "latent_map", "prior_map", "curves",
}  # fmt: skip


def snapshot(folder):
    """Return {path: SHA-256 of a file, None for a folder} of everything below a folder."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None
        for path in sorted(Path(folder).rglob("*"))
    }


def read_png(path):
    """Check that a file is an intact PNG; return its pixels as RGB."""
    with Image.open(path) as image:
        image.verify()  # checksums
    with Image.open(path) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB"))


def check_refusal(call, folder, argv, *words, code=2):
    """Check that a command prints one line with these words, exits with a code, and changes nothing in a folder."""
    before = snapshot(folder)
    result = call(*argv)
    assert (result.code, result.out, len(result.err)) == (code, [], 1), (result.out, result.err)
    assert result.err[0].startswith("vae-jax: ")
    assert all(word in result.err[0] for word in words), result.err[0]
    assert snapshot(folder) == before
