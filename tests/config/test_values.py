"""The type and the range of a value, apart from those that `test_validation.py` checks as settings of a config."""

from typing import Literal

import pytest

from vae_jax.config.fields import Rule
from vae_jax.config.presets import PRESETS
from vae_jax.config.values import check_value, suggestion
from vae_jax.errors import InputError


def test_a_value_of_its_type_and_range_is_accepted():
    check_value("a", 3, int, Rule("", above=0))
    check_value("a", 3, float, Rule("", maximum=3))
    check_value("a", None, int | None, Rule("", above=0))
    check_value("a", (1, 2), tuple[int, ...], Rule("", above=0))


@pytest.mark.fault
@pytest.mark.parametrize(
    ("value", "annotation", "rule", "allowed"),
    [
        (0, int, Rule("", above=0), "greater than 0"),
        (2.0, int, Rule(""), "of type int"),
        ("b", Literal["abc"], Rule(""), "one of abc"),
        (True, float, Rule(""), "a number"),
    ],
)
def test_another_value_is_refused(value, annotation, rule, allowed):
    shown = repr(value)
    with pytest.raises(InputError) as caught:
        check_value("a", value, annotation, rule)
    assert str(caught.value) == f"a={shown} must be {allowed}"


def test_a_suggestion_is_the_most_similar_choice_or_nothing():
    assert suggestion("mnits", PRESETS) == "; did you mean 'mnist'?"
    assert suggestion("zzzz", PRESETS) == ""
