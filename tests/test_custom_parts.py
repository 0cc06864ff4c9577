"""What users bring, a model, a density, a decoder, a bound, a loss: it is taken everywhere, or refused in words."""

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


class Own(nn.Module):
    """A model that has nothing of `VAE` but its three functions, and the shape of its images."""

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
def own_params():
    return init_state(KEY, model=Own(), optimizer=optax.identity()).params


def own_loss(params, key, images, step):
    del step
    read_key, noise_key = random.split(key)
    x = read_images(read_key, images, binarization="dynamic")
    return negative_bound(params, noise_key, x, model=Own(), objective=importance.iwae, num_samples=3)


def test_a_step_in_parts_draws_what_it_draws_whole():
    state = init_state(KEY, model=Own(), optimizer=(optimizer := optax.sgd(0.1)))
    whole, _ = jax.jit(make_train_step(own_loss, optimizer))(state, IMAGES)
    parts, _ = jax.jit(make_train_step(own_loss, optimizer, microbatches=3))(state, IMAGES.reshape(3, 4, *SHAPE))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), whole.params, parts.params)
    assert not np.allclose(whole.params["code"]["kernel"], state.params["code"]["kernel"], atol=1e-3)


def test_evaluations_of_devices_that_do_not_divide_the_batch_are_those_of_one():
    spread = sharding.batch_sharding(sharding.make_mesh(4))
    alone, together = (Evaluator(Own(), "dynamic", batch_size=5, placement=where) for where in (None, spread))
    for name, given in (("bound", {}), ("likelihood", {"num_samples": 6, "chunk": 4})):
        one, four = (getattr(e, name)(own_params(), KEY, IMAGES, **given) for e in (alone, together))
        assert one == pytest.approx(four, rel=1e-5)
    assert one["nll"] > 0


def test_its_programs():
    programs = export.export_programs(own_params(), model=Own())
    codes = programs["encoder"].call(X)
    assert codes["mean"].shape == (12, 2)
    expected = export.decode(own_params(), codes["mean"], model=Own())
    np.testing.assert_allclose(programs["decoder"].call(codes["mean"]), expected, rtol=1e-5)
    rows = jax.random.key_data(jax.random.split(KEY, 5))
    assert programs["sampler"].call(rows).shape == (5, *SHAPE)


def test_statistics_take_raw_keys():
    def loss(params, key):
        return own_loss(params, key, IMAGES, 0)[0]

    raw = jax.random.split(jax.random.PRNGKey(1), 4)
    typed = jax.random.wrap_key_data(raw)
    found, expected = (gradient_statistics(loss, own_params(), keys, chunk=2).variance for keys in (raw, typed))
    jax.tree.map(np.testing.assert_array_equal, found, expected)


class Flat(nn.Module):
    """A decoder that forgets to make an image of its features."""

    @nn.compact
    def __call__(self, z):
        return nn.Dense(12)(z)


def made_of(**parts):
    return VAE(MLPEncoder((8,), nn.relu), Flat(), latent_dim=2, image_shape=SHAPE, **parts).init(KEY, X)


def two_layers():
    config = ModelConfig(hidden=(8,), latent_dim=2, latent_layers=(3,), layer_hidden=(4,))
    model = build_model(config, SHAPE)
    params = init_state(KEY, model=model, optimizer=optax.identity()).params
    return sample_terms(params, KEY, X, model=model, num_samples=2)


def bound_by(objective):
    return negative_bound(own_params(), KEY, X, model=Own(), objective=objective, num_samples=2)


def step_of(*, metric=0.0, **settings):
    def loss(params, key, images, step):
        return own_loss(params, key, images, step)[0], {"mine": metric}

    step = make_train_step(loss, optax.sgd(0.1), **settings)
    return step(init_state(KEY, model=Own(), optimizer=optax.sgd(0.1)), IMAGES)


def likelihood(**settings):
    return log_likelihood(own_params(), KEY, X, model=Own(), **settings)


MODEL = build_model(ModelConfig(hidden=(8,), latent_dim=2), SHAPE)


@pytest.mark.parametrize(
    ("call", "kind", "words"),
    [
        (lambda: made_of(), InputError, ["decoder: [12, 12] for codes [12, 2]", "must be [12, 4, 3, 1]"]),
        (lambda: made_of(latent_layers=(3,)), InputError, ["posterior_layers=0 must be 1"]),
        (
            lambda: made_of(prior_layers=(ConditionalNormal((4,), nn.relu, 3),)),
            InputError,
            ["prior_layers=1 must be 0"],
        ),
        (lambda: bound_by(lambda t: t.log_px_z), ValueError, ["objective: it gave [2, 12] for 12 examples"]),
        (lambda: bound_by(lambda t: t.log_px_z.mean()), ValueError, ["objective: it gave [] for 12 examples"]),
        (lambda: aggregate.squared_mmd(two_layers()), ValueError, ["2 stochastic layers given, must be one"]),
        (
            lambda: aggregate.beta_tc(two_layers(), num_examples=12),
            ValueError,
            ["2 stochastic layers given, must be one"],
        ),
        (lambda: step_of(metric=jnp.zeros(3)), ValueError, ["metrics: mine is [3], must be a scalar"]),
        (lambda: step_of(microbatches=2), ValueError, ["batch=[12, 4, 3, 1] must be [2, B/2, H, W, C]"]),
        (lambda: likelihood(num_samples=5, chunk=0), ValueError, ["chunk: 0 given"]),
        (lambda: likelihood(num_samples=0, chunk=1), ValueError, ["num_samples: 0, chunk: 1 given"]),
        (lambda: Evaluator(Own(), "none", 5).bound(own_params(), KEY, IMAGES[:0]), ValueError, ["0 images in batches"]),
        (lambda: Evaluator(Own(), "none", 0).bound(own_params(), KEY, IMAGES), ValueError, ["in batches of 0 given"]),
        (
            lambda: make_loss(MODEL, ObjectiveConfig(name="iwea"), DataConfig()),
            InputError,
            ["objective.name: 'iwea' given", "did you mean 'iwae'?"],
        ),
        (
            lambda: make_loss(MODEL, ObjectiveConfig(estimator="dreg"), DataConfig()),
            InputError,
            ["objective.estimator: 'dreg' given"],
        ),
    ],
)
def test_what_cannot_be_meant_is_refused(call, kind, words):
    with refused(kind, *words):
        call()


def test_the_folder_of_a_prepared_data_set_is_told_from_one_of_pictures(data_dir):
    load("digits", "train", data_dir=data_dir)
    (folder,) = (path.parent for path in Path(data_dir).glob("digits/*/dataset_info.json"))
    with refused(InputError, "prepared by TFDS; give its name"):
        load(folder, "train")
