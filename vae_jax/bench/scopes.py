"""Time of the parts of a training step, from a profiler trace and the named scopes of the compiled program."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from vae_jax.bench.cost_analysis import COLLECTIVES

SCOPES = (
    "preprocess",
    "encoder",
    "sampling",
    "decoder",
    "likelihood",
    "optimizer",
)  # `jax.named_scope` of each part of a step
_LOSS = "loss_and_gradient"  # the scope around the loss; here the operations in none of the scopes above
_OPERATION = re.compile(
    r'^\s*(?:ROOT )?%?([\w.\-]+) = (?:\(.*?\)|\S+) ([\w\-]+)\(.*metadata={[^}]*op_name="([^"]*)"', re.M
)


def operation_scopes(text: str) -> dict[str, str]:
    """Return the named scope of each operation of a compiled program.

    Args:
      text: The HLO text of the program, `compiled.as_text()`.

    Returns:
      {operation: scope}. An operation has the innermost of its scopes: samples are drawn inside of the decoder's walk.
      Operations of the gradient have ", backward" after the scope. A fused operation has the scope of its last part.
      Communication between devices is `collectives`. Loops and branches are omitted, because
      their bodies consist of operations that are listed themselves.
    """
    result = {}
    for operation, kind, path in _OPERATION.findall(text):
        names = re.split(r"[/()]", path)
        scope = next((name for name in reversed(names) if name in SCOPES), _LOSS if _LOSS in names else "other")
        if kind.removesuffix("-start").removesuffix("-done") in COLLECTIVES:
            result[operation] = "collectives"
        elif kind not in ("while", "conditional"):
            result[operation] = scope + (", backward" if "transpose" in names and scope in SCOPES else "")
    return result


def seconds_by_scope(events: Iterable[Mapping[str, Any]], operations: Mapping[str, str]) -> dict[str, float]:
    """Return the time of each scope in a trace.

    Args:
      events: The `traceEvents` of a Perfetto trace.
      operations: {operation: scope} of the traced program, from `operation_scopes`.

    Returns:
      {scope: seconds}, longest first. Operations of other programs do not count.
    """
    seconds: dict[str, float] = {}
    for event in events:
        scope = operations.get(event.get("args", {}).get("hlo_op", ""))
        if scope is not None:
            seconds[scope] = seconds.get(scope, 0.0) + 1e-6 * event.get("dur", 0.0)
    return dict(sorted(seconds.items(), key=lambda item: -item[1]))
