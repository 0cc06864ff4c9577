"""The sizes of batches and chunks with which an evaluation fits in the free memory, from shapes alone."""

import contextlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
from jax import Array

from vae_jax.errors import InputError
from vae_jax.inference import bound_parts, sample_terms
from vae_jax.runs.experiment.experiment import Experiment
from vae_jax.runs.experiment.program_cache import cache_on_experiment
from vae_jax.runtime import Placement, defaults, host, multihost
from vae_jax.training import TrainState

_PROBE = 1009  # examples of the trace; a prime number, so that an axis that it divides is one of examples
_ARRAYS = 3  # as large as the largest one and in memory at once, at most; 1.6 for a mixture of logistics


class Walk(NamedTuple):
    """What a trace of one walk through a model shows.

    Attributes:
      parts: the names of the parts of the bound, see `bound_parts`.
      largest: bytes of the largest array of one sample for one example.
      is_certain: whether q(z|x) has one value, such as `ChosenCodes`, so that all samples are equal.
    """

    parts: frozenset[str]
    largest: int
    is_certain: bool


class Sizes(NamedTuple):
    """How much of an evaluation is computed at once.

    Attributes:
      batch_size: examples.
      chunk: samples of each example.
    """

    batch_size: int
    chunk: int


@cache_on_experiment
def trace_walk(experiment: Experiment) -> Walk:
    """Return what a trace of the model shows; nothing is computed.

    Args:
      experiment: its model is traced with abstract arrays.
    """
    batch = {
        name: jax.ShapeDtypeStruct((_PROBE, *array.shape[1:]), array.dtype)
        for name, array in experiment.example_batch.items()
    }

    certain: list[bool] = []

    def parts(state: TrainState, key: Array, batch: dict[str, Array]) -> dict[str, Array]:
        terms = sample_terms(experiment.evaluation_params(state), key, batch, model=experiment.model)
        certain.extend(getattr(latent.posterior, "is_certain", False) for latent in terms.latents)
        return bound_parts(terms)

    jaxpr, shapes = jax.make_jaxpr(parts, return_shape=True)(experiment.abstract_state, experiment.key, batch)
    return Walk(frozenset(shapes), max(_bytes_of_one(jaxpr.jaxpr), default=0), all(certain))


def _bytes_of_one(jaxpr: Any) -> Iterator[int]:
    """Yield the bytes for one example of each array in a program that has an axis of examples."""
    for equation in jaxpr.eqns:
        for variable in equation.outvars:
            shape = getattr(variable.aval, "shape", ())
            if any(length and length % _PROBE == 0 for length in shape):
                yield variable.aval.size * variable.aval.dtype.itemsize // _PROBE
        for value in equation.params.values():
            for part in value if isinstance(value, tuple | list) else (value,):
                inner = getattr(part, "jaxpr", part)
                if hasattr(inner, "eqns"):
                    yield from _bytes_of_one(inner)


def max_samples(experiment: Experiment, placement: Placement) -> int | None:
    """Return how many samples of x a device can decode at once in its free memory, at least one; None if unknown.

    With several processes the result is that of the first one for all.

    Args:
      experiment: its model is traced with abstract arrays.
      placement: the devices.
    """

    def count() -> int | None:
        free = host.free_memory(placement.mesh.size if jax.default_backend() == "cpu" else 1)
        return None if free is None else max(1, free // (_ARRAYS * max(trace_walk(experiment).largest, 1)))

    return multihost.broadcast_from_primary(count)


def _reduced(size: int, limit: int | None) -> int:
    """Return a size, or the largest power of two within the limit, so that small changes of it have no effect."""
    return size if limit is None or size <= limit else 1 << (limit.bit_length() - 1)


def evaluation_sizes(experiment: Experiment, placement: Placement) -> Sizes:
    """Return `evaluation.batch_size` and `evaluation.chunk`, reduced where they do not fit in the free memory.

    First the chunk is reduced, then the batch. The results do not depend on them, and the number of samples is kept.

    Args:
      experiment: what is evaluated.
      placement: the devices.
    """
    batch_size, chunk = experiment.evaluation.batch_size, defaults.evaluation_chunk(experiment.evaluation.chunk)
    limit, devices = max_samples(experiment, placement), placement.mesh.size
    if limit is None:
        return Sizes(batch_size, chunk)
    rows = -(-batch_size // devices)
    fitting = _reduced(rows, limit)
    return Sizes(batch_size if fitting == rows else fitting * devices, _reduced(chunk, max(1, limit // fitting)))


def reduction_note(experiment: Experiment, placement: Placement) -> str | None:
    """Return a line about the sizes that `evaluation_sizes` reduces; None if the evaluation fits as it is set.

    Args:
      experiment: what is evaluated.
      placement: the devices.
    """
    asked = Sizes(experiment.evaluation.batch_size, defaults.evaluation_chunk(experiment.evaluation.chunk))
    used = evaluation_sizes(experiment, placement)
    if used == asked:
        return None
    return (
        f"evaluation.batch_size={asked.batch_size} and evaluation.chunk={asked.chunk} do not fit in the free memory; "
        f"the evaluation uses {used.batch_size} and {used.chunk}, with the same results"
    )


def decoding_batch(experiment: Experiment, placement: Placement, batch_size: int) -> int:
    """Return a number of examples that are encoded or decoded at once, reduced where they do not fit in the memory."""
    return _reduced(batch_size, max_samples(experiment, placement))


@contextlib.contextmanager
def refuse_lack_of_memory(what: str) -> Iterator[None]:
    """Turn a lack of memory into one line.

    Args:
      what: what needs the memory, for the error.

    Raises:
      InputError: the devices or the host have not enough memory for the block.
    """
    try:
        yield
    except MemoryError:
        pass
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
    else:
        return
    raise InputError(
        f"{what} needs more memory than is free; the saved checkpoints are complete: free some memory and repeat the "
        "command, or lower evaluation.batch_size and evaluation.chunk"
    )
