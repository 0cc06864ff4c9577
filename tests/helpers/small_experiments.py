"""A small experiment of each kind of data, whose steps take milliseconds, and its initial parameters."""

import jax.numpy as jnp
import numpy as np

from vae_jax.config import Config, apply_overrides
from vae_jax.data import from_arrays
from vae_jax.runs.experiment.experiment import build_experiment

SETTINGS = {
    "network.hidden": (8,), "model.latent_dim": 2, "schedule": "constant", "train.steps": 20, "train.batch_size": 16,
    "train.log_every": 5, "train.evaluate_every": 0, "train.save_every": 10, "evaluation.num_samples": 4,
    "evaluation.chunk": 2,
}  # fmt: skip


def images(count=60, labels=True, seed=0):
    """Source of stripes, uint8 [count, 8, 8, 1], labelled by their direction."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 2, count).astype(np.int32)
    stripes = np.where(np.arange(8)[None] % 4 < 2, 200, 30) + rng.integers(-30, 31, (count, 8, 8))
    x = np.where(y[:, None, None] == 1, stripes, stripes.swapaxes(1, 2))
    return from_arrays(x.astype(np.uint8), y if labels else None, holdout=0.3)


def counts(count=60, dimensions=6, labels=True, seed=0):
    """Source of negative binomial counts of two classes, int32 [count, dimensions]."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 2, count).astype(np.int32)
    mean = np.exp(rng.normal(1.0, 1.0, (2, dimensions)))[y]
    x = rng.poisson(mean * rng.gamma(2.0, 0.5, (count, dimensions)))
    return from_arrays(x, y if labels else None, holdout=0.3)


def vectors(count=60, dimensions=3, labels=True, seed=0):
    """Source of a mixture of two Gaussians, float32 [count, dimensions]."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 2, count).astype(np.int32)
    x = np.where(y == 1, 2.0, -2.0)[:, None] + rng.normal(size=(count, dimensions))
    return from_arrays(x.astype(np.float32), y if labels else None, holdout=0.3)


def image_experiment(source=None, **settings):
    """Return the experiment on `images()` with some settings replaced, for example model__latent_dim=3."""
    return _build(source or images(), {}, settings)


def count_experiment(source=None, **settings):
    """Return the experiment on `counts()` with some settings replaced."""
    defaults = {"preprocess": "identity", "likelihood": "negative-binomial", "network.log1p": True}
    return _build(source or counts(), defaults, settings)


def vector_experiment(source=None, **settings):
    """Return the experiment on `vectors()` with some settings replaced."""
    return _build(source or vectors(), {"preprocess": "identity", "likelihood": "learned-gaussian"}, settings)


def _build(source, defaults, settings):
    given = {path.replace("__", "."): value for path, value in settings.items()}
    return build_experiment(apply_overrides(Config(), SETTINGS | defaults | given), source=source)


def far_mixture():
    """Return an image experiment and parameters with p(z) = N((5, 1), 0.2²)/4 + N((5, -3), 0.4²)·3/4."""
    experiment = image_experiment(prior="mixture", prior__components=2)
    prior = {
        "logits": jnp.log(jnp.array([1.0, 3.0])),
        "loc": jnp.array([[5.0, 1.0], [5.0, -3.0]]),
        "log_scale": jnp.log(jnp.array([[0.2, 0.2], [0.4, 0.4]])),
    }
    return experiment, initial_params(experiment) | {"prior": prior}


def initial_params(experiment):
    """Return the parameters before the first step."""
    return experiment.evaluation_params(experiment.initial_state(experiment.key))


def examples_of(experiment, count=None):
    return {name: array[:count] for name, array in experiment.dataset("test").arrays.items()}
