"""Parameters of tests of which a part runs by default, and all with `-m ""`."""

import pytest


def by_default(kept, parameters):
    """Return the parameters; those for which `kept` returns False are thorough."""
    return [p if kept(p) else pytest.param(*(p if isinstance(p, tuple) else (p,)), marks=pytest.mark.thorough)
            for p in parameters]  # fmt: skip
