"""Models from a config, and initial variables of models that have only `encode` and `decode`."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from built_models import NETWORKS, built, model_config, random_images
from flax import nnx
from jitted import apply, init

from vae_jax.config import Config
from vae_jax.distributions import Bernoulli, Normal
from vae_jax.errors import InputError
from vae_jax.models.build import build_model, init_params
from vae_jax.models.layered import LayeredVAE
from vae_jax.models.vae import VAE


def test_the_model_is_the_choice_of_the_config():
    assert type(build_model(Config(), (4, 4, 1))) is VAE
    assert type(build_model(model_config(model="layered"), (4, 4, 1))) is LayeredVAE
    assert build_model(Config(), [4, 4, 1]).shape == (4, 4, 1)


def test_equal_configs_give_equal_models_so_that_a_program_is_compiled_once():
    first, second = (build_model(model_config(network="residual"), (4, 4, 1)) for _ in range(2))
    assert first == second
    assert hash(first) == hash(second)
    assert first != build_model(model_config(network="residual", likelihood="learned-gaussian"), (4, 4, 1))


@pytest.mark.parametrize("network", NETWORKS)
def test_only_a_model_for_training_computes_in_the_precision_of_training(network):
    shape, x = (6, 5, 1), random_images((6, 5, 1))
    config = model_config(network=network, network__compute_dtype="bfloat16")
    exact, params = built(network, shape)
    for training in (False, True):
        model = build_model(config, shape, training=training)
        made = jax.eval_shape(lambda model=model: init_params(model, jax.random.key(0), {"x": x}))
        assert {leaf.dtype for leaf in jax.tree.leaves(made)} == {jnp.dtype(jnp.float32)}
        q = apply(model, params, x, method="encode")
        p = apply(model, params, jnp.ones((2, 3)), method="decode")
        assert q.loc.dtype == p.logits.dtype == jnp.float32
        expected = apply(exact, params, x, method="encode").loc
        assert np.array_equal(q.loc, expected) is not training
        np.testing.assert_allclose(q.loc, expected, atol=0.05)


class CentredModel(nn.Module):
    """A model with a running mean of x, without `__call__`, whose prior is learned."""

    def setup(self):
        self.running_mean = self.variable("batch_stats", "mean", jnp.zeros, 3)
        self.heads, self.pixels = nn.Dense(2), nn.Dense(3)
        self.prior_loc = self.param("prior_loc", nn.initializers.ones, (2,))

    def encode(self, batch):
        loc = self.heads(batch["x"] - self.running_mean.value[None])
        return Normal(loc, jnp.zeros_like(loc))

    def decode(self, draw, evidence=None, batch=None):
        prior = Normal(self.prior_loc, jnp.zeros(2))
        latent = draw("z", prior, None if evidence is None else lambda: evidence)
        return Bernoulli(self.pixels(latent.z), event_ndims=1), (latent,)


def test_the_variables_are_those_of_encode_and_decode():
    variables = init_params(CentredModel(), jax.random.key(0), {"x": jnp.ones((1, 3))})
    assert set(variables) == {"params", "batch_stats"}
    assert set(variables["params"]) == {"heads", "pixels", "prior_loc"}
    np.testing.assert_array_equal(variables["batch_stats"]["mean"], np.zeros(3))


@pytest.mark.parametrize("model", ["vae", "layered"])
def test_initial_parameters_depend_on_the_key_and_not_on_the_batch(model):
    model = build_model(model_config(model=model), (4, 4, 1))
    small, large, other = (
        init(model, jax.random.key(seed), x)["params"]
        for seed, x in ((0, jnp.zeros((1, 4, 4, 1))), (0, random_images((4, 4, 1), 3)), (1, jnp.zeros((1, 4, 4, 1))))
    )
    jax.tree.map(np.testing.assert_array_equal, small, large)
    kernels = [params["posterior"]["mean"]["kernel"] for params in (small, other)]
    assert np.all(kernels[0] != kernels[1])
    as_flax = jax.jit(model.init)(jax.random.key(0), {"x": jnp.zeros((1, 4, 4, 1))})["params"]
    jax.tree.map(np.testing.assert_array_equal, small, as_flax)


def test_a_model_of_vectors():
    model, params = built("mlp", (5,))
    q = apply(model, params, jnp.ones((2, 5)), method="encode")
    p = apply(model, params, q.mean(), method="decode")
    assert p.mean().shape == (2, 5)
    assert p.log_prob(jnp.ones((2, 5))).shape == (2,)


class NNXEncoder(nnx.Module):
    def __call__(self, x):
        return x


class Holder(CentredModel):
    parts: tuple = ()


@pytest.mark.fault
@pytest.mark.parametrize(
    ("model", "words"),
    [
        (NNXEncoder(), "model is a NNXEncoder, whose parameters would not be trained; use a Linen module"),
        (lambda batch: batch, "model is a function, whose parameters would not be trained"),
        (CentredModel, "model is a type, whose parameters would not be trained"),
        (nn.Dense(3), "model Dense has no method encode; add it, or use `VAE`"),
        (Holder(({"a": NNXEncoder()},)), r"model.parts\[0\]\['a'\] is a NNXEncoder, whose parameters would not be"),
        (Holder((nn.Sequential([jnp.tanh, NNXEncoder()]),)), r"model.parts\[0\].layers\[1\] is a NNXEncoder, whose"),
    ],
)
def test_a_model_that_flax_does_not_train_is_refused(model, words):
    with pytest.raises(InputError, match=f"^{words}"):
        init_params(model, jax.random.key(0), {"x": jnp.ones((1, 3))})
    init_params(Holder((nn.Dense(2), jnp.tanh, 3)), jax.random.key(0), {"x": jnp.ones((1, 3))})
