"""Parts and settings of an experiment that is made by hand, as text and as JSON."""

import functools
import json
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from hand_made import half_kl, hand_made

from vae_jax.errors import InputError
from vae_jax.runs.experiment.descriptions import describe_part, described_settings


class Weight:
    """An object whose repr contains its address."""


def test_a_function_is_described_by_its_name_and_an_object_without_its_address():
    assert describe_part(half_kl) == "half_kl"
    assert describe_part(Weight()) == describe_part(Weight()) == f"<{__name__}.Weight object>"
    assert describe_part(2) == "2"


def test_a_partial_is_described_by_all_of_its_arguments_without_addresses():
    described = describe_part(functools.partial(half_kl, 0.5, weight=Weight(), schedule=half_kl))
    assert described == f"half_kl(0.5, weight=<{__name__}.Weight object>, schedule=half_kl)"
    nested = functools.partial(half_kl, functools.partial(half_kl, 1))
    assert describe_part(nested) == "half_kl(half_kl(1))"


def test_numbers_of_numpy_and_jax_are_stored_as_numbers():
    given = {"rate": np.float32(0.5), "width": np.int64(3), "beta": jnp.asarray(2.0), "sides": (8, np.int32(4)),
             "options": {"tied": np.True_, "name": None}}  # fmt: skip
    stored = hand_made(settings=given).description()
    found = {name.removeprefix("settings."): v for name, v in stored.items() if name.startswith("settings.")}
    assert found == {"rate": 0.5, "width": 3, "beta": 2.0, "sides": [8, 4], "options": {"tied": True, "name": None}}
    assert json.loads(json.dumps(found)) == found


@pytest.mark.fault
@pytest.mark.parametrize(
    ("value", "message"),
    [
        (float("nan"), "settings.a=nan must be finite"),
        (np.float32("inf"), "settings.a=inf must be finite"),
        ({"b": [1.0, float("nan")]}, "settings.a.b=nan must be finite"),
        (Path("data"), f"settings.a={Path('data')!r} must be None, a text, a number, or a list or dictionary of these; "
         "convert it, for example with str(...)"),
    ],
)  # fmt: skip
def test_a_setting_that_cannot_be_stored_is_refused_by_name(value, message):
    with pytest.raises(InputError) as caught:
        described_settings({"a": value})
    assert str(caught.value) == message
