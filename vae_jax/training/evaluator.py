"""Exact numbers over a whole split: every example once, whatever the batch size, in float32 at highest precision."""

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
from vae_jax.distributions import MarkovChain
from vae_jax.inference import Params, bound_parts, log_likelihood, sample_terms
from vae_jax.training.metrics import mean_and_error, peak_signal_to_noise

ACTIVE_VARIANCE = 0.01  # a unit is active if its posterior mean varies more than this over the images (1509.00519)
MEAN_SAMPLES = 50  # draws that the mean of a layer is taken over where it depends on the layer below it

PerExample = Callable[[Params, random.Key, Array], dict[str, Array]]  # (params, key, images [B]) -> name -> [B, ...]


def padded_batches(images: np.ndarray, batch_size: int, *, multiple: int = 1) -> Iterator[tuple[int, np.ndarray]]:
    """(number of real examples, images [B, H, W, C]) over all images, `batch_size` in turn.

    Each batch is filled up, the last one too, to the same B: `batch_size` rounded up to a `multiple`.
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
    """`per_example` over all images [N, H, W, C], each exactly once: name -> [N, ...], as NumPy arrays.

    The key of a batch is `key` folded with its number. `placement` is where a batch is to live (a sharding of its rows
    over a mesh): where the devices do not divide `batch_size` rows are added, which change no draw of the others.
    The next batch is dispatched before the last one is read; `report` is told how many examples are done. Raises
    ValueError where there are no images.
    """
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

    if not len(images) or batch_size < 1:
        raise ValueError(f"{len(images)} images in batches of {batch_size} given, must be one or more of either")
    multiple = 1 if placement is None else placement.mesh.size
    for i, (count, batch) in enumerate(padded_batches(images, batch_size, multiple=multiple)):
        batch_key = jax.random.fold_in(key, i)
        if len(batch) > batch_size:
            batch_key = random.RowsKey(batch_key, np.int32(0), batch_size)
        with jax.default_matmul_precision("highest"):
            batch = _placed(batch, placement)
            pending.append((count, per_example(params, batch_key, batch)))
        if len(pending) > 1:
            collect()
    collect()
    return {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}


def _placed(batch: np.ndarray, placement: NamedSharding | None) -> Array:
    if placement is None:
        return jnp.asarray(batch)
    return jax.make_array_from_process_local_data(placement, batch, batch.shape)  # each process has the complete batch


def elbo_terms(params: Params, key: random.Key, images: Array, *, model: Any, binarization: str) -> dict[str, Array]:
    """For each uint8 image: `reconstruction` and, if there is one, `kl` (nats, one posterior sample); the posterior's
    `mean` E[z] [B, D]; and `squared_error`, |x - E p(x|mean)|² over pixels in [0, 1].

    Of a code of several layers the mean is estimated, and `mean_variance` [B, D] is the variance of the estimate.
    """
    read_key, noise_key = random.split(key)
    x = read_images(read_key, images, binarization=binarization)
    parts = bound_parts(sample_terms(params, noise_key, x, model=model))
    variables = {"params": params}
    q = model.apply(variables, x, method="encode")
    mean = q.mean()
    if isinstance(q, MarkovChain):
        mean, parts["mean_variance"] = q.sampled_mean(random.fold_in(noise_key, 1), MEAN_SAMPLES)
    decoded = model.apply(variables, mean, method="decode").mean()
    return parts | {"mean": mean, "squared_error": jnp.sum(jnp.square(x - decoded), axis=(1, 2, 3))}


def likelihood_terms(
    params: Params, key: random.Key, images: Array, *, model: Any, binarization: str, num_samples: int, chunk: int
) -> dict[str, Array]:
    """For each uint8 image: `log_px` (nats, importance sampling with K = `num_samples`) and `ess`.

    An image is binarised by the same draw as in `elbo_terms` under the same key.
    """
    read_key, noise_key = random.split(key)
    x = read_images(read_key, images, binarization=binarization)
    log_px, ess = log_likelihood(params, noise_key, x, model=model, num_samples=num_samples, chunk=chunk)
    return {"log_px": log_px, "ess": ess}


@dataclasses.dataclass(frozen=True)
class Evaluator:
    """The evaluations of one model, each compiled once and then called for any parameters and images."""

    model: Any  # with `encode`, `prior` and `decode`
    binarization: str
    batch_size: int
    placement: NamedSharding | None = (
        None  # where the rows of a batch live: `batch_sharding(mesh)`; one device if not given
    )
    compiler_options: dict[str, Any] | None = None  # what XLA is told for the devices in question

    @functools.cached_property
    def _elbo(self) -> PerExample:
        return self._compiled(functools.partial(elbo_terms, model=self.model, binarization=self.binarization))

    def _compiled(self, per_example: PerExample) -> PerExample:
        """Jitted; what it returns is whole on each device, for every process to read."""
        replicated = None if self.placement is None else NamedSharding(self.placement.mesh, PartitionSpec())
        return jax.jit(per_example, out_shardings=replicated, compiler_options=self.compiler_options)

    @functools.cached_property
    def _likelihoods(self) -> dict[tuple[int, int], PerExample]:
        return {}

    def bound(self, params: Params, key: Array, images: np.ndarray) -> dict[str, float]:
        """Means over all images, in nats: `reconstruction`, and `kl` and `elbo` where the posterior has a density.

        `reconstruction_se` and `elbo_se` are standard errors over images; `active_units` counts the latents whose
        posterior mean has a variance above 0.01 over the images, less what an estimated mean varies by itself. Of a
        code of several layers there are `kl_1`, ..., the layers' shares of the KL, which alone may be negative, and
        `active_units_by_layer` too, from the image upwards. `squared_error` is that of decoding the posterior's
        mean, summed over pixels in [0, 1], and `psnr` = 10 log10(H·W·C / squared_error) in decibels.
        """
        values = evaluate_examples(
            self._elbo, params, key, images, batch_size=self.batch_size, placement=self.placement
        )
        result = mean_and_error("reconstruction", values["reconstruction"])
        if "kl" in values:
            result["kl"] = float(values["kl"].mean(dtype=np.float64))
            result |= mean_and_error("elbo", values["reconstruction"] - values["kl"])
        result |= {name: float(v.mean(dtype=np.float64)) for name, v in values.items() if name.startswith("kl_")}
        variance = values["mean"].astype(np.float64).var(axis=0)
        if "mean_variance" in values:
            variance -= values["mean_variance"].mean(axis=0, dtype=np.float64)
        active = variance > ACTIVE_VARIANCE
        if isinstance(posterior := self._posterior(params, images.shape[1:]), MarkovChain):
            layers = np.split(active, np.cumsum(posterior.sizes[:-1]))
            result["active_units_by_layer"] = [int(layer.sum()) for layer in layers]
        squared_error = float(values["squared_error"].mean(dtype=np.float64))
        return result | {
            "active_units": int(active.sum()),
            "squared_error": squared_error,
            "psnr": peak_signal_to_noise(squared_error, images.shape[1:]),
        }

    def _posterior(self, params: Params, image_shape: tuple[int, ...]) -> Any:
        """q(z|x) of one image, its arrays as shapes."""
        image = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
        return jax.eval_shape(lambda p, x: self.model.apply({"params": p}, x, method="encode"), params, image)

    def likelihood(
        self,
        params: Params,
        key: Array,
        images: np.ndarray,
        *,
        num_samples: int,
        chunk: int,
        report: Callable[[int], None] | None = None,
    ) -> dict[str, float]:
        """`nll` = -log p(x) in nats by importance sampling with its standard error over images `nll_se`, and `ess`.

        `ess` is the median over images of the effective number of the `num_samples` samples. Raises ValueError
        where the posterior has no density.
        """
        settings = num_samples, chunk
        if settings not in self._likelihoods:
            fixed = {"model": self.model, "binarization": self.binarization, "num_samples": num_samples, "chunk": chunk}
            self._likelihoods[settings] = self._compiled(functools.partial(likelihood_terms, **fixed))
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
