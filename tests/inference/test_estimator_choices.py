"""Settings of estimators: the function of each choice, and the objectives that support it."""

import dataclasses
import re

import pytest

from vae_jax.config import Config, apply_overrides, choices, register
from vae_jax.errors import InputError
from vae_jax.inference.estimators import EstimatorConfig, doubly_reparameterized, pathwise, sticking_the_landing

ESTIMATORS = {name: cls().build() for name, cls in choices("estimator").items()}


def test_each_choice_builds_its_function():
    functions = (pathwise, sticking_the_landing, doubly_reparameterized)
    assert (
        dict(zip(("pathwise", "sticking-the-landing", "doubly-reparameterized"), functions, strict=True)) == ESTIMATORS
    )
    with pytest.raises(NotImplementedError, match=r"^EstimatorConfig has no method `build`; return a function"):
        EstimatorConfig().build()


SUPPORTED = {
    "sticking-the-landing": ("sampled-elbo",),
    "doubly-reparameterized": ("iwae", "renyi", "miwae", "ciwae", "piwae", "cubo"),
}


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_an_objective_that_the_estimator_does_not_support_is_refused(estimator):
    for name in choices("objective"):
        given = {"objective": name, "estimator": estimator}
        if name in SUPPORTED.get(estimator, tuple(choices("objective"))):
            assert apply_overrides(Config(), given).estimator.build() is ESTIMATORS[estimator]
            continue
        *first, last = SUPPORTED[estimator]
        needed = f"{', '.join(first)} or {last}" if first else last
        message = f"estimator={estimator} must be pathwise with objective={name}; {estimator} needs {needed}"
        with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
            apply_overrides(Config(), given)


def test_a_user_defined_estimator_is_available_for_every_objective():
    name, known = "test-negated", choices("estimator")
    try:

        @register("estimator", name)
        @dataclasses.dataclass(frozen=True)
        class NegatedConfig(EstimatorConfig):
            def build(self):
                return lambda passes, *, objective: passes.sampled()

        for objective in ("elbo", "iwae", "beta-tc"):
            apply_overrides(Config(), {"objective": objective, "estimator": name})
    finally:
        known.pop(name, None)
