"""Fields of settings: the rule is stored in the metadata of the field."""

import dataclasses

import pytest

from vae_jax.config.fields import Rule, rule_of, setting


def test_a_setting_is_a_field_with_a_default_and_a_rule():
    @dataclasses.dataclass(frozen=True)
    class Part:
        rate: float = setting(0.1, "A rate.", above=0, below=1, batchable=True)

    (field,) = dataclasses.fields(Part)
    assert Part().rate == 0.1
    assert rule_of(field.metadata, "Part.rate") == Rule("A rate.", above=0, below=1, batchable=True)


def test_every_argument_of_a_setting_is_stored():
    values = {"above": 1, "minimum": 2, "below": 3, "maximum": 4, "resumable": True, "batchable": True}
    assert set(Rule._fields) == {"help", *values}
    assert rule_of(setting(0, "Text.", **values).metadata, "x")._asdict() == {"help": "Text."} | values


def test_a_plain_field_has_no_rule():
    with pytest.raises(TypeError, match=r"^field Part\.rate has no rule; declare it as `Part\.rate: TYPE = vae_jax"):
        rule_of(dataclasses.field(default=1).metadata, "Part.rate")
