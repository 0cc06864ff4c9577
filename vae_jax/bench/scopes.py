"""bench.scopes."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from vae_jax.bench.cost_analysis import COLLECTIVES

SCOPES = ("read_images", "encoder", "sampling", "decoder", "likelihood", "optimizer")  # named where they are computed
_LOSS = "loss_and_gradient"  # what of it lies in none of these: divergences, the objective
_OPERATION = re.compile(
    r'^\s*(?:ROOT )?%?([\w.\-]+) = (?:\(.*?\)|\S+) ([\w\-]+)\(.*metadata={[^}]*op_name="([^"]*)"', re.M
)


def operation_scopes(text: str) -> dict[str, str]:
    """{operation: the scope it was traced in, `, backwards` added where it is of the gradient} of a compiled program.

    A fused operation has the scope of its last part; talk between devices is `collectives`. Loops and
    branches, whose parts are operations too, are left out.
    """
    found = {}
    for operation, kind, path in _OPERATION.findall(text):
        names = re.split(r"[/()]", path)
        scope = next((name for name in names if name in SCOPES), _LOSS if _LOSS in names else "other")
        if kind.removesuffix("-start").removesuffix("-done") in COLLECTIVES:
            found[operation] = "collectives"
        elif kind not in ("while", "conditional"):
            found[operation] = scope + (", backwards" if "transpose" in names and scope in SCOPES else "")
    return found


def seconds_by_scope(events: Iterable[Mapping[str, Any]], parts: Mapping[str, str]) -> dict[str, float]:
    """{part of the step: seconds of its operations}, longest first, of the events of a trace and `parts_of_a_step`.

    Operations of other names, as those of other programs, do not count.
    """
    found: dict[str, float] = {}
    for event in events:
        part = parts.get(event.get("args", {}).get("hlo_op", ""))
        if part is not None:
            found[part] = found.get(part, 0.0) + 1e-6 * event.get("dur", 0.0)
    return dict(sorted(found.items(), key=lambda item: -item[1]))
