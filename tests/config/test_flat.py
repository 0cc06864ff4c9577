"""Flat configs: names, nested dictionaries, and differences."""

import dataclasses

import pytest
from flat_configs import DIGITS

from vae_jax.config.flat import (
    all_settings,
    batchable_settings,
    choices_with,
    class_settings,
    differences,
    flatten,
    name_setting,
    paths_where,
    resumable_settings,
    selected_settings,
    unflatten,
    unknown_setting_error,
)
from vae_jax.config.presets import PRESETS
from vae_jax.config.registry import SECTIONS, Choice, choices
from vae_jax.config.schema import FIELD_NAMES, Config, TrainConfig
from vae_jax.errors import InputError


@pytest.mark.parametrize("name", PRESETS)
def test_flatten_names_every_field_of_every_section(name):
    config = PRESETS[name]
    paths = {"seed"}
    for section in FIELD_NAMES:
        value = getattr(config, section)
        if section != "seed":
            paths |= {f"{section}.{field.name}" for field in dataclasses.fields(value)}
        if isinstance(value, Choice):
            paths |= {section}
            assert flatten(config)[section] == value.name
    assert set(flatten(config)) == paths == set(selected_settings(flatten(config)))
    assert list(flatten(config)) == list(selected_settings(flatten(config)))


def test_unflatten_inverts_flatten_and_converts_lists_to_tuples():
    assert unflatten(DIGITS) == PRESETS["digits"]
    assert unflatten(DIGITS | {"network.hidden": [3, 4]}).network.hidden == (3, 4)
    assert unflatten(DIGITS | {"train.steps": -1}).train.steps == -1  # not validated
    assert unflatten({"objective": "renyi"}) == dataclasses.replace(Config(), objective=choices("objective")["renyi"]())
    assert unflatten({}) == Config()


@pytest.mark.fault
def test_a_setting_of_another_choice_is_refused():
    with pytest.raises(InputError, match=r"^objective\.alpha has no effect with objective=elbo; remove it or use "
                                         r"objective=renyi$"):  # fmt: skip
        unflatten({"objective.alpha": 0.5})
    assert unflatten({"objective.alpha": 0.7, "objective": "renyi"}).objective.alpha == 0.7


def test_an_unknown_setting_is_refused_with_the_most_similar_one_of_the_choices():
    assert str(unknown_setting_error("train.stepz", DIGITS)) == (
        "train.stepz is not a setting; did you mean 'train.steps'?"
    )
    assert str(unknown_setting_error("objective.name", DIGITS)).startswith("objective.name is not a setting")
    assert str(unknown_setting_error("objective.section", DIGITS)).startswith("objective.section is not a setting")
    assert "use network=conv or residual" in str(unknown_setting_error("network.blocks", DIGITS))


def test_the_choices_with_a_setting_are_found():
    assert choices_with("objective.num_inner_samples") == ["miwae", "piwae"]
    assert choices_with("objective.alpa") == choices_with("train.steps") == choices_with("objective") == []


def test_the_settings_of_a_class_have_types_defaults_and_rules():
    steps, *_ = class_settings(TrainConfig, "train")
    assert (steps.path, steps.annotation, steps.default, steps.rule.above) == ("train.steps", int, 6000, 0)


def test_the_name_of_a_choice_is_a_setting_with_the_registered_names():
    setting = name_setting("objective")
    assert (setting.path, setting.default) == ("objective", "elbo")
    assert set(setting.annotation.__args__) == set(choices("objective"))


def test_a_section_without_a_name_is_refused():
    without = {path: value for path, value in DIGITS.items() if path != "prior"}
    with pytest.raises(InputError, match=r"^prior is missing; add it$"):
        selected_settings(without)


def test_all_settings_are_those_of_every_choice():
    paths = [setting.path for setting in all_settings()]
    assert set(paths) >= {*DIGITS, *SECTIONS, "objective.alpha", "likelihood.scale", "seed", "mesh.fsdp"}
    assert paths.count("objective.num_samples") == len(choices("objective"))


def test_settings_are_selected_by_their_rules():
    assert {"train.steps", "mesh.data", "data.data_dir"} <= resumable_settings()
    assert "train.batch_size" not in resumable_settings()
    assert {"seed", "objective.beta", "optimizer.learning_rate"} <= batchable_settings()
    assert "network.hidden" not in batchable_settings()
    assert paths_where(lambda rule: rule.below == 2**32) == {"seed"}


def other(path, value):
    """Another legal value for a setting, chosen by its type."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, (int, float)):
        return value + 1
    return (*value, 3) if isinstance(value, tuple) else f"another {path}"


def test_differences_ignores_what_may_change_and_nothing_else():
    resumable = resumable_settings()
    for path, value in DIGITS.items():
        changed = differences(DIGITS, DIGITS | {path: other(path, value)}, ignore=resumable)
        assert changed == ([] if path in resumable else [path])
        assert differences(DIGITS, DIGITS | {path: other(path, value)}) == [path]
    assert differences(DIGITS, DIGITS) == []


def test_differences_counts_a_setting_that_only_one_side_has():
    without = {path: value for path, value in DIGITS.items() if path != "objective.beta"}
    assert differences(DIGITS, without) == ["objective.beta"] == differences(without, DIGITS)
