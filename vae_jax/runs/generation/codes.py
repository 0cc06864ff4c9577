"""The codes of all examples of a data set, in a form from which samples of q(z|x) are drawn, and their moments."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from vae_jax import random
from vae_jax.data import Dataset
from vae_jax.distributions import Batch, LowerCholeskyAffine, Normal, from_posterior
from vae_jax.errors import InputError, NotFiniteError
from vae_jax.inference import Params, decode, encode
from vae_jax.runs.experiment.experiment import Experiment
from vae_jax.runs.experiment.labels import reads_conditions
from vae_jax.runs.generation.decoding import encode_examples, layer_shapes
from vae_jax.runs.generation.sampling import sample_posterior
from vae_jax.runtime import Placement

Codes = Mapping[str, np.ndarray]  # {"x": means [N, D], "scale": [N, D]}, or {"x": codes [N, S, D]}, also integers

SAMPLES = 8  # of each example, of a posterior that is no Normal
RIDGE = 1e-6  # a smaller ratio of the least to the largest variance is singular
_CHUNK = 10_000  # examples that are read, or codes whose moments are computed, at once


def code_size(experiment: Experiment, params: Params) -> int:
    """Return D, the dimension of the code of a model with one stochastic layer; nothing is computed.

    Args:
      experiment: its model is traced with abstract arrays.
      params: parameters of the model, or `Variables`.

    Raises:
      InputError: the model has several stochastic layers, or one whose value is not a vector.
    """
    shapes = layer_shapes(experiment, params)
    layer = next(iter(shapes.values()))
    if len(shapes) > 1 or layer.blocks is not None or len(layer.event) != 1:
        described = ", ".join(f"{name} {list(shape.event)}" for name, shape in shapes.items())
        raise InputError(
            f"model {type(experiment.model).__name__} has the stochastic layers {described}; a prior can be fitted to "
            "the codes of a model with one layer, whose value is a vector"
        )
    return layer.size


class CodeReader:
    """Reads the codes of data sets with one model, at the keys of its evaluations, and keeps those of each split.

    A code is the mean of q(z|x) if the posterior of all training examples has one scale, as that of an autoencoder with
    or without noise, or if it has one value, such as integer codes. Otherwise it is a sample.

    Args:
      experiment: its model and preprocessing are used.
      params: parameters of the model, or `Variables`.
      placement: the devices; None for those of the parameters.

    Attributes:
      training: the codes of the training examples.
      meaning: what a code is, "means" or "samples" of q(z|x).

    Raises:
      NotFiniteError: a code of a training example is not finite.
    """

    def __init__(self, experiment: Experiment, params: Params, placement: Placement | None = None):
        self._experiment, self._params, self._placement = experiment, params, placement
        self._has_moments = _has_moments(experiment, params)
        found = self._encode("train", experiment.training_data)
        self._are_means = "scale" in found and bool((found["scale"] == found["scale"][:1]).all())
        self.meaning = "means" if self._are_means else "samples"
        self.training = self._as_codes(found)
        self._splits: dict[str, Codes] = {}

    def check_model(self, experiment: Experiment, params: Params) -> None:
        """Raise InputError if the codes are those of another experiment or of other parameters."""
        if self._experiment is not experiment or self._params is not params:
            raise InputError("codes belong to another experiment or other parameters; pass a CodeReader of these")

    def read(self, split: str) -> Codes:
        """Return the codes of a split.

        Raises:
          NoExamplesError: the split is empty.
          NotFiniteError: a code is not finite.
        """
        if split not in self._splits:
            self._splits[split] = self._as_codes(self._encode(split, self._experiment.dataset(split)))
        return self._splits[split]

    def _encode(self, split: str, dataset: Dataset) -> dict[str, np.ndarray]:
        """Return `mean` and `scale` of q(z|x), [N, D], or samples `z`, [N, S, D]; examples are read in chunks."""
        context, key = (self._experiment, self._params), self._experiment.evaluation_key(split)
        parts: list[dict[str, np.ndarray]] = []
        for first in range(0, len(dataset), _CHUNK):
            arrays = dataset.read(np.arange(first, min(first + _CHUNK, len(dataset))))
            if self._has_moments:
                part = encode_examples(*context, key, arrays, self._placement, with_seen=False, first=first)
            else:
                samples = {"num_samples": SAMPLES, "first": first}
                part = {"z": sample_posterior(*context, key, arrays, self._placement, **samples)}
            parts.append(part)
        found = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        if not all(np.isfinite(array).all() for array in found.values()):
            raise NotFiniteError(f"codes of the split {split} are not finite; the model has diverged; train it again")
        return found

    def _as_codes(self, found: Codes) -> Codes:
        if "z" in found:
            return {"x": found["z"]}
        return {"x": found["mean"][:, None]} if self._are_means else {"x": found["mean"], "scale": found["scale"]}


def _has_moments(experiment: Experiment, params: Params) -> bool:
    """Return whether mean and scale describe q(z|x): it is a Normal, or has one value; nothing is computed.

    Raises:
      InputError: p(z) depends on the condition.
    """
    found: list[bool] = []

    def walk(params: Params, batch: Batch, key: Array) -> None:
        evidence = encode(params, batch, model=experiment.model)
        _, latents = decode(params, from_posterior(key, 1), evidence, batch, model=experiment.model)
        for latent in latents.values():
            if reads_conditions(experiment.model) and latent.prior.batch_shape:
                raise InputError(
                    f"model {type(experiment.model).__name__} has a p(z) that depends on conditions, and a prior is "
                    "fitted to the codes of all examples; train it with model.condition_prior=False"
                )
            is_certain = getattr(latent.posterior, "is_certain", latent.log_q is None)
            found.append(type(latent.posterior) is Normal or is_certain)

    jax.eval_shape(walk, params, experiment.example_batch, experiment.key)
    return all(found)


def draw_codes(keys: Array, batch: Batch) -> Array:
    """Return a code of each example: a sample of N(mean, scale²), or one of S codes.

    Args:
      keys: typed keys [B].
      batch: {"x": means [B, D], "scale": [B, D]}, or {"x": codes [B, S, D]}.

    Returns:
      [B, D].
    """
    x = batch["x"]
    if "scale" in batch:
        return x + batch["scale"] * random.normal(keys, x.shape, x.dtype)
    chosen = random.bits(keys, x.shape[:1]) % x.shape[1]  # [B]
    return jnp.take_along_axis(x, chosen[:, None, None].astype(jnp.int32), axis=1)[:, 0]


def standardize(codes: Codes) -> LowerCholeskyAffine:
    """Return z = loc + L e with the mean of the codes and the Cholesky factor L of their covariance.

    These are moments of the aggregated posterior: the covariance of the means, and the mean of the variances. They are
    computed in double precision. If the least variance in any direction is below `RIDGE` times the largest, because
    of dead units or of fewer examples than dimensions, this multiple of the largest is added to every variance.

    Args:
      codes: {"x": means [N, D], "scale": [N, D]}, or {"x": codes [N, S, D]}.

    Returns:
      The transform, float32 [D] and [D, D].

    Raises:
      InputError: all codes are equal.
    """
    x = codes["x"].reshape(-1, codes["x"].shape[-1])
    loc = x.mean(axis=0, dtype=np.float64)
    covariance = np.zeros((len(loc), len(loc)))
    for first in range(0, len(x), _CHUNK):
        centered = x[first : first + _CHUNK] - loc
        covariance += centered.T @ centered / len(x)
    if "scale" in codes:
        covariance += np.diag(np.mean(np.square(codes["scale"]), axis=0, dtype=np.float64))
    variances = np.linalg.eigvalsh(covariance)
    if variances[-1] <= 0:
        raise InputError("codes of all training examples are equal, so that no density can be fitted; train the model")
    if variances[0] < RIDGE * variances[-1]:
        covariance += RIDGE * variances[-1] * np.eye(len(loc))
    scale_tril = np.linalg.cholesky(covariance)
    return LowerCholeskyAffine(jnp.asarray(loc, jnp.float32), jnp.asarray(scale_tril, jnp.float32))


def random_codes(codes: Codes, key: Array) -> Any:
    """Return one code of each example in random order, float32 [N, D].

    Args:
      codes: {"x": means [N, D], "scale": [N, D]}, or {"x": codes [N, S, D]}.
      key: a typed key.
    """
    count = len(codes["x"])
    order = np.asarray(jax.random.permutation(random.fold_in(key, 0), count))
    keys = random.example_keys(random.fold_in(key, 1), count)
    return jax.jit(draw_codes)(keys, {name: array[order] for name, array in codes.items()})
