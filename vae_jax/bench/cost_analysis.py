"""Static cost analysis of a program: matrix products, XLA's cost model, memory and collectives."""

import dataclasses
import functools
import math
import re
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.interpreters import partial_eval


class Product(NamedTuple):
    """A matrix product or a convolution of a program.

    Attributes:
      flops: Floating-point operations of one execution; a multiplication and an addition count as two.
      output_bytes: The size of the result.
      times: The number of executions. The body of a loop of unknown length counts once.
      equation: The equation of the jaxpr, with the shapes and the contracted dimensions.
    """

    flops: float
    output_bytes: int
    times: int
    equation: Any


def matrix_products(jaxpr: Any) -> Iterator[Product]:
    """Yield every matrix product and convolution of a jaxpr.

    A product [M, K] x [K, N] has 2·M·K·N operations. A convolution has 2 operations for each output and each weight
    that contributes to it. Of the branches of a `cond`, the one with the most operations counts. Results that are not
    used do not count, and neither do products with a vector, which are limited by memory bandwidth.

    Args:
      jaxpr: A jaxpr, closed or not.

    Yields:
      The products. Those inside a `scan` have `times` multiplied by its length.
    """
    jaxpr = getattr(jaxpr, "jaxpr", jaxpr)
    jaxpr, _ = partial_eval.dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))
    for equation in jaxpr.eqns:
        name, parameters = equation.primitive.name, equation.params
        if name == "dot_general" and _has_vector_operand(equation):
            continue
        if name in ("dot_general", "conv_general_dilated"):
            out = equation.outvars[0].aval
            yield Product(2.0 * out.size * _contraction_size(equation), out.size * out.dtype.itemsize, 1, equation)
        elif name == "cond":
            branches = [list(matrix_products(branch)) for branch in parameters["branches"]]
            yield from max(branches, key=total_flops)
        else:
            times = parameters["length"] if name == "scan" else 1
            for inner in _inner_jaxprs(parameters):
                yield from (product._replace(times=product.times * times) for product in matrix_products(inner))


def _has_vector_operand(equation: Any) -> bool:
    """Return whether an operand of a product has only contracted and batch dimensions."""
    contracted, batched = equation.params["dimension_numbers"]
    sides = zip((variable.aval.ndim for variable in equation.invars), contracted, batched, strict=True)
    return any(ndim == len(over) + len(batch) for ndim, over, batch in sides)


def _contraction_size(equation: Any) -> int:
    """Return the number of products that are summed for one element of the output."""
    left, right = (variable.aval.shape for variable in equation.invars)
    if equation.primitive.name == "dot_general":
        (contracted, _), _ = equation.params["dimension_numbers"]
        return math.prod(left[i] for i in contracted)
    return math.prod(right) // right[equation.params["dimension_numbers"].rhs_spec[0]]


def _inner_jaxprs(parameters: dict[str, Any]) -> Iterator[Any]:
    for value in parameters.values():
        for part in value if isinstance(value, tuple | list) else (value,):
            if hasattr(getattr(part, "jaxpr", part), "eqns"):
                yield part


def total_flops(products: Iterable[Product]) -> float:
    """Return the operations of all products, each multiplied by its number of executions."""
    return sum(product.flops * product.times for product in products)


def main_dtype(products: Iterable[Product]) -> str:
    """Return the dtype of the operands of most operations of some products; float32 if there are none."""
    flops: dict[str, float] = {}
    for product in products:
        name = str(product.equation.invars[0].aval.dtype)
        flops[name] = flops.get(name, 0.0) + product.flops * product.times
    return max(flops, key=lambda name: flops[name], default="float32")


def rematerializes(jaxpr: Any) -> bool:
    """Return whether a part of a program is under `jax.checkpoint`, whose gradient computes it again."""
    equations = getattr(jaxpr, "jaxpr", jaxpr).eqns
    return any(  # only the primitive of `jax.checkpoint`, whose name depends on JAX's version, has this parameter
        "prevent_cse" in equation.params or any(rematerializes(inner) for inner in _inner_jaxprs(equation.params))
        for equation in equations
    )


def xla_costs(stage: Any) -> dict[str, float]:
    """Return the costs of a lowered or compiled program by XLA's cost model, in which a loop's body counts once.

    Args:
      stage: A `jax.stages.Lowered` or `jax.stages.Compiled`.

    Returns:
      `flops`, with every operation counted, those on integers too; and `bytes`, read and written by all operations,
      fused or not. Empty if XLA has no analysis.
    """
    costs: Any = stage.cost_analysis()
    if isinstance(costs, list):
        costs = costs[0] if costs else {}
    names = {"flops": "flops", "bytes": "bytes accessed"}
    return {name: float(costs[key]) for name, key in names.items() if key in (costs or {})}


def memory(compiled: Any) -> dict[str, int]:
    """Return the memory of each device while a compiled program runs.

    Args:
      compiled: A `jax.stages.Compiled`.

    Returns:
      Bytes of `arguments`, of `results` that do not share memory with arguments, of `temporary` buffers, and their
      sum `total`. Empty if XLA does not report memory.
    """
    analysis = compiled.memory_analysis()
    if analysis is None:
        return {}
    parts = {
        "arguments": int(analysis.argument_size_in_bytes),
        "results": int(analysis.output_size_in_bytes - analysis.alias_size_in_bytes),
        "temporary": int(analysis.temp_size_in_bytes),
    }
    return parts | {"total": sum(parts.values())}


@dataclasses.dataclass(frozen=True)
class Collective:
    """The communication of one training step by one kind of collective operation.

    Attributes:
      kind: The name of the HLO operation, one of `COLLECTIVES`.
      count: The number of executions.
      bytes: The size of all results, on each device.
    """

    kind: str
    count: int
    bytes: int


COLLECTIVES = ("all-reduce", "all-gather", "all-to-all", "collective-permute", "collective-broadcast",
               "reduce-scatter", "ragged-all-to-all")  # fmt: skip
_COLLECTIVE = re.compile(rf"= (?P<shape>.*?) (?P<kind>{'|'.join(COLLECTIVES)})(?P<start>-start)?\(")
_COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) \(.*\{$")
_CALLED = re.compile(
    r"(?:body|condition|calls|to_apply)=%?([\w.\-]+)|(?:branch_computations|called_computations)={([^}]*)}"
)
_TRIP_COUNT = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_SHAPE = re.compile(r"\b([a-z]+\d*[a-z0-9]*)\[([\d,]*)\]")


def collectives(text: str) -> list[Collective]:
    """Return the collective operations of one training step of a compiled program, by kind.

    An outermost loop, such as the loop over steps, counts for one iteration. A loop inside it counts for all its
    iterations if their number is known to the compiler.

    Args:
      text: The HLO text of the program, `compiled.as_text()`.

    Returns:
      One entry for each kind, sorted by kind.
    """
    times = _executions(text)
    totals: dict[str, list[int]] = {}
    for computation, line in _lines(text):
        if match := _COLLECTIVE.search(line):
            sizes = [_bytes(*shape) for shape in _SHAPE.findall(match["shape"])]
            # The shape of an asynchronous start contains the operands and the results, except for all-reduce.
            size = max(sizes) if match["start"] and match["kind"] != "all-reduce" else sum(sizes)
            entry = totals.setdefault(match["kind"], [0, 0])
            entry[0] += times.get(computation, 1)
            entry[1] += times.get(computation, 1) * size
    return [Collective(kind, count, size) for kind, (count, size) in sorted(totals.items())]


def _lines(text: str) -> Iterator[tuple[str, str]]:
    """Yield (name of the computation, line) of an HLO text."""
    computation = ""
    for line in text.splitlines():
        if match := _COMPUTATION.match(line):
            computation = match[1]
        else:
            yield computation, line


def _executions(text: str) -> dict[str, int]:
    """Return how often each called computation runs in one iteration of the outermost loops."""
    calls: dict[str, list[tuple[str, int | None]]] = {}  # called: (caller, iterations of a loop; None if it is no loop)
    for caller, line in _lines(text):
        iterations = (int(match[1]) if (match := _TRIP_COUNT.search(line)) else 1) if " while(" in line else None
        for one, several in _CALLED.findall(line):
            for called in [one] if one else re.findall(r"[\w.\-]+", several):
                calls.setdefault(called, []).append((caller, iterations))

    @functools.cache
    def in_loop(name: str) -> bool:
        return any(iterations is not None or in_loop(caller) for caller, iterations in calls.get(name, ()))

    @functools.cache
    def count(name: str) -> int:
        if name not in calls:
            return 1
        return sum((n or 1) * count(caller) if in_loop(caller) else count(caller) for caller, n in calls[name])

    return {name: count(name) for name in calls}


def _bytes(kind: str, lengths: str) -> int:
    bits = int(
        re.sub(r"\D.*", "", kind.lstrip("abcdefghijklmnopqrstuvwxyz")) or 8
    )  # The type pred has no number and takes a byte.
    return math.prod(int(length) for length in lengths.split(",") if length) * max(1, bits // 8)


def tree_bytes(tree: Any, *, on_device: bool = False) -> int:
    """Return the bytes of all arrays of a pytree.

    Args:
      tree: A pytree of arrays, or of shapes with dtypes.
      on_device: If True, count the bytes on each device, by the leaves' shardings.

    Returns:
      The number of bytes. A PRNG key counts with its data.
    """

    def size(leaf: Any) -> int:
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return tree_bytes(jax.eval_shape(jax.random.key_data, leaf))
        shape = leaf.sharding.shard_shape(leaf.shape) if on_device else leaf.shape
        return math.prod(shape) * np.dtype(leaf.dtype).itemsize

    return sum(size(leaf) for leaf in jax.tree.leaves(tree))
