"""The schema: immutable sections, a help text for every setting, and the settings that may change within a run."""

import dataclasses

import pytest
from flat_configs import DIGITS

from vae_jax.config.flat import all_settings, batchable_settings, resumable_settings
from vae_jax.config.presets import PRESETS
from vae_jax.config.registry import SECTIONS, choices
from vae_jax.config.schema import FIELD_NAMES, SECTION_CLASSES, Config


def test_a_config_cannot_be_changed_in_place():
    with pytest.raises(dataclasses.FrozenInstanceError):
        PRESETS["digits"].seed = 3


def test_settings_that_change_a_result_may_not_change_within_a_run():
    """A resumable setting is a promise: it does not enter the computation of a step."""
    step = {"data.name", "preprocess", "data.holdout", "data.kind", "train.batch_size", "train.ema_decay", "seed"}
    sections = {s.path for s in all_settings() if s.path.partition(".")[0] in SECTIONS}
    assert {"model.latent_dim", "objective", "optimizer.b1", "schedule.decay"} <= sections
    assert not resumable_settings() & (step | sections)


def test_the_settings_that_may_change_exist():
    assert set(DIGITS) >= resumable_settings()


def test_models_that_differ_in_a_batchable_setting_have_the_same_shapes_branches_and_data():
    expected = {
        "seed", "objective.beta", "objective.free_bits", "objective.capacity", "objective.elbo_weight",
        "objective.mmd_weight", "optimizer.learning_rate", "optimizer.b1", "optimizer.b2", "optimizer.eps",
        "optimizer.weight_decay", "data.labelled_draw",
    }  # fmt: skip
    assert batchable_settings() == expected


def test_every_setting_has_a_help_text():
    for setting in all_settings():
        text = setting.rule.help
        assert text.endswith("."), setting.path
        assert text == " ".join(text.split()), setting.path


def test_every_default_is_in_its_range():
    for section in SECTIONS:
        for cls in choices(section).values():
            assert isinstance(hash(cls()), int)  # experiments are compared and cached by their choices
    for setting in all_settings():
        if isinstance(setting.default, (int, float)):
            rule, value = setting.rule, setting.default
            assert rule.above is None or value > rule.above, setting.path
            assert rule.minimum is None or value >= rule.minimum, setting.path
            assert rule.below is None or value < rule.below, setting.path
            assert rule.maximum is None or value <= rule.maximum, setting.path


def test_the_sections_of_a_config_are_choices_fixed_sections_and_the_seed():
    assert sorted(FIELD_NAMES) == sorted([*SECTIONS, *SECTION_CLASSES, "seed"])
    config = Config()
    for section in SECTIONS:
        assert type(getattr(config, section)) is choices(section)[getattr(config, section).name]
    for section, cls in SECTION_CLASSES.items():
        assert type(getattr(config, section)) is cls
    assert Config() == config
    assert hash(config) == hash(Config())


def test_the_docstring_of_the_config_explains_every_section():
    documented = [line.partition(":")[0].strip() for line in (Config.__doc__ or "").splitlines() if ": " in line]
    assert documented == list(FIELD_NAMES)
