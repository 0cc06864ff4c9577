"""Parts of an experiment that is made by hand as text, which a resumed run compares."""

import functools
import re
from typing import Any


def describe_part(part: Any) -> str:
    """Return a part of an experiment as text without addresses of memory, so that each start of a script has the same.

    Args:
      part: a module, a function, a `functools.partial` or a number.

    Returns:
      The name of a function, with the arguments of a partial; the repr of anything else.
    """
    if isinstance(part, functools.partial):
        given = [*map(describe_part, part.args)]
        given += [f"{name}={describe_part(value)}" for name, value in part.keywords.items()]
        return f"{describe_part(part.func)}({', '.join(given)})"
    named = getattr(part, "__qualname__", None)
    return named or " ".join(re.sub(r" at 0x[0-9a-f]+", "", repr(part)).split())
