"""The schema: immutable sections, a help text for every setting, and the settings that may change within a run."""

import ast
import dataclasses
import inspect

import pytest
from flat_configs import DIGITS

from vae_jax.config import schema
from vae_jax.config.presets import PRESETS
from vae_jax.config.schema import OBJECTIVE_SETTINGS, RESUMABLE, Config, ObjectiveConfig

SECTIONS = [section.default_factory for section in dataclasses.fields(Config) if section.name != "seed"]


def test_a_config_cannot_be_changed_in_place():
    with pytest.raises(dataclasses.FrozenInstanceError):
        PRESETS["digits"].seed = 3


def test_settings_that_change_a_result_may_not_change_within_a_run():
    """The set `RESUMABLE` is a promise: none of its settings enters the computation of a step."""
    step = {"data.name", "data.binarization", "data.holdout", "train.batch_size", "train.ema_decay", "seed"}
    sections = {path for path in DIGITS if path.startswith(("model.", "objective.", "optimizer."))}
    assert not RESUMABLE & (step | sections)


@pytest.mark.parametrize("section", [*SECTIONS], ids=lambda section: section.__name__)
def test_every_setting_has_a_help_text_below_it(section):
    (definition,) = ast.parse(inspect.getsource(section)).body
    statements = definition.body[1:]  # without the docstring
    for field, text in zip(statements[::2], statements[1::2], strict=True):
        assert isinstance(field, ast.AnnAssign)
        assert isinstance(text, ast.Expr), ast.unparse(field)
        assert text.value.value.rstrip().endswith("."), ast.unparse(field)


def test_every_objective_names_settings_that_exist():
    fields = dataclasses.fields(ObjectiveConfig)
    names = {field.name for field in fields} - {"name", "num_samples", "estimator", "warmup_steps"}
    assert {setting for settings in OBJECTIVE_SETTINGS.values() for setting in settings} == names
    (choices,) = [field.type for field in fields if field.name == "name"]
    assert set(OBJECTIVE_SETTINGS) == set(choices.__args__)


def test_the_settings_that_may_change_exist():
    assert set(DIGITS) >= RESUMABLE
    assert set(schema.SCHEDULES_SPANNING_STEPS) == {"cosine", "one-cycle"}
