"""Validation: a value that cannot be used is refused in one line that names the setting."""

import dataclasses
import math

import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flat_configs import DIGITS, changed, flat_refusal, refusal
from own_choices import own_choices

from vae_jax.config.building import from_flat, override
from vae_jax.config.fields import class_settings, setting
from vae_jax.config.presets import PRESETS
from vae_jax.config.registry import choices, register
from vae_jax.config.schema import Config, EvaluationConfig, TrainConfig
from vae_jax.config.validation import any_of, require_default, validate, validate_section
from vae_jax.config.values import require
from vae_jax.errors import InputError
from vae_jax.models import VAEConfig
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
        ("network.tied", 1),
        ("network.hidden", 16),
        ("network.hidden", [16.0]),
        ("network.hidden", ["16"]),
        ("network.hidden", [[16]]),
        ("data.name", 3),
        ("data.name", None),
        ("data.data_dir", 3),
        ("data.streaming", ["auto"]),
        ("seed", 1.5),
    ],
)
def test_a_wrong_type_is_refused(path, value):
    message = flat_refusal(DIGITS | {path: value})
    given = tuple(value) if isinstance(value, list) else value
    assert message.startswith(f"{path}={given!r} must be ")


@pytest.mark.fault
@pytest.mark.parametrize("value", [["elbo"], 3, None, {}])
def test_a_name_of_a_choice_that_is_no_text_is_refused(value):
    assert flat_refusal(DIGITS | {"objective": value}).startswith(f"objective={value!r} must be one of ")


@pytest.mark.fault
@pytest.mark.parametrize(
    ("path", "value", "allowed"),
    [
        ("optimizer.learning_rate", -1e-3, "greater than 0"),
        ("optimizer.learning_rate", 0.0, "greater than 0"),
        ("optimizer.learning_rate", math.nan, "finite"),
        ("optimizer.learning_rate", math.inf, "finite"),
        ("objective.beta", math.nan, "finite"),
        ("objective.beta", -0.1, "at least 0"),
        ("train.batch_size", 0, "greater than 0"),
        ("train.ema_decay", 1.0, "less than 1"),
        ("data.holdout", 1.0, "less than 1"),
        ("data.holdout", -0.1, "at least 0"),
        ("network.hidden", (16, 0), "numbers greater than 0"),
        ("seed", 2**32, "less than 4294967296"),
        ("seed", -1, "at least 0"),
        ("train.save_every", 130, "a multiple of train.log_every=100, for example 100"),
        ("train.evaluate_every", 170, "a multiple of train.log_every=100, for example 200"),
        ("data.streaming", "sometimes", "one of auto, always, never"),
        ("mesh.data", -1, "at least 0"),
        ("train.steps", 2**31, "at most 2147483647"),
        ("train.batch_size", 10**20, "at most 2147483647"),
        ("objective.warmup_steps", 10**12, "at most 2147483647"),
        ("network.hidden", (16, 10**10), "at most 2147483647"),
        ("optimizer.learning_rate", 10**400, "at most 2147483647"),
        ("train.log_every", 10**7, "at most 1000000"),
        ("optimizer.learning_rate", 1e39, "at most 3.4e+38"),
        ("optimizer.learning_rate", 1e-50, "0 or at least 1.2e-38: in float32 it is 0"),
        ("objective.beta", 1e-39, "0 or at least 1.2e-38: in float32 it is 0"),
        ("train.ema_decay", 0.9999999999, "less than 1 also in float32"),
        ("optimizer.b2", 1 - 1e-12, "less than 1 also in float32"),
    ],
)
def test_a_value_out_of_range_is_refused(path, value, allowed):
    message = flat_refusal(DIGITS | {path: value})
    given = repr(value) if isinstance(value, str) else value
    assert message.startswith(f"{path}={given} must be ")
    assert allowed in message


@pytest.mark.fault
@pytest.mark.parametrize(
    ("choice", "path", "value", "allowed"),
    [
        ({"schedule": "staged"}, "schedule.milestones", (0,), "numbers greater than 0"),
        ({"schedule": "staged"}, "schedule.milestones", (10**20,), "at most 2147483647: integers have 32 bits"),
        ({"objective": "renyi"}, "objective.alpha", -0.5, "at least 0"),
        ({"objective": "ciwae"}, "objective.elbo_weight", -0.5, "at least 0 and at most 1"),
        ({"objective": "ciwae"}, "objective.elbo_weight", 1.5, "at least 0 and at most 1"),
        ({"objective": "info-vae"}, "objective.mmd_weight", -1.0, "at least 0"),
        ({"objective": "miwae"}, "objective.num_inner_samples", 0, "greater than 0"),
        ({"objective": "cubo"}, "objective.order", 0.5, "at least 1"),
        ({"posterior": "fixed-noise"}, "posterior.noise_scale", 0.0, "greater than 0"),
        ({"likelihood": "gaussian", "preprocess": "scale"}, "likelihood.scale", 0.0, "greater than 0"),
    ],
)
def test_a_value_of_a_choice_out_of_range_is_refused(choice, path, value, allowed):
    assert refusal(choice | {path: value}) == f"{path}={value} must be {allowed}"


def test_the_most_similar_choice_is_named():
    assert "did you mean 'elbo'?" in refusal({"objective": "elbow"})
    assert "did you mean 'relu'?" in refusal({"network.activation": "relo"})


@pytest.mark.parametrize(
    ("message", "settings"),
    [
        ("objective=elbo must be reconstruction with posterior=deterministic", {"posterior": "deterministic"}),
        ("objective.num_samples=2 must be 1 with posterior=deterministic",
         {"posterior": "deterministic", "objective": "reconstruction", "objective.num_samples": 2}),
        ("preprocess=dynamic-binarization must be scale with likelihood=logistic-mixture",
         {"likelihood": "logistic-mixture"}),
        ("network.tied=True must be False with likelihood=logistic-mixture",
         {"likelihood": "logistic-mixture", "preprocess": "scale", "network.tied": True}),
        ("network.hidden=() must be one or more numbers of channels with network=conv",
         {"network": "conv", "network.hidden": ()}),
        ("train.patience=2 has no effect with train.evaluate_every=0; remove it or set train.evaluate_every",
         {"train.patience": 2, "train.evaluate_every": 0}),
        ("model.latent_layers=() must be one or more dimensions with model=layered",
         {"model": "layered", "model.latent_layers": ()}),
        ("posterior=fixed-noise must be gaussian with model=layered",
         {"model": "layered", "model.latent_layers": (3,), "posterior": "fixed-noise"}),
        ("network.tied=True must be False with model=layered",
         {"model": "layered", "model.latent_layers": (3,), "network.tied": True}),
        ("objective=beta-tc must be another objective with model=layered",
         {"model": "layered", "model.latent_layers": (3,), "objective": "beta-tc"}),
        ("preprocess=static-binarization must be ",
         {"preprocess": "static-binarization", "data.streaming": "always"}),
        ("data.workers=2 has no effect with data.streaming=never; remove it or use auto or always",
         {"data.workers": 2, "data.streaming": "never"}),
        ("train.microbatches=3 must be a divisor of train.batch_size=128, for example 2",
         {"train.microbatches": 3}),
        ("train.microbatches=2 must be 1 with objective=info-vae",
         {"train.microbatches": 2, "objective": "info-vae"}),
        ("train.max_skips=3 has no effect with train.nonfinite=stop; remove it or use skip", {"train.max_skips": 3}),
        ("optimizer.skip_quantile=0.9 must be 0 with train.nonfinite=stop; ", {"optimizer.skip_quantile": 0.9}),
        ("optimizer.skip_window=9 has no effect with optimizer.skip_quantile=0; ", {"optimizer.skip_window": 9}),
        ("preprocess=dynamic-binarization must be ", {"data.kind": "counts"}),
        ("preprocess=dynamic-binarization must be ", {"likelihood": "poisson"}),
    ],
)  # fmt: skip
def test_settings_that_contradict_each_other_are_refused(message, settings):
    assert refusal(settings).startswith(message)


@pytest.mark.fault
@pytest.mark.parametrize(
    ("path", "value", "chosen", "remedy"),
    [
        ("network.blocks", 2, {"network": "mlp"}, "conv or residual"),
        ("network.remat", True, {"network": "mlp"}, "conv or residual"),
        ("network.tied", True, {"network": "residual"}, "mlp"),
        ("posterior.noise_scale", 0.1, {"posterior": "gaussian"}, "fixed-noise"),
        ("posterior.scale_head", "log-scale", {"posterior": "fixed-noise"}, "gaussian"),
        ("likelihood.components", 3, {"likelihood": "bernoulli"}, "logistic-mixture"),
        ("model.layer_hidden", (5,), {"model": "vae"}, "layered"),
        ("schedule.warmup_steps", 10, {"schedule": "one-cycle"}, "constant or cosine or staged"),
        ("schedule.final_fraction", 0.1, {"schedule": "one-cycle"}, "cosine"),
        ("schedule.milestones", (10,), {"schedule": "cosine"}, "staged"),
        ("schedule.decay", 0.5, {"schedule": "constant"}, "staged"),
        ("optimizer.b1", 0.5, {"optimizer": "rmsprop"}, "adam or adamw or adamax or sgd or lion"),
        ("optimizer.b2", 0.5, {"optimizer": "sgd"}, "adam or adamw or adamax or rmsprop or lion"),
        ("optimizer.eps", 0.5, {"optimizer": "lion"}, "adam or adamw or adamax or rmsprop"),
        ("optimizer.weight_decay", 0.1, {"optimizer": "adam"}, "adamw or lion"),
        ("objective.alpha", 0.7, {"objective": "elbo"}, "renyi"),
        ("objective.beta", 2.0, {"objective": "iwae"},
         "elbo or sampled-elbo or free-bits or capacity or beta-tc or info-vae"),
        ("objective.warmup_steps", 10, {"objective": "iwae"},
         "elbo or sampled-elbo or free-bits or capacity or beta-tc or info-vae"),
        ("objective.order", 3.0, {"objective": "renyi"}, "cubo"),
        ("objective.free_bits", 1.0, {"objective": "elbo"}, "free-bits"),
        ("objective.num_inner_samples", 2, {"objective": "iwae"}, "miwae or piwae"),
    ],
)  # fmt: skip
def test_a_setting_of_another_choice_is_refused(path, value, chosen, remedy):
    ((section, name),) = chosen.items()
    message = refusal(chosen | {path: value})
    start, _, owners = message.partition(f"; remove it or use {section}=")
    assert start == f"{path} has no effect with {section}={name}"
    assert set(owners.split(" or ")) == set(remedy.split(" or "))
    from_flat(DIGITS | {"train.max_skips": 10})


@pytest.mark.parametrize("name", ["adam", "adamw", "adamax", "rmsprop", "sgd", "lion"])
def test_every_optimizer_setting_changes_the_update(name):
    def moved(config):
        optimizer = make_optimizer(config)
        params = {"w": jnp.array([0.3, -2.0])}
        state = optimizer.init(params)
        for grad in ([0.01, 0.3], [-0.02, -0.1], [0.003, -0.01], [4e-5, 0.0]):
            updates, state = optimizer.update({"w": jnp.array(grad)}, state, params)
            params = optax.apply_updates(params, updates)
        return params["w"]

    base = override(PRESETS["digits"], optimizer=name, train__steps=100)
    values = {"b1": 0.3, "b2": 0.3, "eps": 0.1, "weight_decay": 0.5, "learning_rate": 0.5, "clip_norm": 0.01}
    fields = [setting.path.partition(".")[2] for setting in class_settings(type(base.optimizer), "optimizer")]
    fields = [field for field in fields if not field.startswith("skip_")]  # they decide which updates are applied
    assert len(fields) > 2
    for field in fields:
        changed = override(base, **{f"optimizer__{field}": values[field]})
        assert np.any(moved(base) != moved(changed)), field


@pytest.mark.parametrize(
    "settings",
    [
        {"": "elbo", "beta": 2.0, "warmup_steps": 10},
        {"": "capacity", "capacity": 3.0, "warmup_steps": 10},
        {"": "renyi", "alpha": 0.0},
        {"": "miwae", "num_inner_samples": 4},
        {"": "piwae", "num_inner_samples": 2},
        {"": "ciwae", "elbo_weight": 0.0},
        {"": "cubo", "order": 1.0},
        {"": "beta-tc", "beta": 6.0, "warmup_steps": 10},
        {"": "info-vae", "beta": 0.0, "mmd_weight": 1000.0},
    ],
    ids=lambda settings: settings[""],
)
def test_an_objective_accepts_the_settings_that_it_uses(settings):
    settings = {f"objective.{name}" if name else "objective": value for name, value in settings.items()}
    assert changed(settings | {"objective.num_samples": 8}).objective.num_samples == 8


@pytest.mark.fault
def test_the_inner_samples_of_an_objective_divide_its_samples():
    message = refusal({"objective": "miwae", "objective.num_samples": 8, "objective.num_inner_samples": 3})
    assert message == "objective.num_inner_samples=3 must be a divisor of objective.num_samples=8"


@pytest.mark.fault
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
    message = refusal({"objective": name, "estimator": estimator})
    assert message == f"estimator={estimator} must be pathwise with objective={name}; {estimator} needs {supported}"


def test_an_estimator_is_accepted_with_the_objectives_that_it_supports():
    override(PRESETS["digits"], objective="sampled-elbo", estimator="sticking-the-landing")
    for name in ("iwae", "renyi", "miwae", "ciwae", "piwae", "cubo"):
        override(PRESETS["digits"], objective=name, estimator="doubly-reparameterized")


@pytest.mark.fault
def test_an_objective_that_compares_codes_needs_two_examples():
    for name in ("beta-tc", "info-vae"):
        message = refusal({"objective": name, "train.batch_size": 1})
        assert message.startswith(f"train.batch_size=1 must be 2 or more with objective={name}")


def test_each_setting_of_a_refused_pair_is_allowed_without_the_other():
    override(PRESETS["digits"], posterior="deterministic", objective="reconstruction")
    override(PRESETS["digits"], likelihood="logistic-mixture", preprocess="scale")
    override(PRESETS["digits"], likelihood="bernoulli", preprocess="dynamic-binarization")
    override(PRESETS["digits"], likelihood="poisson", preprocess="identity")
    override(PRESETS["digits"], network__tied=True)
    override(PRESETS["digits"], train__patience=2)
    override(PRESETS["digits"], train__nonfinite="skip", train__max_skips=3)


@pytest.mark.fault
def test_a_part_that_the_model_does_not_use_is_refused_unless_it_is_the_default():
    with own_choices():

        @register("model", "own")
        @dataclasses.dataclass(frozen=True)
        class OwnConfig(VAEConfig):
            parts = ("likelihood",)

        assert changed({"model": "own"}).model == OwnConfig(latent_dim=6)
        expected = "posterior=fixed-noise has no effect with model=own; remove it or use another model"
        assert refusal({"model": "own", "posterior": "fixed-noise"}) == expected
        assert refusal({"model": "own", "network.hidden": (3,)}).startswith("network=mlp has no effect with model=own")
        assert changed({"model": "own", "preprocess": "scale", "likelihood": "gaussian"}).network.hidden == (200, 200)


def test_the_check_of_a_choice_receives_all_settings():
    with own_choices():

        @register("prior", "own")
        @dataclasses.dataclass(frozen=True)
        class OwnConfig(choices("prior")["standard-normal"]):
            size: int = setting(3, "A size.", above=0)

            def check(self, config):
                require(self.size <= config.model.latent_dim, "prior.size", self.size, "at most the latents")

        assert changed({"prior": "own"}).prior.size == 3
        assert refusal({"prior": "own", "prior.size": 7}) == "prior.size=7 must be at most the latents"


def test_validate_refuses_a_config_that_was_made_by_hand():
    with pytest.raises(InputError, match=r"^train\.steps=-1 must be greater than 0$"):
        validate(Config(train=TrainConfig(steps=-1)))
    with pytest.raises(InputError, match=r"^model\.latent_dim=2\.0 must be of type int$"):
        validate(Config(model=VAEConfig(latent_dim=2.0)))
    with pytest.raises(InputError, match=r"^train\.nonfinite='stopp' must be one of .*; did you mean 'stop'\?$"):
        validate(Config(train=TrainConfig(nonfinite="stopp")))


@pytest.mark.fault
@pytest.mark.parametrize(
    ("section", "part", "message"),
    [
        ("train", TrainConfig(steps=0), "train.steps=0 must be greater than 0"),
        ("train", TrainConfig(log_every=0), "train.log_every=0 must be greater than 0 and at most 1000000"),
        ("train", TrainConfig(log_every=4, save_every=6, evaluate_every=8),
         "train.save_every=6 must be a multiple of train.log_every=4, for example 8"),
        ("train", TrainConfig(microbatches=3, batch_size=16),
         "train.microbatches=3 must be a divisor of train.batch_size=16, for example 2"),
        ("train", TrainConfig(patience=2, evaluate_every=0),
         "train.patience=2 has no effect with train.evaluate_every=0; remove it or set train.evaluate_every"),
        ("train", TrainConfig(max_skips=2),
         "train.max_skips=2 has no effect with train.nonfinite=stop; remove it or use skip"),
        ("evaluation", EvaluationConfig(chunk=-1), "evaluation.chunk=-1 must be at least 0"),
        ("evaluation", {"chunk": 1},
         "evaluation=dict must be of type EvaluationConfig; use vae_jax.EvaluationConfig(...)"),
    ],
)  # fmt: skip
def test_a_section_is_validated_without_the_others(section, part, message):
    with pytest.raises(InputError) as caught:
        validate_section(section, part)
    assert str(caught.value) == message


def test_the_messages_of_checks():
    require(True, "a", 1, "2")
    require_default(True, "a", 1, "here", "go")
    with pytest.raises(InputError, match=r"^a=1 must be 2$"):
        require(False, "a", 1, "2")
    with pytest.raises(InputError, match=r"^a=1 has no effect here; remove it or go$"):
        require_default(False, "a", 1, "here", "go")
    assert [any_of(list("abc")[:n]) for n in (1, 2, 3)] == ["a", "a or b", "a, b or c"]
