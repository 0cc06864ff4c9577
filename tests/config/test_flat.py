"""Flat configs: names, nested dictionaries, suggestions and differences."""

import dataclasses

from flat_configs import DIGITS

from vae_jax.config.flat import DEFAULTS, FIELD_TYPES, differences, flatten, flatten_mapping, suggestion, unflatten
from vae_jax.config.presets import PRESETS
from vae_jax.config.schema import RESUMABLE, Config, TrainConfig


def test_flatten_names_every_field_of_every_section():
    paths = {f"{section.name}.{f.name}" for section in dataclasses.fields(Config) if section.name != "seed"
             for f in dataclasses.fields(section.default_factory)}  # fmt: skip
    assert set(flatten(Config())) == paths | {"seed"}
    assert set(FIELD_TYPES) == set(DEFAULTS) == paths | {"seed"}


def test_a_section_can_be_flattened_with_a_prefix():
    flat = flatten(TrainConfig(steps=7), "train.")
    assert flat["train.steps"] == 7
    assert set(flat) == {path for path in DIGITS if path.startswith("train.")}


def test_unflatten_inverts_flatten_and_converts_lists_to_tuples():
    assert unflatten(DIGITS) == PRESETS["digits"]
    assert unflatten(DIGITS | {"model.hidden": [3, 4]}).model.hidden == (3, 4)
    assert unflatten(DIGITS | {"train.steps": -1}).train.steps == -1  # not validated


def test_nested_dictionaries_become_one_and_an_empty_one_is_a_value():
    nested = {"a": {"b": 1, "c": {"d": [2]}}, "e": {}, "f": None}
    assert flatten_mapping(nested) == {"a.b": 1, "a.c.d": [2], "e": {}, "f": None}
    assert flatten_mapping({"b": {"c": 1}}, "a.") == {"a.b.c": 1}


def test_a_suggestion_is_the_most_similar_choice_or_nothing():
    assert suggestion("mnits", PRESETS) == "; did you mean 'mnist'?"
    assert suggestion("zzzz", PRESETS) == ""


def other(path, value):
    """Another legal value for a setting, chosen by its type."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, (int, float)):
        return value + 1
    return (*value, 3) if isinstance(value, tuple) else f"another {path}"


def test_differences_ignores_what_may_change_and_nothing_else():
    assert {"train.steps", "mesh.data", "data.data_dir"} <= RESUMABLE <= set(DIGITS)
    for path, value in DIGITS.items():
        changed = differences(DIGITS, DIGITS | {path: other(path, value)})
        assert changed == ([] if path in RESUMABLE else [path])
    assert differences(DIGITS, DIGITS) == []


def test_differences_counts_a_setting_that_only_one_side_has():
    without = {path: value for path, value in DIGITS.items() if path != "objective.beta"}
    assert differences(DIGITS, without) == ["objective.beta"] == differences(without, DIGITS)
