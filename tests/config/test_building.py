"""Building configs: from flat dictionaries, and from other configs with settings replaced."""

import dataclasses

import pytest
from flat_configs import DIGITS, flat_refusal

from vae_jax.cli import sweep as sweep_command, train as train_command
from vae_jax.config.building import (
    apply_overrides,
    override,
    parse_setting,
    replace_settings,
    replace_unvalidated,
    steps_only,
)
from vae_jax.config.flat import differences, flatten
from vae_jax.config.presets import PRESETS
from vae_jax.errors import InputError
from vae_jax.runs.members import make_members


@pytest.mark.fault
def test_an_unknown_setting_is_refused_with_the_most_similar_name():
    assert flat_refusal(DIGITS | {"train.stepz": 3}) == "train.stepz is not a setting; did you mean 'train.steps'?"
    assert flat_refusal(DIGITS | {"train": {}}).startswith("train is not a setting")
    assert flat_refusal(DIGITS | {"network.blocks": 2}) == (
        "network.blocks has no effect with network=mlp; remove it or use network=conv or residual"
    )


@pytest.mark.fault
@pytest.mark.parametrize("missing", ["network.hidden", "network", "seed"])
def test_a_missing_setting_is_refused(missing):
    without = {path: value for path, value in DIGITS.items() if path != missing}
    assert flat_refusal(without) == f"{missing} is missing; add it"


def test_override_replaces_what_it_names_and_nothing_else():
    old = PRESETS["digits"]
    new = override(old, train__steps=7, optimizer__learning_rate=0.5, seed=3, network__hidden=[4, 5])
    assert differences(flatten(old), flatten(new)) == [
        "network.hidden", "optimizer.learning_rate", "seed", "train.steps",
    ]  # fmt: skip
    assert (new.train.steps, new.optimizer.learning_rate, new.seed, new.network.hidden) == (7, 0.5, 3, (4, 5))
    with pytest.raises(InputError, match=r"^train\.step is not a setting; did you mean 'train\.steps'"):
        override(old, train__step=7)
    with pytest.raises(InputError, match=r"^train\.steps=0 must be greater than 0"):
        override(old, train__steps=0)


def test_a_new_choice_keeps_the_settings_that_both_choices_have():
    for name, kept in (("adam", {}), ("lion", {"weight_decay": 1e-3})):
        optimizer = override(PRESETS["vae"], optimizer=name, optimizer__b1=0.5).optimizer
        assert (optimizer.name, optimizer.learning_rate, optimizer.b1) == (name, 2e-3, 0.5)
        assert {field: getattr(optimizer, field) for field in kept} == kept
    back = override(override(PRESETS["vae"], optimizer="adam"), optimizer="adamw")
    assert back.optimizer.weight_decay == 0.0  # the default
    with pytest.raises(InputError, match=r"^optimizer\.weight_decay has no effect with optimizer=adam; remove it or "
                                         r"use optimizer=adamw or lion$"):  # fmt: skip
        override(PRESETS["vae"], optimizer="adam", optimizer__weight_decay=1e-3)


def test_flags_and_sweeps_replace_choices_as_override_does():
    flags = ["--preset", "vae", "--optimizer", "adam"]
    assert train_command.parse_arguments(flags)[1] == override(PRESETS["vae"], optimizer="adam")
    with pytest.raises(InputError, match=r"^optimizer\.weight_decay has no effect with optimizer=adam"):
        train_command.parse_arguments([*flags, "--optimizer.weight-decay", "0.5"])
    _, config, varied = sweep_command.parse_arguments(["--preset", "vae", "--vary", "optimizer=adam,adamw"])
    adam, adamw = [member.config.optimizer for member in make_members(config, varied)]
    assert (adam.name, adamw.name, adamw.weight_decay) == ("adam", "adamw", 1e-3)


def test_replace_settings_does_not_validate_values():
    assert replace_settings(PRESETS["digits"], {"train.steps": -1}).train.steps == -1
    assert replace_settings(PRESETS["digits"], {}) == PRESETS["digits"]
    with pytest.raises(InputError, match=r"^train\.steps=-1 must be greater than 0$"):
        apply_overrides(PRESETS["digits"], {"train.steps": -1})
    with pytest.raises(InputError, match=r"^prior='flow' must be one of .*standard-normal"):
        replace_settings(PRESETS["digits"], {"prior": "flow"})


def test_steps_only_never_evaluates_nor_stops_early():
    config = override(PRESETS["digits"], train__patience=3)
    train = steps_only(config).train
    assert (train.log_every, train.save_every, train.evaluate_every, train.patience) == (100, 100, 0, 0)
    assert (train.steps, train.batch_size) == (config.train.steps, config.train.batch_size)
    assert steps_only(config, log_every=7).train == dataclasses.replace(train, log_every=7, save_every=7)


def test_values_can_be_replaced_without_validation():
    config = replace_unvalidated(PRESETS["digits"], {"optimizer.learning_rate": -1.0, "seed": "?"})
    assert (config.optimizer.learning_rate, config.seed) == (-1.0, "?")
    assert differences(flatten(config), DIGITS) == ["optimizer.learning_rate", "seed"]
    assert replace_unvalidated(PRESETS["digits"], {}) == PRESETS["digits"]


def test_a_text_is_parsed_as_the_type_of_its_setting():
    assert parse_setting("seed", "3") == 3
    assert parse_setting("objective.beta", "3") == 3.0
    assert isinstance(parse_setting("objective.beta", "3"), float)
    assert parse_setting("objective", "elbow") == "elbow"  # the choice is checked when it is made
    assert parse_setting("data.name", "moons") == "moons"
    assert parse_setting("objective.alpha", "0.5") == 0.5  # of any choice
    assert [parse_setting("model.condition_prior", text) for text in ("True", "false")] == [True, False]


@pytest.mark.parametrize(
    ("path", "text", "message"),
    [
        ("seed", "a", "seed='a' must be of type int"),
        ("objective.betta", "1", "objective.betta is not a setting; did you mean 'objective.beta'?"),
        (
            "network.hidden",
            "1",
            "network.hidden cannot be varied; vary a number, a name, or True and False",
        ),
        ("network.tied", "1", "network.tied='1' must be of type bool"),
    ],
)
def test_a_text_that_is_no_value_is_refused(path, text, message):
    with pytest.raises(InputError) as caught:
        parse_setting(path, text)
    assert str(caught.value) == message
