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
from jitted import log_likelihood, negative_bound, sample_terms
from subsets import by_default

from vae_jax import random
from vae_jax.config import Config, apply_overrides, choice, choices
from vae_jax.data.loading import load
from vae_jax.data.preprocess import DynamicBinarizationConfig, ScaleConfig
from vae_jax.distributions import Bernoulli, Density, Normal, from_prior, from_values, standard_normal
from vae_jax.errors import InputError
from vae_jax.inference import aggregate, elbos, importance
from vae_jax.inference.bound import decode, encode
from vae_jax.inference.gradient_statistics import gradient_statistics
from vae_jax.models import export
from vae_jax.models.build import build_model, init_params
from vae_jax.models.likelihoods import BernoulliConfig
from vae_jax.models.mlp import MLPEncoder
from vae_jax.models.posteriors import ConditionalNormal
from vae_jax.models.priors import StandardNormal
from vae_jax.models.vae import VAE
from vae_jax.runtime import sharding
from vae_jax.training.evaluator import Evaluator
from vae_jax.training.state import init_state
from vae_jax.training.step import make_train_step

SHAPE = (4, 3, 1)
IMAGES = np.random.default_rng(0).integers(0, 256, (12, *SHAPE), dtype=np.uint8)
STORED = {"x": jnp.asarray(IMAGES)}
X = jnp.asarray(IMAGES > 127, jnp.float32)
KEY = jax.random.key(0)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Laplace(Density):
    loc: jax.Array  # [B, D]
    log_scale: jax.Array

    @property
    def batch_shape(self):
        return self.loc.shape[:-1]

    def sample(self, key, sample_shape=()):
        shape = (*sample_shape, *self.loc.shape)
        noise = random.drawn(jax.random.laplace, key, shape)
        return jnp.broadcast_to(self.loc, shape) + noise * jnp.broadcast_to(jnp.exp(self.log_scale), shape)

    def log_prob(self, value):
        loc, log_scale = (jnp.broadcast_to(a, value.shape) for a in (self.loc, self.log_scale))
        return -jnp.sum(jnp.abs(value - loc) * jnp.exp(-log_scale) + log_scale + math.log(2), axis=-1)

    def mean(self):
        return self.loc

    def stddev(self):
        return math.sqrt(2) * jnp.exp(self.log_scale)


class CustomModel(nn.Module):
    """A model that shares with `VAE` only the two methods."""

    def setup(self):
        self.code, self.pixels = nn.Dense(4), nn.Dense(12)

    def encode(self, batch):
        x = batch["x"]
        return Laplace(*jnp.split(self.code(x.reshape(x.shape[0], -1)), 2, axis=-1))

    def decode(self, draw, evidence=None, batch=None):
        del batch
        latent = draw("code", standard_normal((2,)), lambda: evidence)
        return Bernoulli(self.pixels(latent.z).reshape(*latent.z.shape[:-1], *SHAPE)), (latent,)


class LabelledModel(nn.Module):
    """A ladder of two layers of different shapes, a map [2, 3] and a vector [2], given a label."""

    def setup(self):
        self.features, self.shift, self.pixels = nn.Dense(20), nn.Dense(6), nn.Dense(12)

    def encode(self, batch):
        h = nn.tanh(self.features(batch["x"].reshape(batch["x"].shape[0], -1)))
        return {"map": h[:, :12].reshape(-1, 2, 2, 3), "vector": h[:, 12:16].reshape(-1, 2, 2)}

    def decode(self, draw, evidence=None, batch=None):
        def posterior(name, ndims):
            return lambda: Normal(evidence[name][:, 0], evidence[name][:, 1], ndims)

        vector = draw("vector", standard_normal((2,)), posterior("vector", 1))
        loc = self.shift(vector.z).reshape(*vector.z.shape[:-1], 2, 3)
        grid = draw("map", Normal(loc, jnp.zeros_like(loc), 2), posterior("map", 2))
        h = jnp.concatenate([grid.z.reshape(*grid.z.shape[:-2], 6), vector.z], axis=-1)
        label = jnp.broadcast_to(jax.nn.one_hot(batch["y"], 3), (*h.shape[:-1], 3))
        return Bernoulli(self.pixels(jnp.concatenate([h, label], axis=-1)).reshape(*h.shape[:-1], *SHAPE)), (
            grid,
            vector,
        )


LABELLED = {"x": X, "y": jnp.arange(12) % 3}


def initial_state(optimizer, model=None):
    return init_state(KEY, model=model or CustomModel(), batch={"x": X[:1]}, optimizer=optimizer)


@functools.cache
def custom_params():
    return initial_state(optax.identity()).params


@functools.cache
def labelled_params():
    return init_params(LabelledModel(), KEY, LABELLED)["params"]


def custom_loss(params, statistics, key, batch, step):
    del step
    keys = random.example_keys(key, batch["x"].shape[0])
    inputs = DynamicBinarizationConfig()(random.fold_in(keys, 0), batch)
    loss, metrics = negative_bound(
        params, random.fold_in(keys, 1), inputs, model=CustomModel(), objective=importance.iwae, num_samples=3
    )
    return loss, (metrics, statistics)


def test_the_kl_of_a_custom_density_is_estimated_from_the_samples():
    terms = sample_terms(custom_params(), KEY, {"x": X}, model=CustomModel(), num_samples=5)
    assert terms.latents[0].kl is None
    np.testing.assert_allclose(elbos.elbo(terms), elbos.sampled_elbo(terms), rtol=1e-5)
    assert np.all(np.isfinite(terms.log_qz))


def test_a_custom_objective_weights_the_kl_of_each_layer():
    def weighted(terms):
        return terms.log_px_z.mean(axis=0) - terms.kl[0] - 3 * terms.kl[1]

    settings = {"model": LabelledModel(), "num_samples": 4}
    loss, metrics = negative_bound(labelled_params(), KEY, LABELLED, objective=weighted, **settings)
    terms = sample_terms(labelled_params(), KEY, LABELLED, **settings)
    assert all(latent.kl is not None for latent in terms.latents)
    np.testing.assert_allclose(loss, -elbos.elbo(terms).mean() + 2 * terms.kl[1].mean(), rtol=1e-5)
    np.testing.assert_allclose(metrics["kl_2"], terms.kl[1].mean(), rtol=1e-6)


@pytest.mark.parametrize("estimator", by_default(lambda name: name != "sticking-the-landing", choices("estimator")))
def test_a_model_given_labels_has_bounds_and_likelihoods_that_depend_on_them(estimator):
    moved = LABELLED | {"y": (LABELLED["y"] + 1) % 3}
    settings = {"model": LabelledModel(), "objective": importance.iwae, "num_samples": 4}
    settings["estimator"] = choice("estimator", estimator).build()
    bounds = [negative_bound(labelled_params(), KEY, batch, **settings)[0] for batch in (LABELLED, moved)]
    assert abs(bounds[0] - bounds[1]) > 1e-3
    gradient = jax.jit(jax.grad(lambda p: negative_bound(p, KEY, LABELLED, **settings)[0]))(labelled_params())
    used = gradient | {"features": jax.tree.map(lambda leaf: leaf[..., :16], gradient["features"])}
    assert all(np.all(np.isfinite(leaf)) and np.any(leaf != 0) for leaf in jax.tree.leaves(used))
    run = functools.partial(log_likelihood, labelled_params(), KEY, model=LabelledModel(), num_samples=10)
    np.testing.assert_allclose(run(LABELLED, chunk=10)[0], run(LABELLED, chunk=3)[0], rtol=1e-5)
    assert np.all(np.abs(run(LABELLED, chunk=10)[0] - run(moved, chunk=10)[0]) > 1e-5)


def test_a_model_given_labels_is_sampled_embedded_and_decoded_by_layer():
    p_x, layers = decode(labelled_params(), from_prior(KEY, 12), None, LABELLED, model=LabelledModel())
    assert {name: latent.z.shape for name, latent in layers.items()} == {"map": (12, 2, 3), "vector": (12, 2)}
    assert p_x.mean().shape == (12, *SHAPE)
    again, _ = decode(
        labelled_params(),
        from_values({name: latent.z for name, latent in layers.items()}),
        None,
        LABELLED,
        model=LabelledModel(),
    )
    np.testing.assert_array_equal(again.mean(), p_x.mean())
    embedded = export.embed(labelled_params(), LABELLED, model=LabelledModel())
    evidence = encode(labelled_params(), LABELLED, model=LabelledModel())
    for name, each in evidence.items():
        np.testing.assert_allclose(embedded[name]["mean"], each[:, 0], rtol=1e-6)
        np.testing.assert_allclose(embedded[name]["scale"], np.exp(each[:, 1]), rtol=1e-6)


def test_a_step_in_microbatches_uses_the_random_numbers_of_the_complete_batch():
    state = initial_state(optimizer := optax.sgd(0.1))
    complete, _ = jax.jit(make_train_step(custom_loss, optimizer))(state, STORED)
    divided = {"x": STORED["x"].reshape(3, 4, *SHAPE)}
    parts, _ = jax.jit(make_train_step(custom_loss, optimizer, microbatches=3))(state, divided)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), complete.params, parts.params)
    assert not np.allclose(complete.params["code"]["kernel"], state.params["code"]["kernel"], atol=1e-3)


def test_evaluations_on_devices_that_do_not_divide_the_batch_equal_those_on_one():
    spread = sharding.batch_sharding(sharding.make_mesh(4))
    evaluator = functools.partial(Evaluator, CustomModel(), DynamicBinarizationConfig(), batch_size=5)
    alone, together = (evaluator(placement=where) for where in (None, spread))
    for name, settings in (("bound", {}), ("likelihood", {"num_samples": 6, "chunk": 4})):
        one, four = (getattr(e, name)(custom_params(), KEY, {"x": IMAGES}, **settings) for e in (alone, together))
        assert one == pytest.approx(four, rel=1e-5)
    assert one["nll"] > 0


def test_exported_programs_equal_the_model():
    programs = export.export_programs(custom_params(), model=CustomModel(), shape=SHAPE, value_range=(0.0, 1.0))
    codes = programs["encoder"].call(X)
    assert codes["mean"].shape == (12, 2)
    expected = export.decode(custom_params(), codes["mean"], model=CustomModel())
    np.testing.assert_allclose(programs["decoder"].call(codes["mean"]), expected, rtol=1e-5)
    rows = jax.random.key_data(jax.random.split(KEY, 5))
    assert programs["sampler"].call(rows).shape == (5, *SHAPE)


def test_gradient_statistics_accept_raw_keys():
    def loss(params, key):
        return custom_loss(params, {}, key, STORED, 0)[0]

    raw = jax.random.split(jax.random.PRNGKey(1), 4)
    typed = jax.random.wrap_key_data(raw)
    found, expected = (gradient_statistics(loss, custom_params(), keys, chunk=2).variance for keys in (raw, typed))
    jax.tree.map(np.testing.assert_array_equal, found, expected)


class Flat(nn.Module):
    """A decoder whose output has not the shape of an image."""

    @nn.compact
    def __call__(self, z):
        return nn.Dense(12)(z)


def init_vae():
    posterior, prior = ConditionalNormal(2), StandardNormal(2)
    model = VAE(MLPEncoder((8,), nn.relu), Flat(), posterior, prior, likelihood=BernoulliConfig(), shape=SHAPE)
    return init_params(model, KEY, {"x": X})


def two_layers():
    settings = {"network.hidden": (8,), "model": "layered", "model.latent_dim": 2, "model.latent_layers": (3,)}
    model = build_model(apply_overrides(Config(), settings | {"model.layer_hidden": (4,)}), SHAPE)
    params = initial_state(optax.identity(), model).params
    return sample_terms(params, KEY, {"x": X}, model=model, num_samples=2)


def custom_terms():
    return sample_terms(custom_params(), KEY, {"x": X}, model=CustomModel())


def bound_by(objective):
    return negative_bound(custom_params(), KEY, {"x": X}, model=CustomModel(), objective=objective, num_samples=2)


def step_of(*, metric=0.0, **settings):
    def loss(params, statistics, key, batch, step):
        value, (_, statistics) = custom_loss(params, statistics, key, batch, step)
        return value, ({"custom": metric}, statistics)

    step = make_train_step(loss, optax.sgd(0.1), **settings)
    return step(initial_state(optax.sgd(0.1)), STORED)


def evaluate(batch_size, count):
    return Evaluator(CustomModel(), ScaleConfig(), batch_size=batch_size).bound(
        custom_params(), KEY, {"x": IMAGES[:count]}
    )


def likelihood(**settings):
    return log_likelihood(custom_params(), KEY, {"x": X}, model=CustomModel(), **settings)


@pytest.mark.parametrize(
    ("call", "kind", "words"),
    [
        (
            lambda: init_vae(),
            InputError,
            ["decoder returned shape [1, 12, 12] for codes [1, 12, 2]", "return [1, 12, 4, 3, 1]"],
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
            ["terms have 2 stochastic layers; use a model with one layer"],
        ),
        (
            lambda: aggregate.beta_tc(two_layers(), num_examples=12),
            ValueError,
            ["terms have 2 stochastic layers; use a model with one layer"],
        ),
        (
            lambda: aggregate.beta_tc(custom_terms(), num_examples=12),
            InputError,
            ["Laplace has no `event_ndims`; use a density of independent dimensions"],
        ),
        (lambda: step_of(metric=jnp.zeros(3)), ValueError, ["metrics['custom'] has shape [3]; return a scalar"]),
        (lambda: step_of(microbatches=2), ValueError, ['batch["x"] has shape [12, 4, 3, 1]; pass [2, B/2, ...]']),
        (lambda: likelihood(num_samples=5, chunk=0), ValueError, ["num_samples=5 and chunk=0 must each be 1 or more"]),
        (lambda: likelihood(num_samples=0, chunk=1), ValueError, ["num_samples=0 and chunk=1 must each be 1 or more"]),
        (lambda: evaluate(5, 0), ValueError, ["arrays have length 0; pass one example or more"]),
        (lambda: evaluate(0, 12), ValueError, ["batch_size=0 must be 1 or more"]),
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
