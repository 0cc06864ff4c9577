"""Building configs: from flat dictionaries, and from other configs with settings replaced."""

import dataclasses

import pytest
from flat_configs import DIGITS, refusal

from vae_jax.cli import sweep as sweep_command, train as train_command
from vae_jax.config.building import (
    apply_overrides,
    defaults_of_unused,
    from_flat,
    override,
    parse_setting,
    replace_unvalidated,
    steps_only,
)
from vae_jax.config.flat import differences, flatten
from vae_jax.config.presets import PRESETS
from vae_jax.config.validation import validate
from vae_jax.errors import InputError
from vae_jax.runs.members import make_members


@pytest.mark.fault
def test_an_unknown_setting_is_refused_with_the_most_similar_name():
    assert refusal(DIGITS | {"train.stepz": 3}) == "train.stepz is not a setting; did you mean 'train.steps'?"
    assert refusal(DIGITS | {"train": {}}).startswith("train is not a setting")


def test_a_missing_setting_is_refused():
    without = {path: value for path, value in DIGITS.items() if path != "model.hidden"}
    assert refusal(without) == "model.hidden is missing; add it"


def test_override_replaces_what_it_names_and_nothing_else():
    old = PRESETS["digits"]
    new = override(old, train__steps=7, optimizer__learning_rate=0.5, seed=3, model__hidden=[4, 5])
    assert differences(flatten(old), flatten(new), ignore=frozenset()) == [
        "model.hidden", "optimizer.learning_rate", "seed", "train.steps",
    ]  # fmt: skip
    assert (new.train.steps, new.optimizer.learning_rate, new.seed, new.model.hidden) == (7, 0.5, 3, (4, 5))
    with pytest.raises(InputError, match=r"^train\.step is not a setting; did you mean 'train\.steps'"):
        override(old, train__step=7)
    with pytest.raises(InputError, match=r"^train\.steps=0 must be greater than 0"):
        override(old, train__steps=0)


def test_a_preset_s_setting_that_another_choice_does_not_use_gets_its_default():
    for name, decay in (("adam", 0.0), ("lion", 1e-3)):
        assert override(PRESETS["vae"], optimizer__name=name).optimizer.weight_decay == decay
    with pytest.raises(InputError, match=r"^optimizer\.weight_decay=0\.001 has no effect"):
        override(PRESETS["vae"], optimizer__name="adam", optimizer__weight_decay=1e-3)
    flags = ["--preset", "vae", "--optimizer.name", "adam"]
    assert train_command.parse_arguments(flags)[1] == override(PRESETS["vae"], optimizer__name="adam")
    asked = train_command.parse_arguments([*flags, "--optimizer.weight-decay", "0.5"])[1]
    with pytest.raises(InputError, match=r"^optimizer\.weight_decay=0\.5 has no effect"):
        validate(asked)
    _, config, varied = sweep_command.parse_arguments(["--preset", "vae", "--vary", "optimizer.name=adam,adamw"])
    assert [m.config.optimizer.weight_decay for m in make_members(config, varied)] == [0.0, 1e-3]


def test_defaults_are_those_of_unused_settings_that_were_not_given():
    flat = flatten(PRESETS["vae"]) | {"optimizer.name": "sgd"}
    unused = defaults_of_unused(flat, given=["optimizer.b2"])
    assert unused.items() >= {"optimizer.weight_decay": 0.0, "optimizer.eps": 1e-8}.items()
    assert not {"optimizer.b2", "optimizer.b1"} & set(unused)
    assert apply_overrides(PRESETS["vae"], {"optimizer.name": "sgd"}) == from_flat(flat | unused)


def test_steps_only_never_evaluates_nor_stops_early():
    config = override(PRESETS["digits"], train__patience=3)
    train = steps_only(config).train
    assert (train.log_every, train.save_every, train.evaluate_every, train.patience) == (100, 100, 0, 0)
    assert (train.steps, train.batch_size) == (config.train.steps, config.train.batch_size)
    assert steps_only(config, log_every=7).train == dataclasses.replace(train, log_every=7, save_every=7)


def test_values_can_be_replaced_without_validation():
    config = replace_unvalidated(PRESETS["digits"], {"optimizer.learning_rate": -1.0})
    assert config.optimizer.learning_rate == -1.0
    assert differences(flatten(config), DIGITS, ignore=frozenset()) == ["optimizer.learning_rate"]


def test_a_text_is_parsed_as_the_type_of_its_setting():
    assert parse_setting("seed", "3") == 3
    assert parse_setting("objective.beta", "3") == 3.0
    assert isinstance(parse_setting("objective.beta", "3"), float)
    assert parse_setting("objective.name", "elbow") == "elbow"  # `validate` checks the choice
    assert parse_setting("data.name", "moons") == "moons"


@pytest.mark.parametrize(
    ("path", "text", "message"),
    [
        ("seed", "a", "seed='a' must be of type int"),
        ("objective.betta", "1", "objective.betta is not a setting; did you mean 'objective.beta'?"),
        ("model.hidden", "1", "model.hidden cannot be varied; use a setting that is a number or a name"),
        ("model.tied", "1", "model.tied cannot be varied; use a setting that is a number or a name"),
    ],
)
def test_a_text_that_is_no_value_is_refused(path, text, message):
    with pytest.raises(InputError) as caught:
        parse_setting(path, text)
    assert str(caught.value) == message
