"""Directories of runs for reports, written without training."""

import json

import numpy as np
from PIL import Image

from vae_jax.config import PRESETS, flatten, override
from vae_jax.runs import RunDirectory

EVALUATION = {
    "step": 20, "split": "test", "num_examples": 40, "likelihood": "bernoulli", "batch_size": 80, "seed": 0,
    "training_examples": "a" * 64, "test_examples": "b" * 64, "preprocess": "dynamic-binarization",
    "num_samples": 5000, "chunk": 20, "reconstruction": -18.0, "reconstruction_se": 0.2, "kl": 4.5, "elbo": -22.5,
    "elbo_se": 0.25, "active_units": 6, "squared_error": 5.0, "psnr": 11.0, "nll": 22.125, "nll_se": 0.1875,
    "ess": 480.5, "pareto_k": 0.55, "pareto_k_above": 0.25,
    "undefined": {}, "warnings": [], "bits_per_dim_of": "nll", "bits_per_dim": 0.51,
}  # fmt: skip
ENVIRONMENT = {
    "versions": {"vae-jax": "0.2.0", "jax": "0.10.2"}, "python": "3.11.2", "platform": "Linux x86_64",
    "processor": "A processor", "cores": 2, "device": "cpu", "num_devices": 1, "num_processes": 1,
    "started": "2026-01-02T03:04:05+00:00", "first_step": 0, "last_step": 20, "seconds": 12.5,
}  # fmt: skip


def write_run(path, *, evaluation=EVALUATION, scores=None, settings=(), rows=None, figures=("samples",)):
    """Write the files of a run with the settings of `digits`; evaluation and scores of None write no such file."""
    directory = RunDirectory(path)
    path.mkdir(parents=True)
    flat = flatten(override(PRESETS["digits"], **dict(settings)))
    x = {"shape": [8, 8, 1], "dtype": "uint8", "sha256": "c" * 64}
    data = {"kind": "images", "num_examples": 1294, "arrays": {"x": x}}
    held_out = {"test": {"num_examples": 40, "sha256": "b" * 64}}
    content = {"format": 2, "has_config": True, "settings": flat, "data": data, "held_out": held_out}
    directory.config.write_text(json.dumps(content))
    if rows is None:
        rows = [{"step": step, "bound": -30 + step / 4, "kl": 3.0 + step / 20} for step in (5, 10, 15, 20)]
        rows.append({"step": 20, "validation_bound": -26.0})
    directory.metrics.write_text("".join(json.dumps(row) + "\n" for row in rows))
    directory.environment.write_text(json.dumps(ENVIRONMENT))
    directory.figure("x").parent.mkdir()
    for name in figures:
        Image.fromarray(np.zeros((4, 6, 3), np.uint8)).save(directory.figure(name))
    if scores is not None:
        np.savez(directory.scores("test"), **scores)
        evaluation = evaluation | {name: float(np.mean(s, dtype=np.float64)) for name, s in scores.items()}
    if evaluation is not None:
        directory.evaluation.write_text(json.dumps(evaluation))
    return directory
