"""vae_jax/cli/flags.py: a flag for every setting of the selected choices, and for no other."""

import dataclasses
import re

import pytest
from training_runs import flags as all_flags

from vae_jax.cli import flags, parsing, train as train_command
from vae_jax.cli.main import main
from vae_jax.config import PRESETS, SECTIONS, choices, flatten, override
from vae_jax.errors import InputError


def parse(*argv):
    """Return the config of `vae-jax train`."""
    return train_command.parse_arguments([str(word) for word in argv])[1]


def test_a_choice_and_its_settings_are_flags():
    config = parse("--objective", "renyi", "--objective.alpha", 0.25, "--network", "conv", "--network.hidden", 32, 64,
                   "--data.name", "x", "--train.steps=10", "--seed", 1, "--preset", "mnist-400")  # fmt: skip
    assert config == override(
        PRESETS["mnist-400"], objective="renyi", objective__alpha=0.25, network="conv", network__hidden=(32, 64),
        data__name="x", train__steps=10, seed=1,
    )  # fmt: skip
    assert config.network.activation == "relu"  # of the preset: both networks have this setting


@pytest.mark.parametrize("name", PRESETS)
def test_without_flags_the_config_is_the_preset_and_flags_can_set_every_setting(name):
    assert parse("--preset", name) == PRESETS[name]
    assert parse(*all_flags(PRESETS[name])) == PRESETS[name]  # on top of preset `digits`


@pytest.mark.parametrize("section", SECTIONS)
def test_every_choice_can_be_selected_by_its_name(section):
    for name, cls in choices(section).items():
        config = parse(f"--{section}", name)
        assert type(getattr(config, section)) is cls
        assert parse(f"--{section}={name}") == config


def test_a_setting_that_is_true_or_false_is_a_flag_and_its_opposite():
    assert parse("--network.tied").network.tied is True
    assert parse("--network.tied", "--network.no-tied").network.tied is False
    assert parse("--preset", "pca", "--network.no-tied").network.tied is False


def test_dashes_and_underscores_are_equal_and_the_last_of_two_flags_is_used():
    assert parse("--train.batch_size", 3).train.batch_size == 3
    config = parse("--objective", "renyi", "--objective.alpha", 2, "--objective", "elbo", "--objective=renyi")
    assert config.objective.alpha == 2
    with pytest.raises(InputError, match=r"^objective\.alpha has no effect with objective=elbo"):
        parse("--objective", "renyi", "--objective.alpha", 2, "--objective", "elbo")


@pytest.mark.fault
@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ("--objective.alpha 0.5",
         "objective.alpha has no effect with objective=elbo; remove it or use objective=renyi"),
        ("--objective.alpha=0.5",
         "objective.alpha has no effect with objective=elbo; remove it or use objective=renyi"),
        ("--network residual --network.no-tied",
         "network.tied has no effect with network=residual; remove it or use network=mlp"),
        ("--optimizer.weight_decay 1", "optimizer.weight_decay has no effect with optimizer=adam; remove it or use "),
        ("--objective elbow", "objective='elbow' must be one of "),
        ("--objective", "Missing value for argument '--objective'."),
        ("--modle.hidden 3", "Unrecognized options: --modle.hidden, 3; did you mean --network.hidden or "),
        ("--model.hidden 3", "Unrecognized options: --model.hidden, 3; did you mean --network.hidden or "),
        ("--objective.name renyi", "Unrecognized options: --objective.name, renyi; did you mean --objective?"),
        ("--optimizer.schedule x", "Unrecognized options: --optimizer.schedule, x; did you mean --schedule?"),
        ("--model.latent_dims 3", "Unrecognized options: --model.latent_dims, 3; did you mean --model.latent-dim?"),
        ("--objective.alpa 3", "Unrecognized options: --objective.alpa, 3; did you mean --objective.alpha?"),
        ("--objectiv elbo", "Unrecognized options: --objectiv, elbo; did you mean --objective?"),
        ("--wrkdir x", "Unrecognized options: --wrkdir, x; did you mean --workdir?"),
        ("--distributed.cordinator x",
         "Unrecognized options: --distributed.cordinator, x; did you mean --distributed.coordinator?"),
        ("--train.steps 1.5", "Error parsing --train.steps: invalid literal for int()"),
    ],
)  # fmt: skip
def test_a_flag_that_does_not_exist_is_one_line(argv, message):
    with pytest.raises(InputError) as caught:
        parse(*argv.split())
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["elbo", "renyi"])
def test_the_help_lists_all_names_and_the_settings_of_the_selected_choices(name, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["train", "--objective", name, "--help"])
    assert not stop.value.code
    text = " ".join(re.sub("[│─╭╮╰╯]", " ", capsys.readouterr().out).split())
    config = parse("--objective", name)
    for path in flatten(config):
        assert re.search(rf"--{re.escape(path.replace('_', '-'))}\b", text), path
    for section in SECTIONS:
        listed = re.search(rf"--{section} {{(.*?)}}", text)
        assert {word.strip() for word in listed[1].split(",")} == set(choices(section))
        assert f"`vae-jax train --{section} NAME --help` lists the settings of another choice." in text
    assert "Duration, intervals and stopping of training." in text  # a section that is no choice
    assert "Annotated" not in text  # the signature, with which dataclasses describe a class that has no description
    assert ("--objective.alpha FLOAT" in text) == (name == "renyi")
    assert "(default: 0.002)" in text  # of the preset, not of the schema


def test_the_options_of_a_command_and_the_settings_become_one_class():
    config = PRESETS["vae"]
    options = flags.options_with_settings(parsing.TrainingOptions, config, command="train", preset="vae")
    assert isinstance(options, parsing.TrainingOptions)
    assert options.preset == "vae"
    assert options.objective.name == "elbo"
    assert flags.settings_of(options, config) == flatten(config)
    changed = dataclasses.replace(options, seed=3, train=dataclasses.replace(options.train, steps=7))
    assert flags.settings_of(changed, config) == flatten(config) | {"seed": 3, "train.steps": 7}


def test_the_value_of_a_flag_is_found_in_both_forms():
    assert flags.flag_value(["--a", "1", "--b", "2", "--a=3"], "--a") == "3"
    assert flags.flag_value(["--ab", "1"], "--a") is None
    assert flags.flag_value(["--a"], "--a") is None
