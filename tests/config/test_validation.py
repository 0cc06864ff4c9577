"""Settings: a config survives JSON, and what cannot be used is refused in one line that names the setting."""

import dataclasses
import json
import math
from typing import get_args, get_type_hints

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vae_jax.cli import sweep as sweep_command, train as train_command
from vae_jax.config.building import from_flat, override
from vae_jax.config.flat import differences, flatten, suggestion
from vae_jax.config.presets import PRESETS
from vae_jax.config.schema import RESUMABLE, Config, ModelConfig, OptimizerConfig, TrainConfig
from vae_jax.config.validation import validate
from vae_jax.errors import InputError
from vae_jax.runs.members import make_members
from vae_jax.training.optimizers import make_optimizer

DIGITS = flatten(PRESETS["digits"])


def refusal(settings):
    with pytest.raises(InputError) as caught:
        from_flat(settings)
    message = str(caught.value)
    assert "\n" not in message
    assert caught.value.exit_code == 2
    return message


@pytest.mark.parametrize("name", PRESETS)
def test_round_trip_of_a_preset_through_json(name):
    config = PRESETS[name]
    assert validate(config) is config
    flat = flatten(config)
    assert all(not isinstance(value, dict) for value in flat.values())
    back = from_flat(json.loads(json.dumps(flat)))
    assert back == config
    assert isinstance(back.model.hidden, tuple)  # JSON has lists only, and a list would not compare equal


def test_flatten_names_every_field_of_every_section():
    paths = {f"{section.name}.{f.name}" for section in dataclasses.fields(Config) if section.name != "seed"
             for f in dataclasses.fields(section.default_factory)}  # fmt: skip
    assert set(flatten(Config())) == paths | {"seed"}


@pytest.mark.fault
def test_an_unknown_setting_is_refused_with_the_nearest_name():
    assert refusal(DIGITS | {"train.stepz": 3}) == "train.stepz: no such setting; did you mean 'train.steps'?"
    assert refusal(DIGITS | {"train": {}}).startswith("train: no such setting")


def test_a_missing_setting_is_refused():
    assert refusal({path: value for path, value in DIGITS.items() if path != "model.hidden"}) == "model.hidden: missing"


@pytest.mark.fault
@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("train.steps", 3.0),
        ("train.steps", "3"),
        ("train.steps", True),
        ("train.steps", None),
        ("optimizer.learning_rate", "fast"),
        ("optimizer.learning_rate", True),
        ("model.tied", 1),
        ("model.hidden", 16),
        ("model.hidden", [16.0]),
        ("model.hidden", ["16"]),
        ("model.hidden", [[16]]),
        ("data.name", 3),
        ("data.name", None),
        ("data.data_dir", 3),
        ("objective.name", ["elbo"]),
        ("seed", 1.5),
    ],
)
def test_a_wrong_type_is_refused(path, value):
    message = refusal(DIGITS | {path: value})
    given = tuple(value) if isinstance(value, list) else value
    assert message.startswith(f"{path}={given!r} must be ")


@pytest.mark.fault
@pytest.mark.parametrize(
    ("path", "value", "allowed"),
    [
        ("optimizer.learning_rate", -1e-3, "greater than 0"),
        ("optimizer.learning_rate", 0.0, "greater than 0"),
        ("optimizer.learning_rate", math.nan, "finite"),
        ("optimizer.learning_rate", math.inf, "finite"),
        ("objective.beta", math.nan, "finite"),
        ("objective.beta", -0.1, "0 or more"),
        ("train.batch_size", 0, "greater than 0"),
        ("train.ema_decay", 1.0, "less than 1"),
        ("data.holdout", 1.0, "less than 1"),
        ("data.holdout", -0.1, "at least 0"),
        ("model.hidden", (16, 0), "greater than 0"),
        ("optimizer.milestones", (0,), "greater than 0"),
        ("seed", 2**32, "less than 2^32"),
        ("seed", -1, "0 or more"),
        ("train.save_every", 130, "a multiple of train.log_every (100), for example 100"),
        ("train.evaluate_every", 170, "a multiple of train.log_every (100), for example 200"),
        ("objective.name", "elbow", "one of elbo, sampled-elbo"),
        ("mesh.data", -1, "0 or more"),
        ("objective.alpha", -0.5, "0 or more"),
        ("objective.elbo_weight", -0.5, "0 or more"),
        ("objective.mmd_weight", -1.0, "0 or more"),
        ("objective.num_inner_samples", 0, "greater than 0"),
    ],
)
def test_a_value_out_of_range_is_refused(path, value, allowed):
    message = refusal(DIGITS | {path: value})
    assert message.startswith(f"{path}: ")
    assert allowed in message


def test_the_choice_that_was_meant_is_named():
    assert "did you mean 'elbo'?" in refusal(DIGITS | {"objective.name": "elbow"})
    assert suggestion("mnits", PRESETS) == "; did you mean 'mnist'?"
    assert suggestion("zzzz", PRESETS) == ""


@pytest.mark.parametrize(
    ("path", "settings"),
    [
        ("objective.name", {"model.posterior": "deterministic"}),
        ("objective.num_samples", {"model.posterior": "deterministic", "objective.name": "reconstruction",
                                   "objective.num_samples": 2}),
        ("data.binarization", {"model.likelihood": "logistic-mixture", "data.binarization": "dynamic"}),
        ("model.tied", {"model.network": "conv", "model.tied": True}),
        ("model.hidden", {"model.network": "conv", "model.hidden": ()}),
        ("optimizer.warmup_steps", {"optimizer.schedule": "one-cycle", "optimizer.warmup_steps": 10}),
        ("train.patience", {"train.patience": 2, "train.evaluate_every": 0}),
    ],
)  # fmt: skip
def test_settings_that_contradict_each_other_are_refused(path, settings):
    assert refusal(DIGITS | settings).startswith(f"{path}: ")


@pytest.mark.fault
@pytest.mark.parametrize(
    ("path", "value", "default", "chosen"),
    [
        ("model.blocks", 2, 1, {"model.network": "mlp"}),
        ("model.remat", True, False, {"model.network": "mlp"}),
        ("model.tied", True, False, {"model.network": "residual"}),
        ("model.noise_scale", 0.1, 1.0, {"model.posterior": "gaussian"}),
        ("model.scale_head", "log-scale", "log-variance", {"model.posterior": "fixed-noise"}),
        ("model.likelihood_scale", 0.1, 0.5**0.5, {"model.likelihood": "learned-gaussian"}),
        ("model.mixture_components", 3, 5, {"model.likelihood": "bernoulli"}),
        ("optimizer.final_fraction", 0.1, 0.0, {"optimizer.schedule": "one-cycle"}),
        ("optimizer.milestones", (10,), (), {"optimizer.schedule": "cosine"}),
        ("optimizer.decay", 0.5, 0.1, {"optimizer.schedule": "constant"}),
        ("optimizer.b1", 0.5, 0.9, {"optimizer.name": "rmsprop"}),
        ("optimizer.b2", 0.5, 0.999, {"optimizer.name": "sgd"}),
        ("optimizer.eps", 0.5, 1e-8, {"optimizer.name": "lion"}),
        ("optimizer.weight_decay", 0.1, 0.0, {"optimizer.name": "adam"}),
        ("train.max_skips", 3, 10, {"train.nonfinite": "stop"}),
    ],
)
def test_a_setting_that_nothing_would_read_is_refused(path, value, default, chosen):
    ((decides, choice),) = chosen.items()
    expected = f"{path}={value} must be {default} where {decides} is {choice}, which does not read it"
    assert refusal(DIGITS | chosen | {path: value}) == expected
    from_flat(DIGITS | chosen | {path: default})


@pytest.mark.parametrize("name", get_args(get_type_hints(OptimizerConfig)["name"]))
def test_every_number_of_an_optimizer_that_is_taken_changes_what_it_does(name):
    def moved(config):
        optimizer = make_optimizer(config.optimizer, 100)
        params = {"w": jnp.array([0.3, -2.0])}
        state = optimizer.init(params)
        for grad in ([0.01, 0.3], [-0.02, -0.1], [0.003, -0.01], [4e-5, 0.0]):
            updates, state = optimizer.update({"w": jnp.array(grad)}, state, params)
            params = optax.apply_updates(params, updates)
        return params["w"]

    base = override(PRESETS["digits"], optimizer__name=name)
    taken = 0
    for field, value in {"b1": 0.3, "b2": 0.3, "eps": 0.1, "weight_decay": 0.5}.items():
        try:
            changed = override(base, **{f"optimizer__{field}": value})
        except InputError:
            continue
        taken += 1
        assert np.any(moved(base) != moved(changed)), field
    assert taken >= 1


@pytest.mark.parametrize(
    ("name", "setting", "value", "allowed"),
    [
        ("elbo", "alpha", 0.7, "0.5 for objective elbo"),
        ("iwae", "beta", 2.0, "1.0 for objective iwae"),
        ("iwae", "warmup_steps", 10, "0 for objective iwae"),
        ("renyi", "order", 3.0, "2.0 for objective renyi"),
        ("elbo", "free_bits", 1.0, "0.0 for objective elbo"),
        ("iwae", "num_inner_samples", 2, "1 for objective iwae"),
        ("miwae", "num_inner_samples", 3, "a divisor of objective.num_samples (8)"),
        ("ciwae", "elbo_weight", 1.5, "at most 1"),
        ("cubo", "order", 0.5, "at least 1"),
    ],
)
def test_an_objective_s_setting_is_used_or_refused(name, setting, value, allowed):
    message = refusal(DIGITS | {"objective.name": name, "objective.num_samples": 8, f"objective.{setting}": value})
    assert message.startswith(f"objective.{setting}={value} must be {allowed}")


@pytest.mark.parametrize(
    "settings",
    [
        {"name": "elbo", "beta": 2.0, "warmup_steps": 10},
        {"name": "capacity", "capacity": 3.0, "warmup_steps": 10},
        {"name": "renyi", "alpha": 0.0},
        {"name": "miwae", "num_inner_samples": 4},
        {"name": "piwae", "num_inner_samples": 2},
        {"name": "ciwae", "elbo_weight": 0.0},
        {"name": "cubo", "order": 1.0},
        {"name": "beta-tc", "beta": 6.0, "warmup_steps": 10},
        {"name": "info-vae", "beta": 0.0, "mmd_weight": 1000.0},
    ],
    ids=lambda settings: settings["name"],
)
def test_an_objective_takes_its_own_settings(settings):
    override(PRESETS["digits"], objective__num_samples=8, **{f"objective__{k}": v for k, v in settings.items()})


@pytest.mark.parametrize(
    ("name", "estimator", "allowed"),
    [
        ("elbo", "sticking-the-landing", "pathwise for elbo; it takes sampled-elbo"),
        ("iwae", "sticking-the-landing", "pathwise for iwae; it takes sampled-elbo"),
        ("beta-tc", "sticking-the-landing", "pathwise for beta-tc; it takes sampled-elbo"),
        ("elbo", "doubly-reparameterized", "pathwise for elbo; it takes iwae, renyi"),
        ("sampled-elbo", "doubly-reparameterized", "pathwise for sampled-elbo; it takes iwae, renyi"),
        ("reconstruction", "doubly-reparameterized", "pathwise for reconstruction; it takes iwae, renyi"),
    ],
)
def test_an_estimator_that_an_objective_has_no_use_for_is_refused(name, estimator, allowed):
    message = refusal(DIGITS | {"objective.name": name, "objective.estimator": estimator})
    assert message.startswith(f"objective.estimator={estimator} must be {allowed}")


def test_an_estimator_is_taken_where_it_makes_sense():
    override(PRESETS["digits"], objective__name="sampled-elbo", objective__estimator="sticking-the-landing")
    for name in ("iwae", "renyi", "miwae", "ciwae", "piwae", "cubo"):
        override(PRESETS["digits"], objective__name=name, objective__estimator="doubly-reparameterized")


def test_what_compares_codes_needs_two_images():
    for name in ("beta-tc", "info-vae"):
        assert refusal(DIGITS | {"objective.name": name, "train.batch_size": 1}).startswith("train.batch_size: 1 given")


def test_each_contradiction_is_one_of_the_pair():
    """Each half of a refused pair is legal by itself."""
    override(PRESETS["digits"], model__posterior="deterministic", objective__name="reconstruction")
    override(PRESETS["digits"], model__likelihood="logistic-mixture", data__binarization="none")
    override(PRESETS["digits"], model__likelihood="bernoulli", data__binarization="dynamic")
    override(PRESETS["digits"], model__tied=True)
    override(PRESETS["digits"], train__patience=2)


def test_what_a_preset_says_of_another_choice_falls_to_its_default():
    for name, decay in (("adam", 0.0), ("lion", 1e-3)):
        assert override(PRESETS["vae"], optimizer__name=name).optimizer.weight_decay == decay
    with pytest.raises(InputError, match=r"^optimizer\.weight_decay: 0\.001 given"):
        override(PRESETS["vae"], optimizer__name="adam", optimizer__weight_decay=1e-3)
    flags = ["--preset", "vae", "--optimizer.name", "adam"]
    assert train_command.parse_arguments(flags)[1] == override(PRESETS["vae"], optimizer__name="adam")
    asked = train_command.parse_arguments([*flags, "--optimizer.weight-decay", "0.5"])[1]
    with pytest.raises(InputError, match=r"^optimizer\.weight_decay: 0\.5 given"):
        validate(asked)
    _, config, varied = sweep_command.parse_arguments(["--preset", "vae", "--vary", "optimizer.name=adam,adamw"])
    assert [m.config.optimizer.weight_decay for m in make_members(config, varied)] == [0.0, 1e-3]


def test_override_replaces_what_it_names_and_nothing_else():
    old = PRESETS["digits"]
    new = override(old, train__steps=7, optimizer__learning_rate=0.5, seed=3, model__hidden=[4, 5])
    assert differences(flatten(old), flatten(new), ignore=frozenset()) == [
        "model.hidden", "optimizer.learning_rate", "seed", "train.steps",
    ]  # fmt: skip
    assert (new.train.steps, new.optimizer.learning_rate, new.seed, new.model.hidden) == (7, 0.5, 3, (4, 5))
    with pytest.raises(InputError, match=r"train\.step: no such setting; did you mean 'train\.steps'"):
        override(old, train__step=7)
    with pytest.raises(InputError, match=r"train\.steps=0 must be greater than 0"):
        override(old, train__steps=0)


def other(path, value):
    """Another legal value for a setting, found by its type."""
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


def test_what_changes_a_number_may_not_change_within_a_run():
    """The list of what may change is a promise: none of it enters the computation of a step."""
    step = {"data.name", "data.binarization", "data.holdout", "train.batch_size", "train.ema_decay", "seed"}
    whole_sections = {path for path in DIGITS if path.startswith(("model.", "objective.", "optimizer."))}
    assert not RESUMABLE & (step | whole_sections)


def test_a_config_cannot_be_changed_in_place():
    with pytest.raises(dataclasses.FrozenInstanceError):
        PRESETS["digits"].seed = 3
    with pytest.raises(InputError, match=r"train\.steps"):
        validate(Config(train=TrainConfig(steps=-1)))
    with pytest.raises(InputError, match=r"model\.latent_dim=2\.0 must be of type int"):
        validate(Config(model=ModelConfig(latent_dim=2.0)))
