"""Small models whose latent is a grid of codes, and their experiments."""

from small_experiments import SETTINGS, images

from vae_jax.config import Config, apply_overrides
from vae_jax.runs.experiment.experiment import build_experiment

FSQ = {"model": "codes", "posterior": "fsq", "posterior__levels": (2, 2), "model__places": 2, "prior": "uniform-codes"}


def code_config(**settings):
    """Return the config of a small FSQ with some settings replaced, for example posterior="vq"."""
    own = {"posterior__levels": None} if settings.get("posterior", "fsq") != "fsq" else {}
    given = {path.replace("__", "."): value for path, value in (FSQ | own | settings).items()}
    small = {path: value for path, value in SETTINGS.items() if path != "model.latent_dim"}
    return apply_overrides(Config(), small | {path: value for path, value in given.items() if value is not None})


def code_experiment(source=None, **settings):
    """Return the experiment of `code_config` on stripes."""
    return build_experiment(code_config(**settings), source=source or images())
