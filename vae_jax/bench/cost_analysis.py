"""What a program costs before it has run: its matrix products, XLA's own analysis, its memory, its collectives."""

import functools
import math
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from jax.interpreters import partial_eval


class Product(NamedTuple):
    """A matrix product or a convolution of a program."""

    flops: float  # multiplications and additions, each counted as one
    output_bytes: int
    times: int  # that it is computed; the body of a loop of unknown length counts once
    equation: Any  # of the jaxpr: shapes, and what is summed over


def matrix_products(jaxpr: Any) -> Iterator[Product]:
    """Every matrix product and convolution of a jaxpr, those in scans as often as they run, of branches the dearest.

    A product [M, K] x [K, N] is 2·M·K·N operations; a convolution 2 for each output and each weight that it sees. What
    nothing reads is not computed and does not count; nor does a product with a vector, a sum whose cost is reading.
    """
    jaxpr = getattr(jaxpr, "jaxpr", jaxpr)
    jaxpr, _ = partial_eval.dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))
    for equation in jaxpr.eqns:
        name, parameters = equation.primitive.name, equation.params
        if name == "dot_general" and _with_a_vector(equation):
            continue
        if name in ("dot_general", "conv_general_dilated"):
            out = equation.outvars[0].aval
            yield Product(2.0 * out.size * _summed(equation), out.size * out.dtype.itemsize, 1, equation)
        elif name == "cond":
            branches = [list(matrix_products(branch)) for branch in parameters["branches"]]
            yield from max(branches, key=total_flops)
        else:
            times = parameters["length"] if name == "scan" else 1
            for inner in _inner(parameters):
                yield from (product._replace(times=product.times * times) for product in matrix_products(inner))


def _with_a_vector(equation: Any) -> bool:
    """Whether one side of a product has no dimension of its own."""
    contracted, batched = equation.params["dimension_numbers"]
    sides = zip((variable.aval.ndim for variable in equation.invars), contracted, batched, strict=True)
    return any(ndim == len(over) + len(batch) for ndim, over, batch in sides)


def _summed(equation: Any) -> int:
    """How many products are added for one output."""
    left, right = (variable.aval.shape for variable in equation.invars)
    if equation.primitive.name == "dot_general":
        (contracted, _), _ = equation.params["dimension_numbers"]
        return math.prod(left[i] for i in contracted)
    return math.prod(right) // right[equation.params["dimension_numbers"].rhs_spec[0]]


def _inner(parameters: dict[str, Any]) -> Iterator[Any]:
    for value in parameters.values():
        for part in value if isinstance(value, tuple | list) else (value,):
            if hasattr(getattr(part, "jaxpr", part), "eqns"):
                yield part


def total_flops(products: Any) -> float:
    """The operations of all products, each as often as it is computed."""
    return sum(product.flops * product.times for product in products)


def xla_costs(stage: Any) -> dict[str, float]:
    """{"flops", "bytes"} by XLA's analysis of a lowered or compiled program, a loop's body once; {} where it has none.

    Every operation counts, those on integers too; `bytes` are those that operations read and write, fused or not.
    """
    found = stage.cost_analysis()
    found = found[0] if isinstance(found, list) and found else found or {}
    names = {"flops": "flops", "bytes": "bytes accessed"}
    return {name: float(found[key]) for name, key in names.items() if key in found}


def memory(compiled: Any) -> dict[str, int]:
    """Bytes on each device while a compiled program runs: `arguments`, `results` that lie elsewhere, `temporary`, and
    their sum `total`; {} where XLA does not tell."""
    found = compiled.memory_analysis()
    if found is None:
        return {}
    parts = {
        "arguments": int(found.argument_size_in_bytes),
        "results": int(found.output_size_in_bytes - found.alias_size_in_bytes),
        "temporary": int(found.temp_size_in_bytes),
    }
    return parts | {"total": sum(parts.values())}


class Collective(NamedTuple):
    """One kind of talk between devices, over one step."""

    kind: str
    count: int
    bytes: int  # of the results, on each device


COLLECTIVES = ("all-reduce", "all-gather", "all-to-all", "collective-permute", "collective-broadcast",
               "reduce-scatter", "ragged-all-to-all")  # fmt: skip
_COLLECTIVE = re.compile(rf"= (?P<shape>.*?) (?P<kind>{'|'.join(COLLECTIVES)})(?P<start>-start)?\(")
_COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) \(.*\{$")
_CALLED = re.compile(
    r"(?:body|condition|calls|to_apply)=%?([\w.\-]+)|(?:branch_computations|called_computations)={([^}]*)}"
)
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_SHAPE = re.compile(r"\b([a-z]+\d*[a-z0-9]*)\[([\d,]*)\]")


def collectives(text: str) -> list[Collective]:
    """The collectives of a step of a compiled program, by kind, from its text, `compiled.as_text()`.

    Of loops that are in no other, as is that over the steps, one turn counts; of those within all, where it is known
    how many.
    """
    times = _times(text)
    found: dict[str, list[int]] = {}
    for computation, line in _lines(text):
        if match := _COLLECTIVE.search(line):
            sizes = [_bytes(*shape) for shape in _SHAPE.findall(match["shape"])]
            # An asynchronous start carries its operands beside its results, all-reduce alone does not.
            size = max(sizes) if match["start"] and match["kind"] != "all-reduce" else sum(sizes)
            entry = found.setdefault(match["kind"], [0, 0])
            entry[0] += times.get(computation, 1)
            entry[1] += times.get(computation, 1) * size
    return [Collective(kind, count, size) for kind, (count, size) in sorted(found.items())]


def _lines(text: str) -> Iterator[tuple[str, str]]:
    computation = ""
    for line in text.splitlines():
        if match := _COMPUTATION.match(line):
            computation = match[1]
        else:
            yield computation, line


def _times(text: str) -> dict[str, int]:
    """How often each computation that another calls runs in a turn of the outermost loops."""
    calls: dict[str, list[tuple[str, int | None]]] = {}  # called: (caller, turns of a loop, None where it is none)
    for caller, line in _lines(text):
        turns = (int(match[1]) if (match := _TRIPS.search(line)) else 1) if " while(" in line else None
        for one, several in _CALLED.findall(line):
            for called in [one] if one else re.findall(r"[\w.\-]+", several):
                calls.setdefault(called, []).append((caller, turns))

    @functools.cache
    def in_a_loop(name: str) -> bool:
        return any(turns is not None or in_a_loop(caller) for caller, turns in calls.get(name, ()))

    @functools.cache
    def of(name: str) -> int:
        if name not in calls:
            return 1
        return sum((turns or 1) * of(caller) if in_a_loop(caller) else of(caller) for caller, turns in calls[name])

    return {name: of(name) for name in calls}


def _bytes(kind: str, lengths: str) -> int:
    bits = int(re.sub(r"\D.*", "", kind.lstrip("abcdefghijklmnopqrstuvwxyz")) or 8)  # pred has none, and takes a byte
    return math.prod(int(length) for length in lengths.split(",") if length) * max(1, bits // 8)


def tree_bytes(tree: Any, *, on_device: bool = False) -> int:
    """The bytes of all arrays, or shapes, of a pytree; or those on each device, where they have shardings."""
    import jax

    def size(leaf: Any) -> int:
        if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return tree_bytes(jax.eval_shape(jax.random.key_data, leaf))
        shape = leaf.sharding.shard_shape(leaf.shape) if on_device else leaf.shape
        return math.prod(shape) * np.dtype(leaf.dtype).itemsize

    return sum(size(leaf) for leaf in jax.tree.leaves(tree))
