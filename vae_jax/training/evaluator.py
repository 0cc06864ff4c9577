"""Evaluation of a complete split: every example once, for any batch size, in float32 at the highest precision."""

import dataclasses
import functools
import operator
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import NamedSharding, PartitionSpec

from vae_jax import random
from vae_jax.distributions import Batch, from_means
from vae_jax.inference import RELIABLE, Params, bound_parts, decode, encode, importance_estimate, sample_terms
from vae_jax.training.latent_means import latent_means, num_active
from vae_jax.training.loss import Preprocess
from vae_jax.training.metrics import mean_and_error, reconstruction_errors, summarize_errors

POLL_SECONDS = 0.05

Arrays = Mapping[str, np.ndarray]  # name -> [N, ...]
PerExample = Callable[[Params, Array, Batch], dict[str, Array]]  # (params, keys [B], batch) -> name -> [B, ...]
Receive = Callable[[dict[str, np.ndarray]], None]


def padded_batches(
    arrays: Arrays, batch_size: int, *, multiple: int = 1
) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
    """Yield all examples in batches of one size.

    Args:
      arrays: {name: [N, ...]}.
      batch_size: how many of the examples a batch contains; the last batch can contain fewer.
      multiple: the number of rows of a batch is `batch_size`, rounded up to a multiple of this.

    Yields:
      The number of examples in the batch, and the batch {name: [B, ...]}. Its remaining rows repeat the last example.
    """
    size = _num_rows(batch_size, multiple)
    for start in range(0, _num_examples(arrays), batch_size):
        batch = {name: array[start : start + batch_size] for name, array in arrays.items()}
        count = _num_examples(batch)
        yield count, {name: _pad(array, size - count) for name, array in batch.items()}


def _num_rows(batch_size: int, multiple: int) -> int:
    return -(-batch_size // multiple) * multiple


def _num_examples(arrays: Arrays) -> int:
    """Return N; raise ValueError if the arrays have unequal lengths."""
    sizes = {name: len(array) for name, array in arrays.items()}
    if len(set(sizes.values())) != 1:
        raise ValueError(f"arrays have {sizes} examples; pass arrays with equal leading axes")
    return next(iter(sizes.values()))


def _pad(array: np.ndarray, missing: int) -> np.ndarray:
    return np.concatenate([array, np.repeat(array[-1:], missing, axis=0)]) if missing else array


def evaluate_examples(
    per_example: PerExample,
    params: Params,
    key: Array,
    arrays: Arrays,
    *,
    batch_size: int,
    first: int = 0,
    placement: NamedSharding | None = None,
    report: Callable[[int], None] | None = None,
    poll: Callable[[], None] | None = None,
) -> dict[str, np.ndarray]:
    """Return the values of `per_example` for all examples, each exactly once; they do not depend on `batch_size`.

    Each batch is dispatched before the values of the previous one are read.

    Args:
      per_example: (params, keys [B], {name: [B, ...]}) -> {name: [B, ...]}.
      params: parameters of the model, or its `Variables`.
      key: a typed key; that of example i is fold_in(key, first + i).
      arrays: {name: [N, ...]}.
      batch_size: how many examples a batch contains at most.
      first: position of the first example, if the arrays are a part of a data set.
      placement: the sharding of the rows of a batch over a mesh; None for one device. Rows are added where needed.
      report: receives the number of examples so far, after each batch.
      poll: called several times a second during a batch; it may raise an error to end the evaluation.

    Returns:
      {name: [N, ...]} as NumPy arrays.

    Raises:
      ValueError: there are no examples, the arrays have unequal lengths, or `batch_size` is less than 1.
    """
    pending: list[tuple[int, dict[str, Array]]] = []
    rows: list[dict[str, np.ndarray]] = []

    def collect() -> None:
        count, values = pending.pop(0)
        _wait_for(values, poll)
        rows.append({name: np.asarray(value)[:count] for name, value in values.items()})
        if report is not None:
            report(sum(map(_num_examples, rows)))

    for count, keys, batch in _keyed_batches(key, arrays, _checked_size(arrays, batch_size), first, placement):
        with jax.default_matmul_precision("highest"):
            pending.append((count, per_example(params, keys, _place_batch(batch, placement))))
        if len(pending) > 1:
            collect()
    collect()
    return {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}


def _wait_for(values: Mapping[str, Any], poll: Callable[[], None] | None) -> None:
    """Wait for arrays if a function is to be called meanwhile."""
    ready = operator.methodcaller("is_ready")  # a method of arrays that the annotations of JAX do not have
    while poll is not None and not all(map(ready, values.values())):
        poll()
        time.sleep(POLL_SECONDS)


def _checked_size(arrays: Arrays, batch_size: int) -> int:
    """Return the size of the batches: at most the number of examples, so that a small split costs what it has."""
    if not arrays or not _num_examples(arrays):
        raise ValueError("arrays have length 0; pass one example or more")
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size} must be 1 or more")
    return min(batch_size, _num_examples(arrays))


def _keyed_batches(
    key: Array, arrays: Arrays, batch_size: int, first: int, placement: NamedSharding | None
) -> Iterator[tuple[int, Array, dict[str, np.ndarray]]]:
    """Yield (number of examples, keys [B], batch [B, ...]); the devices of `placement` divide the rows of a batch."""
    multiple = 1 if placement is None else placement.mesh.size
    size = _num_rows(batch_size, multiple)
    for i, (count, batch) in enumerate(padded_batches(arrays, batch_size, multiple=multiple)):
        yield count, _batch_keys(size, placement)(key, np.uint32(first + i * batch_size)), batch


@functools.lru_cache(maxsize=16)
def _batch_keys(size: int, placement: NamedSharding | None) -> Callable[[Array, np.uint32], Array]:
    """Return a program (key, position of the first example) -> keys [size], placed like the rows of a batch."""

    def keys(key: Array, first: Array) -> Array:
        return random.example_keys(key, size, first=first)

    return jax.jit(keys, out_shardings=placement)


def _place_batch(batch: Arrays, placement: NamedSharding | None) -> dict[str, Array]:
    def place(array: np.ndarray) -> Array:
        if placement is None:
            return jnp.asarray(array)
        return jax.make_array_from_process_local_data(placement, array, array.shape)  # each process has all rows

    return {name: place(array) for name, array in batch.items()}


def elbo_terms(
    params: Params, keys: Array, batch: Batch, *, model: Any, preprocess: Preprocess, kind: str
) -> dict[str, Array]:
    """Return the terms of the ELBO and the errors of the reconstruction of each example.

    Args:
      params: parameters of the model, or its `Variables`.
      keys: a key for each example, [B].
      batch: stored examples, {"x": [B, ...], ...}.
      model: a `VAE`, or any Linen module with its methods `encode` and `decode`.
      preprocess: (keys [B], stored examples) -> inputs of the model.
      kind: images, vectors or counts.

    Returns:
      The arrays of `bound_parts`, each [B] in nats, from one posterior sample; `mean/NAME` [B, D] of each layer, its
      posterior mean E[z], or [B, L, D] of L blocks; the `reconstruction_errors` of decoding the means. The mean of a
      layer that depends on others is an estimate, and `mean_variance/NAME`, of the same shape, is its variance.
    """
    batch = preprocess(random.fold_in(keys, 0), batch)
    evidence = encode(params, batch, model=model)
    sample = functools.partial(sample_terms, params, model=model, evidence=evidence)
    terms = sample(random.fold_in(keys, 1), batch)
    parts = bound_parts(terms)
    parts |= latent_means(functools.partial(sample, random.fold_in(keys, 2), batch), terms)
    p_x, _ = decode(params, from_means(), evidence, batch, model=model)
    return parts | reconstruction_errors(batch["x"], p_x.mean(), kind=_error_kind(kind, preprocess))


def _error_kind(kind: str, preprocess: Preprocess) -> str:
    """Return the kind of data of the errors; "" if the preprocessing replaces counts by other numbers."""
    values_of = getattr(preprocess, "values_of", None)
    is_replaced = kind == "counts" and values_of is not None and values_of(kind) != "counts"
    return "" if is_replaced else kind


def likelihood_terms(
    params: Params, keys: Array, batch: Batch, *, model: Any, preprocess: Preprocess, num_samples: int, chunk: int
) -> dict[str, Array]:
    """Return the importance-sampling estimate of log p(x) for each example.

    An example is preprocessed with the same random numbers as in `elbo_terms` under the same keys.

    Args:
      params: parameters of the model, or its `Variables`.
      keys: a key for each example, [B].
      batch: stored examples, {"x": [B, ...], ...}.
      model: a `VAE`, or any Linen module with its methods `encode` and `decode`.
      preprocess: (keys [B], stored examples) -> inputs of the model.
      num_samples: K.
      chunk: how many samples are computed at once.

    Returns:
      The arrays of `Estimate`, [B] each: `log_px` in nats, `ess`, and `pareto_k` if there are enough samples for it.
    """
    batch, sample_keys = preprocess(random.fold_in(keys, 0), batch), random.fold_in(keys, 1)
    found = importance_estimate(params, sample_keys, batch, model=model, num_samples=num_samples, chunk=chunk)
    return {name: value for name, value in found._asdict().items() if value is not None}


@dataclasses.dataclass(frozen=True)
class Evaluator:
    """The evaluations of one model; each is compiled once, for any parameters and examples.

    Attributes:
      model: a `VAE`, or any Linen module with its methods `encode` and `decode`.
      preprocess: (keys [B], stored examples) -> inputs of the model.
      kind: what an example is, which selects the metrics of its reconstruction: images, vectors or counts.
      batch_size: how many examples are evaluated at once.
      placement: the sharding of the rows of a batch, such as `batch_sharding(mesh)`; None for one device.
      compiler_options: options of XLA for the devices.
    """

    model: Any
    preprocess: Preprocess
    kind: str = "images"
    batch_size: int = 80
    placement: NamedSharding | None = None
    compiler_options: dict[str, Any] | None = None

    @functools.cached_property
    def _elbo(self) -> PerExample:
        settings = {"model": self.model, "preprocess": self.preprocess, "kind": self.kind}
        return self._jit(functools.partial(elbo_terms, **settings))

    def _jit(self, per_example: PerExample) -> PerExample:
        """Return the jitted function. Its results are replicated on all devices, so every process can read them."""
        replicated = None if self.placement is None else NamedSharding(self.placement.mesh, PartitionSpec())
        return jax.jit(per_example, out_shardings=replicated, compiler_options=self.compiler_options)

    @functools.cached_property
    def _likelihoods(self) -> dict[tuple[int, int], PerExample]:
        return {}

    def bound(
        self, params: Params, key: Array, arrays: Arrays, *, receive: Receive = lambda scores: None
    ) -> dict[str, Any]:
        """Return the ELBO and its parts, active units and errors of the reconstruction, as means over all examples.

        Args:
          params: parameters of the model, or its `Variables`.
          key: a typed key; equal keys give equal results.
          arrays: stored examples, {"x": [N, ...], ...}.
          receive: called with `reconstruction` and, if they are defined, `kl` and `elbo` of each example, {name: [N]}.

        Returns:
          A dictionary of numbers:

          - `reconstruction` and, if the posterior has a density, `kl` and `elbo`, in nats per example, from one
            posterior sample; `reconstruction_se` and `elbo_se` are standard errors over the examples.
          - `active_units`, the number of latents whose posterior mean has a variance above 0.01 over the examples. The
            variance of an estimated mean is subtracted.
          - the metrics of `summarize_errors` for decoding the posterior mean: `squared_error`, and for images `psnr`,
            for vectors `explained_variance`, for counts `log_squared_error`.
          - if the code has several layers, `kl_1`, ..., the shares of the layers in the KL, which can be negative, and
            the list `active_units_by_layer`, in the order of the model's layers, with an entry for each block.

        Raises:
          ValueError: there are no examples.
        """
        values = evaluate_examples(
            self._elbo, params, key, arrays, batch_size=self.batch_size, placement=self.placement
        )
        result: dict[str, Any] = mean_and_error("reconstruction", values["reconstruction"])
        scores = {name: values[name] for name in ("reconstruction", "kl") if name in values}
        if "kl" in values:
            scores["elbo"] = values["reconstruction"] - values["kl"]
            result["kl"] = float(values["kl"].mean(dtype=np.float64))
            result |= mean_and_error("elbo", scores["elbo"])
        receive(scores)
        result |= {name: float(v.mean(dtype=np.float64)) for name, v in values.items() if name.startswith("kl_")}
        names = [name.removeprefix("mean/") for name in values if name.startswith("mean/")]
        counts = [num_active(values[f"mean/{name}"], values.get(f"mean_variance/{name}")) for name in names]
        active = [int(count) for array in counts for count in np.atleast_1d(array)]
        if len(active) > 1:
            result["active_units_by_layer"] = active
        errors = summarize_errors(values, kind=self.kind, shape=arrays["x"].shape[1:])
        return result | {"active_units": sum(active)} | errors

    def likelihood(
        self,
        params: Params,
        key: Array,
        arrays: Arrays,
        *,
        num_samples: int,
        chunk: int,
        report: Callable[[int], None] | None = None,
        receive: Receive = lambda scores: None,
        poll: Callable[[], None] | None = None,
    ) -> dict[str, Any]:
        """Return the negative log-likelihood by importance sampling, as a mean over all examples.

        Args:
          params: parameters of the model, or its `Variables`.
          key: a typed key; equal keys give equal results.
          arrays: stored examples, {"x": [N, ...], ...}.
          num_samples: K, the posterior samples of each example.
          chunk: how many samples are computed at once.
          report: receives the number of examples so far, after each batch.
          receive: called with `nll`, `ess` and `pareto_k` of each example, {name: [N]}.
          poll: called several times a second during a batch; it may raise an error to end the evaluation.

        Returns:
          `nll` = -log p(x) in nats per example, its standard error over the examples `nll_se`, and `ess`, the median
          over the examples of the effective sample size. With 25 samples or more also `pareto_k`, the median shape of
          the tail of the weights, and `pareto_k_above`, the share of the examples whose shape exceeds 0.7.

        Raises:
          ValueError: the posterior has no density, or there are no examples.
        """
        settings = num_samples, chunk
        if settings not in self._likelihoods:
            fixed = {"model": self.model, "preprocess": self.preprocess, "num_samples": num_samples, "chunk": chunk}
            self._likelihoods[settings] = self._jit(functools.partial(likelihood_terms, **fixed))
        program = self._likelihoods[settings]
        where = {"batch_size": self.batch_size, "placement": self.placement}
        calls = {"report": report, "poll": poll}
        values = evaluate_examples(program, params, key, arrays, **calls, **where)
        nll = -values.pop("log_px")
        receive({"nll": nll} | values)
        result = mean_and_error("nll", nll) | {"ess": float(np.median(values["ess"]))}
        if "pareto_k" in values:
            result["pareto_k"] = float(np.median(values["pareto_k"]))
            result["pareto_k_above"] = float(np.mean(values["pareto_k"] > RELIABLE))
        return result
