"""Log-likelihood of the model of a run by annealed importance sampling: in chunks that are stored, so it can resume."""

import dataclasses
import functools
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import NamedSharding, PartitionSpec

from vae_jax import random
from vae_jax.data import ArrayDataset
from vae_jax.distributions import Batch
from vae_jax.errors import InputError, NotFiniteError
from vae_jax.inference import Annealing, Params, annealed_log_likelihood, bidirectional_bounds
from vae_jax.runs.evaluation.evaluation import evaluation_protocol, has_density
from vae_jax.runs.evaluation.scores import read_scores
from vae_jax.runs.experiment import memory
from vae_jax.runs.experiment.experiment import Experiment
from vae_jax.runs.experiment.labels import refuse_unknown_labels
from vae_jax.runs.storage import checksums
from vae_jax.runtime import Placement, atomic_files
from vae_jax.training import evaluate_examples, mean_and_error, padded_batches

_SIMULATED = 1_000_003  # position of the first simulated example, after those of a split
Report = Callable[[str, int, int], None]  # (what is computed, examples done, all examples)


@dataclasses.dataclass(frozen=True)
class AnnealedEvaluation:
    """Settings of an evaluation by annealed importance sampling.

    Attributes:
      annealing: the path and the chains.
      num_examples: the first so many examples of the split; None for all.
      num_simulated: examples that are simulated to bound the error; 0: none.
    """

    annealing: Annealing = dataclasses.field(default_factory=Annealing)
    num_examples: int | None = None
    num_simulated: int = 100


def evaluate_annealed(
    experiment: Experiment,
    params: Params,
    settings: AnnealedEvaluation,
    *,
    split: str,
    placement: Placement,
    step: int,
    partial: Path,
    report: Report = lambda what, done, total: None,
) -> dict[str, Any]:
    """Return the negative log-likelihood of a split by annealed importance sampling, and what bounds its error.

    The examples are computed in chunks that fit in the memory, each spread over the devices. The results of each chunk
    are stored; a call with the same arguments continues after the last one, and one after the end computes nothing.
    Remove the file after the result is stored.

    Args:
      experiment: what was trained.
      params: parameters of the model, or `Variables`.
      settings: the path, and how many examples.
      split: train, validation, test or all.
      placement: the devices.
      step: the step of the weights.
      partial: the file of the chunks, .npz.
      report: called before the first chunk and after each.

    Returns:
      `nll` = -log p(x) in nats per example, `nll_se` (the standard error over the examples), `monte_carlo_se` (that of
      the chains; None for a single chain), `ess` (the median effective number of chains), `acceptance`, the protocol,
      and `bdmc`: means of the `lower` and `upper` bound of simulated examples, and their difference `gap` with its
      standard error.

    Raises:
      InputError: the model has no density or a discrete layer, or there are too few examples.
      NotFiniteError: an estimate is not finite.
    """
    dataset = experiment.dataset(split)
    count = _num_examples(experiment, settings, split, dataset)
    protocol = _protocol(experiment, settings, split, count, step)
    weights = checksums.describe_leaves(jax.tree.map(jnp.asarray, params))
    compared = {**protocol, "weights": weights, "examples": dataset.summary.fingerprints}
    chunks = _Chunks(experiment, params, settings.annealing, placement, split, partial, compared)
    values = chunks.compute("data", dataset.read(np.arange(count)), functools.partial(report, "examples"))
    result = {**protocol, **_summarize(values)}
    if settings.num_simulated:
        conditions = dataset.read(np.arange(settings.num_simulated) % len(dataset))
        bounds = chunks.compute("simulated", conditions, functools.partial(report, "simulated examples"))
        result["bdmc"] = _summarize_bounds(bounds)
    return result


def _num_examples(experiment: Experiment, settings: AnnealedEvaluation, split: str, dataset: ArrayDataset) -> int:
    """Return the number of examples to evaluate; raise InputError if there are fewer, or without a density of each."""
    available = len(dataset)
    if not has_density(experiment):
        raise InputError(
            "likelihood=ais needs a model whose posterior has a density, and this one is deterministic; evaluate it "
            "without --likelihood ais"
        )
    refuse_unknown_labels(experiment.model, dataset.arrays, "ais")
    count = available if settings.num_examples is None else settings.num_examples
    if not 0 < count <= available:
        raise InputError(f"--ais.examples={count} must be from 1 to {available}, the examples of the split {split}")
    return count


def _protocol(
    experiment: Experiment, settings: AnnealedEvaluation, split: str, count: int, step: int
) -> dict[str, Any]:
    """Return what the result depends on besides the weights and the examples."""
    shared = {n: v for n, v in evaluation_protocol(experiment).items() if n != "num_samples"}
    sizes = {"step": step, "split": split, "num_examples": count, "num_simulated": settings.num_simulated}
    return {**sizes, **dataclasses.asdict(settings.annealing), **shared}


def _summarize(values: Mapping[str, np.ndarray]) -> dict[str, Any]:
    error = float(np.sqrt(np.sum(np.square(values["error"], dtype=np.float64))) / len(values["error"]))
    return {
        **mean_and_error("nll", -_finite(values["log_px"])), "monte_carlo_se": error if np.isfinite(error) else None,
        "ess": float(np.median(values["ess"])), "acceptance": float(values["acceptance"].mean(dtype=np.float64)),
    }  # fmt: skip


def _summarize_bounds(values: Mapping[str, np.ndarray]) -> dict[str, Any]:
    lower, upper = (_finite(values[name]).astype(np.float64) for name in ("lower", "upper"))
    means = {"lower": float(lower.mean()), "upper": float(upper.mean())}
    return {**means, **mean_and_error("gap", upper - lower), "num_examples": len(lower)}


def _finite(values: np.ndarray) -> np.ndarray:
    if not np.isfinite(values).all():
        wrong = int((~np.isfinite(values)).sum())
        raise NotFiniteError(f"annealed importance sampling is not finite for {wrong} of {len(values)} examples")
    return values


def data_terms(
    params: Params, keys: Array, batch: Batch, *, model: Any, preprocess: Any, settings: Annealing
) -> dict[str, Array]:
    """Return the estimates of stored examples, [B] each; the preprocessing draws as in the other evaluations."""
    batch = preprocess(random.fold_in(keys, 0), batch)
    found = annealed_log_likelihood(params, random.fold_in(keys, 3), batch, model=model, settings=settings)
    acceptance = jnp.mean(found.acceptance, axis=0) if len(found.acceptance) else jnp.ones_like(found.log_px)
    return {"log_px": found.log_px, "error": found.error, "ess": found.ess, "acceptance": acceptance}


def simulated_terms(
    params: Params, keys: Array, batch: Batch, *, model: Any, preprocess: Any, settings: Annealing
) -> dict[str, Array]:
    """Return the bounds of simulated examples, [B] each; stored examples give what a model reads besides x."""
    batch = preprocess(random.fold_in(keys, 0), batch)
    lower, upper = bidirectional_bounds(params, random.fold_in(keys, 3), batch, model=model, settings=settings)
    return {"lower": lower.log_px, "upper": upper.log_px}


@dataclasses.dataclass(frozen=True)
class _Chunks:
    """The computation in chunks, whose results a file stores: arrays by name, and the protocol as JSON.

    All of the protocol, with a checksum of the weights and the examples, is compared before stored chunks are used.
    """

    experiment: Experiment
    params: Params
    annealing: Annealing
    placement: Placement
    split: str
    partial: Path
    protocol: dict[str, Any]

    def compute(
        self, kind: str, arrays: Mapping[str, np.ndarray], report: Callable[[int, int], None]
    ) -> dict[str, np.ndarray]:
        """Return the values of all examples of a kind, "data" or "simulated"; stored ones are not computed again."""
        stored = self._read()
        done = {name.removeprefix(f"{kind}/"): a for name, a in stored.items() if name.startswith(f"{kind}/")}
        others = {name: a for name, a in stored.items() if not name.startswith(f"{kind}/")}
        total, first = len(arrays["x"]), len(next(iter(done.values()), ()))
        program, size, key = self._program(kind), self._chunk_size(total), self.experiment.evaluation_key(self.split)
        offset = _SIMULATED if kind == "simulated" else 0
        report(first, total)
        rest = {name: array[first:] for name, array in arrays.items()}
        for count, batch in padded_batches(rest, size) if first < total else ():
            where = {"batch_size": size, "first": offset + first, "placement": self.placement.batch}
            values = evaluate_examples(program, self.params, key, batch, **where)
            done = {n: np.concatenate([done[n], v[:count]]) if n in done else v[:count] for n, v in values.items()}
            self._write(others | {f"{kind}/{name}": array for name, array in done.items()})
            first += count
            report(first, total)
        return done

    def _chunk_size(self, total: int) -> int:
        """Return how many examples are computed at once: with their chains, half of the samples of an evaluation."""
        sizes = memory.evaluation_sizes(self.experiment, self.placement)
        fitting = max(1, sizes.batch_size * sizes.chunk // (2 * self.annealing.num_chains))
        return math.ceil(total / math.ceil(total / fitting))

    def _program(self, kind: str) -> Callable[..., dict[str, Array]]:
        terms = data_terms if kind == "data" else simulated_terms
        experiment, replicated = self.experiment, NamedSharding(self.placement.mesh, PartitionSpec())
        fixed = {"model": experiment.model, "preprocess": experiment.preprocess, "settings": self.annealing}
        options = self.placement.compiler_options
        return jax.jit(functools.partial(terms, **fixed), out_shardings=replicated, compiler_options=options)

    def _fingerprint(self) -> np.ndarray:
        return np.array(json.dumps(self.protocol, sort_keys=True))

    def _read(self) -> dict[str, np.ndarray]:
        stored = read_scores(self.partial)
        same = str(stored.pop("protocol", "")) == str(self._fingerprint())
        return stored if same else {}

    def _write(self, arrays: Mapping[str, np.ndarray]) -> None:
        content = {**arrays, "protocol": self._fingerprint()}
        atomic_files.write_file(self.partial, lambda file: np.savez(file, allow_pickle=False, **content))
