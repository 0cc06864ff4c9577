"""Evaluation of a complete split: every example once, for any batch size, in float32 at the highest precision."""

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import NamedSharding, PartitionSpec

from vae_jax import random
from vae_jax.data import read_images
from vae_jax.distributions import Batch, Latent, from_means
from vae_jax.inference import Params, bound_parts, decode, encode, log_likelihood, sample_terms
from vae_jax.training.metrics import mean_and_error, peak_signal_to_noise

# A unit is active if the variance of its posterior mean over the images is larger (Burda et al., arXiv 1509.00519).
ACTIVE_VARIANCE = 0.01
MEAN_SAMPLES = 50  # samples in the estimate of a layer's mean, which depends on the layer below it

PerExample = Callable[[Params, Array, Array], dict[str, Array]]  # (params, keys [B], images [B]) -> name -> [B, ...]


def padded_batches(images: np.ndarray, batch_size: int, *, multiple: int = 1) -> Iterator[tuple[int, np.ndarray]]:
    """Yield all images in batches of one size.

    Args:
      images: [N, ...].
      batch_size: how many of the images a batch contains; the last batch can contain fewer.
      multiple: the number of rows of a batch is `batch_size`, rounded up to a multiple of this.

    Yields:
      The number of images in the batch, and the batch [B, ...]. Its remaining rows repeat the last image.
    """
    size = -(-batch_size // multiple) * multiple
    for start in range(0, len(images), batch_size):
        batch = images[start : start + batch_size]
        missing = size - len(batch)
        yield len(batch), np.concatenate([batch, np.repeat(batch[-1:], missing, axis=0)]) if missing else batch


def evaluate_examples(
    per_example: PerExample,
    params: Params,
    key: Array,
    images: np.ndarray,
    *,
    batch_size: int,
    placement: NamedSharding | None = None,
    report: Callable[[int], None] | None = None,
) -> dict[str, np.ndarray]:
    """Return the values of `per_example` for all images, each exactly once.

    The key of example i is fold_in(key, i), so its values do not depend on `batch_size`. Each batch is dispatched
    before the values of the previous one are read.

    Args:
      per_example: (params, keys [B], images [B, ...]) -> {name: [B, ...]}.
      params: parameters of the model.
      key: a typed key.
      images: [N, ...].
      batch_size: how many images a batch contains.
      placement: the sharding of the rows of a batch over a mesh; None for one device. Rows are added where needed.
      report: receives the number of examples so far, after each batch.

    Returns:
      {name: [N, ...]} as NumPy arrays.

    Raises:
      ValueError: there are no images, or `batch_size` is less than 1.
    """
    _check_batches(images, batch_size)
    pending: list[tuple[int, dict[str, Array]]] = []
    rows: list[dict[str, np.ndarray]] = []
    done = 0

    def collect() -> None:
        nonlocal done
        count, values = pending.pop(0)
        rows.append({name: np.asarray(value)[:count] for name, value in values.items()})
        done += count
        if report is not None:
            report(done)

    for count, keys, batch in _keyed_batches(key, images, batch_size, placement):
        with jax.default_matmul_precision("highest"):
            pending.append((count, per_example(params, keys, _place_batch(batch, placement))))
        if len(pending) > 1:
            collect()
    collect()
    return {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}


def _check_batches(images: np.ndarray, batch_size: int) -> None:
    if not len(images):
        raise ValueError("images has length 0; pass one image or more")
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size} must be 1 or more")


def _keyed_batches(
    key: Array, images: np.ndarray, batch_size: int, placement: NamedSharding | None
) -> Iterator[tuple[int, Array, np.ndarray]]:
    """Yield (number of images, keys [B], batch [B, ...]); the devices of `placement` divide the rows of a batch."""
    multiple = 1 if placement is None else placement.mesh.size
    for i, (count, batch) in enumerate(padded_batches(images, batch_size, multiple=multiple)):
        yield count, _batch_keys(len(batch), placement)(key, np.uint32(i * batch_size)), batch


@functools.lru_cache(maxsize=16)
def _batch_keys(size: int, placement: NamedSharding | None) -> Callable[[Array, np.uint32], Array]:
    """Return a program (key, position of the first example) -> keys [size], placed like the rows of a batch."""

    def keys(key: Array, first: Array) -> Array:
        return random.example_keys(key, size, first=first)

    return jax.jit(keys, out_shardings=placement)


def _place_batch(batch: np.ndarray, placement: NamedSharding | None) -> Array:
    if placement is None:
        return jnp.asarray(batch)
    return jax.make_array_from_process_local_data(placement, batch, batch.shape)  # each process has the complete batch


def elbo_terms(params: Params, keys: Array, images: Array, *, model: Any, binarization: str) -> dict[str, Array]:
    """Return the terms of the ELBO and the reconstruction error of each image.

    Args:
      params: parameters of the model.
      keys: a key for each image, [B].
      images: uint8 [B, H, W, C].
      model: a `VAE`, or any Linen module with its methods `encode` and `decode`.
      binarization: see `read_images`.

    Returns:
      The arrays of `bound_parts`, each [B] in nats, from one posterior sample; `mean/NAME` [B, D] of each layer, its
      posterior mean E[z]; `squared_error` [B], |x - E p(x|mean)|² over pixels in [0, 1]. The mean of a layer that
      depends on others is an estimate, and `mean_variance/NAME` [B, D] is its variance.
    """
    batch = _preprocess(keys, images, binarization)
    evidence = encode(params, batch, model=model)
    sample = functools.partial(sample_terms, params, model=model, evidence=evidence)
    terms = sample(random.fold_in(keys, 1), batch)
    parts = bound_parts(terms)
    latents = terms.latents
    if any(_depends_on_others(latent) for latent in latents):
        latents = sample(random.fold_in(keys, 2), batch, num_samples=MEAN_SAMPLES).latents
    for latent in latents:
        mean = latent.posterior.mean()
        mean = mean.reshape(*mean.shape[: len(latent.posterior.batch_shape)], -1)  # [B, D] or [K, B, D]
        if _depends_on_others(latent):
            parts[f"mean_variance/{latent.name}"] = jnp.var(mean, axis=0, ddof=1) / MEAN_SAMPLES
            mean = jnp.mean(mean, axis=0)
        parts[f"mean/{latent.name}"] = mean
    p_x, _ = decode(params, from_means(), evidence, batch, model=model)
    error = jnp.square(batch["x"] - p_x.mean())
    return parts | {"squared_error": jnp.sum(error, axis=tuple(range(1, error.ndim)))}


def _preprocess(keys: Array, images: Array, binarization: str) -> Batch:
    return {"x": read_images(random.fold_in(keys, 0), images, binarization=binarization)}


def _depends_on_others(latent: Latent) -> bool:
    """Return whether the posterior of a layer is [K, B]: one for each sample of the layers it depends on."""
    return len(latent.posterior.batch_shape) > 1


def likelihood_terms(
    params: Params, keys: Array, images: Array, *, model: Any, binarization: str, num_samples: int, chunk: int
) -> dict[str, Array]:
    """Return the importance-sampling estimate of log p(x) for each image.

    An image is binarized with the same random numbers as in `elbo_terms` under the same keys.

    Args:
      params: parameters of the model.
      keys: a key for each image, [B].
      images: uint8 [B, H, W, C].
      model: a `VAE`, or any Linen module with its methods `encode` and `decode`.
      binarization: see `read_images`.
      num_samples: K.
      chunk: how many samples are computed at once.

    Returns:
      `log_px` [B] in nats and `ess` [B], the effective sample size.
    """
    batch, sample_keys = _preprocess(keys, images, binarization), random.fold_in(keys, 1)
    log_px, ess = log_likelihood(params, sample_keys, batch, model=model, num_samples=num_samples, chunk=chunk)
    return {"log_px": log_px, "ess": ess}


@dataclasses.dataclass(frozen=True)
class Evaluator:
    """The evaluations of one model; each is compiled once, for any parameters and images.

    Attributes:
      model: a `VAE`, or any Linen module with its methods `encode` and `decode`.
      binarization: see `read_images`.
      batch_size: how many images are evaluated at once.
      placement: the sharding of the rows of a batch, such as `batch_sharding(mesh)`; None for one device.
      compiler_options: options of XLA for the devices.
    """

    model: Any
    binarization: str
    batch_size: int
    placement: NamedSharding | None = None
    compiler_options: dict[str, Any] | None = None

    @functools.cached_property
    def _elbo(self) -> PerExample:
        return self._jit(functools.partial(elbo_terms, model=self.model, binarization=self.binarization))

    def _jit(self, per_example: PerExample) -> PerExample:
        """Return the jitted function. Its results are replicated on all devices, so every process can read them."""
        replicated = None if self.placement is None else NamedSharding(self.placement.mesh, PartitionSpec())
        return jax.jit(per_example, out_shardings=replicated, compiler_options=self.compiler_options)

    @functools.cached_property
    def _likelihoods(self) -> dict[tuple[int, int], PerExample]:
        return {}

    def bound(self, params: Params, key: Array, images: np.ndarray) -> dict[str, Any]:
        """Return the ELBO and its parts, active units and the reconstruction error, as means over all images.

        Args:
          params: parameters of the model.
          key: a typed key; equal keys give equal results.
          images: uint8 [N, H, W, C].

        Returns:
          A dictionary of numbers:

          - `reconstruction` and, if the posterior has a density, `kl` and `elbo`, in nats per image, from one posterior
            sample; `reconstruction_se` and `elbo_se` are standard errors over the images.
          - `active_units`, the number of latents whose posterior mean has a variance above 0.01 over the images. The
            variance of an estimated mean is subtracted.
          - `squared_error` of decoding the posterior mean, summed over pixels in [0, 1], and
            `psnr` = 10 log10(H·W·C / squared_error) in decibels.
          - if the code has several layers, `kl_1`, ..., the shares of the layers in the KL, which can be negative, and
            the list `active_units_by_layer`, starting at the image.

        Raises:
          ValueError: there are no images.
        """
        values = evaluate_examples(
            self._elbo, params, key, images, batch_size=self.batch_size, placement=self.placement
        )
        result: dict[str, Any] = mean_and_error("reconstruction", values["reconstruction"])
        if "kl" in values:
            result["kl"] = float(values["kl"].mean(dtype=np.float64))
            result |= mean_and_error("elbo", values["reconstruction"] - values["kl"])
        result |= {name: float(v.mean(dtype=np.float64)) for name, v in values.items() if name.startswith("kl_")}
        names = [name.removeprefix("mean/") for name in values if name.startswith("mean/")]
        active = [_num_active(values[f"mean/{name}"], values.get(f"mean_variance/{name}")) for name in names]
        if len(active) > 1:
            result["active_units_by_layer"] = active
        squared_error = float(values["squared_error"].mean(dtype=np.float64))
        return result | {
            "active_units": sum(active),
            "squared_error": squared_error,
            "psnr": peak_signal_to_noise(squared_error, images.shape[1:]),
        }

    def likelihood(
        self,
        params: Params,
        key: Array,
        images: np.ndarray,
        *,
        num_samples: int,
        chunk: int,
        report: Callable[[int], None] | None = None,
    ) -> dict[str, Any]:
        """Return the negative log-likelihood by importance sampling, as a mean over all images.

        Args:
          params: parameters of the model.
          key: a typed key; equal keys give equal results.
          images: uint8 [N, H, W, C].
          num_samples: K, the posterior samples of each image.
          chunk: how many samples are computed at once.
          report: receives the number of images so far, after each batch.

        Returns:
          `nll` = -log p(x) in nats per image, its standard error over the images `nll_se`, and `ess`, the median over
          the images of the effective sample size.

        Raises:
          ValueError: the posterior has no density, or there are no images.
        """
        settings = num_samples, chunk
        if settings not in self._likelihoods:
            fixed = {"model": self.model, "binarization": self.binarization, "num_samples": num_samples, "chunk": chunk}
            self._likelihoods[settings] = self._jit(functools.partial(likelihood_terms, **fixed))
        values = evaluate_examples(
            self._likelihoods[settings],
            params,
            key,
            images,
            batch_size=self.batch_size,
            placement=self.placement,
            report=report,
        )
        return mean_and_error("nll", -values["log_px"]) | {"ess": float(np.median(values["ess"]))}


def _num_active(mean: np.ndarray, mean_variance: np.ndarray | None) -> int:
    """Return how many latents are active: the variance of the means [N, D], less that of their estimates, is large."""
    variance = mean.astype(np.float64).var(axis=0)
    if mean_variance is not None:
        variance -= mean_variance.mean(axis=0, dtype=np.float64)
    return int((variance > ACTIVE_VARIANCE).sum())
