"""Validation: a value that cannot be used is refused in one line that names the setting."""

import math
from typing import get_args, get_type_hints

import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flat_configs import DIGITS, refusal

from vae_jax.config.building import from_flat, override
from vae_jax.config.presets import PRESETS
from vae_jax.config.schema import Config, ModelConfig, OptimizerConfig, TrainConfig
from vae_jax.config.validation import check_choices, unused_settings, validate
from vae_jax.errors import InputError
from vae_jax.training.optimizers import make_optimizer


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
        ("train.save_every", 130, "a multiple of train.log_every=100, for example 100"),
        ("train.evaluate_every", 170, "a multiple of train.log_every=100, for example 200"),
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
    given = repr(value) if isinstance(value, str) else value
    assert message.startswith(f"{path}={given} must be ")
    assert allowed in message


def test_the_most_similar_choice_is_named():
    assert "did you mean 'elbo'?" in refusal(DIGITS | {"objective.name": "elbow"})


@pytest.mark.parametrize(
    ("message", "settings"),
    [
        ("objective.name=elbo must be reconstruction with model.posterior=deterministic",
         {"model.posterior": "deterministic"}),
        ("objective.num_samples=2 must be 1 with model.posterior=deterministic",
         {"model.posterior": "deterministic", "objective.name": "reconstruction", "objective.num_samples": 2}),
        ("data.binarization=dynamic must be none with model.likelihood=logistic-mixture",
         {"model.likelihood": "logistic-mixture", "data.binarization": "dynamic"}),
        ("model.tied=True has no effect with model.network=conv; remove it or use mlp",
         {"model.network": "conv", "model.tied": True}),
        ("model.tied=True must be False with model.likelihood=logistic-mixture",
         {"model.likelihood": "logistic-mixture", "model.tied": True}),
        ("model.hidden=() must be one or more numbers of channels with model.network=conv",
         {"model.network": "conv", "model.hidden": ()}),
        ("optimizer.warmup_steps=10 has no effect with optimizer.schedule=one-cycle; "
         "remove it or use constant, cosine or staged",
         {"optimizer.schedule": "one-cycle", "optimizer.warmup_steps": 10}),
        ("train.patience=2 has no effect with train.evaluate_every=0; remove it or set train.evaluate_every",
         {"train.patience": 2, "train.evaluate_every": 0}),
        ("model.layer_hidden=(5,) has no effect without model.latent_layers; remove it or set model.latent_layers",
         {"model.layer_hidden": (5,)}),
        ("model.posterior=fixed-noise must be gaussian with model.latent_layers=(3,)",
         {"model.latent_layers": (3,), "model.posterior": "fixed-noise"}),
        ("model.tied=True must be False with model.latent_layers=(3,)",
         {"model.latent_layers": (3,), "model.tied": True}),
        ("objective.name=beta-tc must be another objective with model.latent_layers=(3,)",
         {"model.latent_layers": (3,), "objective.name": "beta-tc"}),
        ("data.binarization=static must be dynamic, threshold or none with data.streaming=always",
         {"data.binarization": "static", "data.streaming": "always"}),
        ("data.workers=2 has no effect with data.streaming=never; remove it or use auto or always",
         {"data.workers": 2, "data.streaming": "never"}),
        ("train.microbatches=3 must be a divisor of train.batch_size=128, for example 2",
         {"train.microbatches": 3}),
        ("train.microbatches=2 must be 1 with objective.name=info-vae",
         {"train.microbatches": 2, "objective.name": "info-vae"}),
    ],
)  # fmt: skip
def test_settings_that_contradict_each_other_are_refused(message, settings):
    assert refusal(DIGITS | settings).startswith(message)


@pytest.mark.fault
@pytest.mark.parametrize(
    ("path", "value", "default", "chosen", "remedy"),
    [
        ("model.blocks", 2, 1, {"model.network": "mlp"}, "conv or residual"),
        ("model.remat", True, False, {"model.network": "mlp"}, "conv or residual"),
        ("model.tied", True, False, {"model.network": "residual"}, "mlp"),
        ("model.noise_scale", 0.1, 1.0, {"model.posterior": "gaussian"}, "fixed-noise"),
        ("model.scale_head", "log-scale", "log-variance", {"model.posterior": "fixed-noise"}, "gaussian"),
        ("model.likelihood_scale", 0.1, 0.5**0.5, {"model.likelihood": "learned-gaussian"}, "gaussian"),
        ("model.mixture_components", 3, 5, {"model.likelihood": "bernoulli"}, "logistic-mixture"),
        ("optimizer.final_fraction", 0.1, 0.0, {"optimizer.schedule": "one-cycle"}, "cosine"),
        ("optimizer.milestones", (10,), (), {"optimizer.schedule": "cosine"}, "staged"),
        ("optimizer.decay", 0.5, 0.1, {"optimizer.schedule": "constant"}, "staged"),
        ("optimizer.b1", 0.5, 0.9, {"optimizer.name": "rmsprop"}, "adam, adamw, adamax, sgd or lion"),
        ("optimizer.b2", 0.5, 0.999, {"optimizer.name": "sgd"}, "adam, adamw, adamax, rmsprop or lion"),
        ("optimizer.eps", 0.5, 1e-8, {"optimizer.name": "lion"}, "adam, adamw, adamax or rmsprop"),
        ("optimizer.weight_decay", 0.1, 0.0, {"optimizer.name": "adam"}, "adamw or lion"),
        ("train.max_skips", 3, 10, {"train.nonfinite": "stop"}, "skip"),
    ],
)
def test_a_setting_without_effect_is_refused(path, value, default, chosen, remedy):
    ((other, choice),) = chosen.items()
    expected = f"{path}={value} has no effect with {other}={choice}; remove it or use {remedy}"
    assert refusal(DIGITS | chosen | {path: value}) == expected
    from_flat(DIGITS | chosen | {path: default})


@pytest.mark.parametrize("name", get_args(get_type_hints(OptimizerConfig)["name"]))
def test_every_optimizer_setting_that_is_accepted_changes_the_update(name):
    def moved(config):
        optimizer = make_optimizer(config.optimizer, 100)
        params = {"w": jnp.array([0.3, -2.0])}
        state = optimizer.init(params)
        for grad in ([0.01, 0.3], [-0.02, -0.1], [0.003, -0.01], [4e-5, 0.0]):
            updates, state = optimizer.update({"w": jnp.array(grad)}, state, params)
            params = optax.apply_updates(params, updates)
        return params["w"]

    base = override(PRESETS["digits"], optimizer__name=name)
    accepted = 0
    for field, value in {"b1": 0.3, "b2": 0.3, "eps": 0.1, "weight_decay": 0.5}.items():
        try:
            changed = override(base, **{f"optimizer__{field}": value})
        except InputError:
            continue
        accepted += 1
        assert np.any(moved(base) != moved(changed)), field
    assert accepted >= 1


WITH_BETA = "elbo, sampled-elbo, free-bits, capacity, beta-tc or info-vae"


@pytest.mark.parametrize(
    ("name", "setting", "value", "reason"),
    [
        ("elbo", "alpha", 0.7, "has no effect with objective.name=elbo; remove it or use renyi"),
        ("iwae", "beta", 2.0, f"has no effect with objective.name=iwae; remove it or use {WITH_BETA}"),
        ("iwae", "warmup_steps", 10, f"has no effect with objective.name=iwae; remove it or use {WITH_BETA}"),
        ("renyi", "order", 3.0, "has no effect with objective.name=renyi; remove it or use cubo"),
        ("elbo", "free_bits", 1.0, "has no effect with objective.name=elbo; remove it or use free-bits"),
        ("iwae", "num_inner_samples", 2, "has no effect with objective.name=iwae; remove it or use miwae or piwae"),
        ("miwae", "num_inner_samples", 3, "must be a divisor of objective.num_samples=8"),
        ("ciwae", "elbo_weight", 1.5, "must be at most 1"),
        ("cubo", "order", 0.5, "must be at least 1"),
    ],
)
def test_a_setting_of_an_objective_is_used_or_refused(name, setting, value, reason):
    message = refusal(DIGITS | {"objective.name": name, "objective.num_samples": 8, f"objective.{setting}": value})
    assert message == f"objective.{setting}={value} {reason}"


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
def test_an_objective_accepts_the_settings_that_it_uses(settings):
    override(PRESETS["digits"], objective__num_samples=8, **{f"objective__{k}": v for k, v in settings.items()})


@pytest.mark.parametrize(
    ("name", "estimator", "supported"),
    [
        ("elbo", "sticking-the-landing", "sampled-elbo"),
        ("iwae", "sticking-the-landing", "sampled-elbo"),
        ("beta-tc", "sticking-the-landing", "sampled-elbo"),
        ("elbo", "doubly-reparameterized", "iwae, renyi, miwae, ciwae, piwae or cubo"),
        ("sampled-elbo", "doubly-reparameterized", "iwae, renyi, miwae, ciwae, piwae or cubo"),
        ("reconstruction", "doubly-reparameterized", "iwae, renyi, miwae, ciwae, piwae or cubo"),
    ],
)
def test_an_estimator_that_does_not_support_the_objective_is_refused(name, estimator, supported):
    message = refusal(DIGITS | {"objective.name": name, "objective.estimator": estimator})
    allowed = f"must be pathwise with objective.name={name}; {estimator} needs {supported}"
    assert message == f"objective.estimator={estimator} {allowed}"


def test_an_estimator_is_accepted_with_the_objectives_that_it_supports():
    override(PRESETS["digits"], objective__name="sampled-elbo", objective__estimator="sticking-the-landing")
    for name in ("iwae", "renyi", "miwae", "ciwae", "piwae", "cubo"):
        override(PRESETS["digits"], objective__name=name, objective__estimator="doubly-reparameterized")


def test_an_objective_that_compares_codes_needs_two_images():
    for name in ("beta-tc", "info-vae"):
        message = refusal(DIGITS | {"objective.name": name, "train.batch_size": 1})
        assert message.startswith(f"train.batch_size=1 must be 2 or more with objective.name={name}")


def test_each_setting_of_a_refused_pair_is_allowed_without_the_other():
    override(PRESETS["digits"], model__posterior="deterministic", objective__name="reconstruction")
    override(PRESETS["digits"], model__likelihood="logistic-mixture", data__binarization="none")
    override(PRESETS["digits"], model__likelihood="bernoulli", data__binarization="dynamic")
    override(PRESETS["digits"], model__tied=True)
    override(PRESETS["digits"], train__patience=2)


def test_validate_refuses_a_config_that_was_made_by_hand():
    with pytest.raises(InputError, match=r"^train\.steps=-1 must be greater than 0$"):
        validate(Config(train=TrainConfig(steps=-1)))
    with pytest.raises(InputError, match=r"^model\.latent_dim=2\.0 must be of type int$"):
        validate(Config(model=ModelConfig(latent_dim=2.0)))


def test_names_of_choices_can_be_checked_without_a_config():
    check_choices("optimizer", name="adam", schedule="cosine", learning_rate="not a choice between names")
    with pytest.raises(InputError, match=r"^optimizer\.schedule='cosin' must be one of .*; did you mean 'cosine'\?$"):
        check_choices("optimizer", name="adam", schedule="cosin")


def test_unused_settings_are_those_without_effect():
    assert "optimizer.milestones" in unused_settings(DIGITS)
    assert "optimizer.milestones" not in unused_settings(DIGITS | {"optimizer.schedule": "staged"})
    assert unused_settings({"optimizer.milestones": (3,)}) == []  # it is not known which schedule would use it
