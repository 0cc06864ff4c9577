"""Custom parts: a user-defined model, density, decoder, objective or loss works everywhere, or raises a clear error."""

import dataclasses
import functools
import math
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from inputs import refused

from vae_jax import random
from vae_jax.config.schema import DataConfig, ModelConfig, ObjectiveConfig
from vae_jax.data.loading import load
from vae_jax.data.preprocess import read_images
from vae_jax.distributions.bernoulli import Bernoulli
from vae_jax.distributions.normal import standard_normal
from vae_jax.errors import InputError
from vae_jax.inference import aggregate, importance
from vae_jax.inference.bound import negative_bound, sample_terms
from vae_jax.inference.gradient_statistics import gradient_statistics
from vae_jax.inference.likelihood import log_likelihood
from vae_jax.models import export
from vae_jax.models.build import build_model
from vae_jax.models.mlp import MLPEncoder
from vae_jax.models.vae import VAE, ConditionalNormal
from vae_jax.runtime import sharding
from vae_jax.training.evaluator import Evaluator
from vae_jax.training.loss import make_loss
from vae_jax.training.state import init_state
from vae_jax.training.step import make_train_step

SHAPE = (4, 3, 1)
IMAGES = np.random.default_rng(0).integers(0, 256, (12, *SHAPE), dtype=np.uint8)
X = jnp.asarray(IMAGES > 127, jnp.float32)
KEY = jax.random.key(0)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Laplace:
    loc: jax.Array  # [B, D]
    log_scale: jax.Array

    def sample(self, key, sample_shape=()):
        shape = (*sample_shape, *self.loc.shape)
        noise = random.drawn(jax.random.laplace, key, shape, axis=len(sample_shape))
        return jnp.broadcast_to(self.loc, shape) + noise * jnp.broadcast_to(jnp.exp(self.log_scale), shape)

    def log_prob(self, value):
        loc, log_scale = (jnp.broadcast_to(a, value.shape) for a in (self.loc, self.log_scale))
        return -jnp.sum(jnp.abs(value - loc) * jnp.exp(-log_scale) + log_scale + math.log(2), axis=-1)

    def mean(self):
        return self.loc


class CustomModel(nn.Module):
    """A model that shares with `VAE` only the three functions and `image_shape`."""

    image_shape = SHAPE

    def setup(self):
        self.code, self.pixels = nn.Dense(4), nn.Dense(12)

    def __call__(self, x):
        return self.decode(self.encode(x).mean())

    def encode(self, x):
        return Laplace(*jnp.split(self.code(x.reshape(x.shape[0], -1)), 2, axis=-1))

    def prior(self):
        return standard_normal((2,))

    def decode(self, z):
        return Bernoulli(self.pixels(z).reshape(*z.shape[:-1], *SHAPE))


@functools.cache
def custom_params():
    return init_state(KEY, model=CustomModel(), optimizer=optax.identity()).params


def custom_loss(params, key, images, step):
    del step
    read_key, noise_key = random.split(key)
    x = read_images(read_key, images, binarization="dynamic")
    return negative_bound(params, noise_key, x, model=CustomModel(), objective=importance.iwae, num_samples=3)


def test_a_step_in_microbatches_uses_the_random_numbers_of_the_complete_batch():
    state = init_state(KEY, model=CustomModel(), optimizer=(optimizer := optax.sgd(0.1)))
    complete, _ = jax.jit(make_train_step(custom_loss, optimizer))(state, IMAGES)
    parts, _ = jax.jit(make_train_step(custom_loss, optimizer, microbatches=3))(state, IMAGES.reshape(3, 4, *SHAPE))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), complete.params, parts.params)
    assert not np.allclose(complete.params["code"]["kernel"], state.params["code"]["kernel"], atol=1e-3)


def test_evaluations_on_devices_that_do_not_divide_the_batch_equal_those_on_one():
    spread = sharding.batch_sharding(sharding.make_mesh(4))
    alone, together = (Evaluator(CustomModel(), "dynamic", batch_size=5, placement=where) for where in (None, spread))
    for name, settings in (("bound", {}), ("likelihood", {"num_samples": 6, "chunk": 4})):
        one, four = (getattr(e, name)(custom_params(), KEY, IMAGES, **settings) for e in (alone, together))
        assert one == pytest.approx(four, rel=1e-5)
    assert one["nll"] > 0


def test_exported_programs_equal_the_model():
    programs = export.export_programs(custom_params(), model=CustomModel())
    codes = programs["encoder"].call(X)
    assert codes["mean"].shape == (12, 2)
    expected = export.decode(custom_params(), codes["mean"], model=CustomModel())
    np.testing.assert_allclose(programs["decoder"].call(codes["mean"]), expected, rtol=1e-5)
    rows = jax.random.key_data(jax.random.split(KEY, 5))
    assert programs["sampler"].call(rows).shape == (5, *SHAPE)


def test_gradient_statistics_accept_raw_keys():
    def loss(params, key):
        return custom_loss(params, key, IMAGES, 0)[0]

    raw = jax.random.split(jax.random.PRNGKey(1), 4)
    typed = jax.random.wrap_key_data(raw)
    found, expected = (gradient_statistics(loss, custom_params(), keys, chunk=2).variance for keys in (raw, typed))
    jax.tree.map(np.testing.assert_array_equal, found, expected)


class Flat(nn.Module):
    """A decoder whose output has not the shape of an image."""

    @nn.compact
    def __call__(self, z):
        return nn.Dense(12)(z)


def init_vae(**parts):
    return VAE(MLPEncoder((8,), nn.relu), Flat(), latent_dim=2, image_shape=SHAPE, **parts).init(KEY, X)


def two_layers():
    config = ModelConfig(hidden=(8,), latent_dim=2, latent_layers=(3,), layer_hidden=(4,))
    model = build_model(config, SHAPE)
    params = init_state(KEY, model=model, optimizer=optax.identity()).params
    return sample_terms(params, KEY, X, model=model, num_samples=2)


def bound_by(objective):
    return negative_bound(custom_params(), KEY, X, model=CustomModel(), objective=objective, num_samples=2)


def step_of(*, metric=0.0, **settings):
    def loss(params, key, images, step):
        return custom_loss(params, key, images, step)[0], {"custom": metric}

    step = make_train_step(loss, optax.sgd(0.1), **settings)
    return step(init_state(KEY, model=CustomModel(), optimizer=optax.sgd(0.1)), IMAGES)


def likelihood(**settings):
    return log_likelihood(custom_params(), KEY, X, model=CustomModel(), **settings)


MODEL = build_model(ModelConfig(hidden=(8,), latent_dim=2), SHAPE)


@pytest.mark.parametrize(
    ("call", "kind", "words"),
    [
        (lambda: init_vae(), InputError, ["decoder returned shape [12, 12] for codes [12, 2]", "return [12, 4, 3, 1]"]),
        (lambda: init_vae(latent_layers=(3,)), InputError, ["posterior_layers has 0 modules; pass 1,"]),
        (
            lambda: init_vae(prior_layers=(ConditionalNormal((4,), nn.relu, 3),)),
            InputError,
            ["prior_layers has 1 modules; pass 0,"],
        ),
        (
            lambda: bound_by(lambda t: t.log_px_z),
            ValueError,
            ["objective returned shape [2, 12]; return a bound for each example, [12]"],
        ),
        (
            lambda: bound_by(lambda t: t.log_px_z.mean()),
            ValueError,
            ["objective returned shape []; return a bound for each example, [12]"],
        ),
        (
            lambda: aggregate.squared_mmd(two_layers()),
            ValueError,
            ["terms.codes has 2 stochastic layers; use a model with one"],
        ),
        (
            lambda: aggregate.beta_tc(two_layers(), num_examples=12),
            ValueError,
            ["terms.codes has 2 stochastic layers; use a model with one"],
        ),
        (lambda: step_of(metric=jnp.zeros(3)), ValueError, ["metrics['custom'] has shape [3]; return a scalar"]),
        (lambda: step_of(microbatches=2), ValueError, ["batch has shape [12, 4, 3, 1]; pass [2, B/2, H, W, C]"]),
        (lambda: likelihood(num_samples=5, chunk=0), ValueError, ["num_samples=5 and chunk=0 must each be 1 or more"]),
        (lambda: likelihood(num_samples=0, chunk=1), ValueError, ["num_samples=0 and chunk=1 must each be 1 or more"]),
        (
            lambda: Evaluator(CustomModel(), "none", 5).bound(custom_params(), KEY, IMAGES[:0]),
            ValueError,
            ["images has length 0; pass one image or more"],
        ),
        (
            lambda: Evaluator(CustomModel(), "none", 0).bound(custom_params(), KEY, IMAGES),
            ValueError,
            ["batch_size=0 must be 1 or more"],
        ),
        (
            lambda: make_loss(MODEL, ObjectiveConfig(name="iwea"), DataConfig()),
            InputError,
            ["objective.name='iwea' must be one of", "did you mean 'iwae'?"],
        ),
        (
            lambda: make_loss(MODEL, ObjectiveConfig(estimator="dreg"), DataConfig()),
            InputError,
            ["objective.estimator='dreg' must be one of"],
        ),
    ],
)
def test_unsupported_parts_and_settings_are_refused(call, kind, words):
    with refused(kind, *words):
        call()


def test_the_folder_of_a_prepared_data_set_is_distinguished_from_a_folder_of_images(data_dir):
    load("digits", "train", data_dir=data_dir)
    (folder,) = (path.parent for path in Path(data_dir).glob("digits/*/dataset_info.json"))
    with refused(InputError, "prepared by TFDS; use its name"):
        load(folder, "train")
