"""Text of the parts of an experiment that is made by hand."""

import functools

from hand_made import half_kl

from vae_jax.runs.experiment.descriptions import describe_part


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
