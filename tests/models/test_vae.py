"""The VAE: shapes and densities of its two functions for every network, its output bias, and data that it refuses."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from built_models import NETWORKS, built, model_config, random_images
from flax import nnx
from jitted import apply, init, log_prob
from linear_gaussian import LATENT, exact_model, images
from subsets import by_default

from vae_jax.distributions import Normal, from_means
from vae_jax.errors import InputError
from vae_jax.models.build import build_model, init_params
from vae_jax.models.likelihoods import BernoulliConfig, GaussianLikelihoodConfig, LikelihoodConfig
from vae_jax.models.mlp import MLPDecoder, MLPEncoder, TiedDecoder
from vae_jax.models.posteriors import ConditionalNormal
from vae_jax.models.priors import StandardNormal
from vae_jax.models.vae import VAE, with_output_bias

SHAPES = [(8, 8, 1), (28, 20, 1), (7, 5, 3), (1, 9, 1)]
SOME = [("mlp", (28, 20, 1)), ("conv", (7, 5, 3)), ("residual", (1, 9, 1))]


@pytest.mark.parametrize(
    ("network", "shape"),
    by_default(lambda case: case in SOME, [(network, shape) for network in NETWORKS for shape in SHAPES]),
    ids=str,
)
def test_any_image_size_and_any_leading_axes(network, shape):
    model, params = built(network, shape)
    q = apply(model, params, random_images(shape), method="encode")
    assert isinstance(q, Normal)
    assert q.mean().shape == (2, 3)
    z = jax.random.normal(jax.random.key(2), (4, 2, 3))
    p = apply(model, params, z, method="decode")
    assert p.mean().shape == (4, 2, *shape)
    assert log_prob(p, random_images(shape)).shape == (4, 2)


@pytest.mark.parametrize("network", NETWORKS)
def test_each_code_is_decoded_alone(network):
    shape = (8, 8, 1)
    model, params = built(network, shape)
    z = jax.random.normal(jax.random.key(2), (4, 2, 3))
    together = apply(model, params, z, method="decode").logits
    for k in range(4):
        for b in range(2):
            one = apply(model, params, z[k, b][None], method="decode").logits[0]
            np.testing.assert_allclose(together[k, b], one, atol=1e-5)


def test_a_mean_image_of_another_shape_is_refused():
    _, params = built("mlp", (6, 4, 1))
    with pytest.raises(AssertionError):
        with_output_bias(params, jnp.zeros((1, 1, 1)), likelihood=BernoulliConfig())


class Undetermined(GaussianLikelihoodConfig):
    """A likelihood for which the mean determines no bias."""

    initial_bias = LikelihoodConfig.initial_bias


def test_the_output_bias_alone_is_replaced_if_the_mean_determines_it():
    _, params = built("mlp", (6, 4, 1))
    mean = jnp.full((6, 4, 1), 0.25)
    changed = with_output_bias(params, mean, likelihood=GaussianLikelihoodConfig())
    np.testing.assert_array_equal(changed["output_bias"], mean)
    assert all(changed[name] is params[name] for name in params if name != "output_bias")
    assert not params["output_bias"].any()
    assert with_output_bias(params, mean, likelihood=Undetermined()) is params


@pytest.mark.fault
@pytest.mark.parametrize("kind", ["uint8", "int32", "bool"])
def test_images_and_codes_that_are_no_floats_are_refused(kind):
    shape = (4, 3, 1)
    model, params = built("mlp", shape)
    with pytest.raises(
        InputError, match=rf"^examples x have shape \[2, 4, 3, 1\] and dtype {kind}; pass floats \[B, 4, 3, 1\]"
    ):
        apply(model, params, jnp.ones((2, *shape), kind), method="encode")
    with pytest.raises(InputError, match=rf"^codes z have shape \[2, 3\] and dtype {kind}; pass floats \[..., 3\]"):
        apply(model, params, jnp.ones((2, 3), kind), method="decode")


def test_latent_size_of_the_exact_model():
    model, params, _ = exact_model()
    assert apply(model, params, images().astype(jnp.float32), method="encode").mean().shape == (4, LATENT)


@pytest.mark.fault
@pytest.mark.parametrize("shape", [(2, 3, 4, 1), (12,), (2, 12), (1, 2, 4, 3, 1)])
def test_examples_of_another_shape_are_refused(shape):
    model, params = built("mlp", (4, 3, 1))
    with pytest.raises(InputError, match=r"^examples x have shape .* and dtype float32; pass floats \[B, 4, 3, 1\]"):
        apply(model, params, jnp.ones(shape), method="encode")


def vae(decoder, posterior=None):
    """Return a VAE of vectors [6] with codes [2]."""
    parts = {"posterior": posterior or ConditionalNormal(2), "prior": StandardNormal(2)}
    return VAE(MLPEncoder((), jnp.tanh), decoder, **parts, likelihood=BernoulliConfig(), shape=(6,))


@pytest.mark.fault
def test_a_decoder_with_another_output_is_refused():
    init(vae(MLPDecoder((), jnp.tanh, (), 6)), jax.random.key(0), jnp.ones((1, 6)))
    with pytest.raises(
        InputError, match=r"^decoder returned shape \[1, 1, 5\] for codes \[1, 1, 2\]; return \[1, 1, 6\]"
    ):
        init(vae(MLPDecoder((), jnp.tanh, (), 5)), jax.random.key(0), jnp.ones((1, 6)))


class Unit(nn.Module):
    def __call__(self, h):
        return Normal(h[..., :2], jnp.zeros_like(h[..., :2]))


@pytest.mark.fault
def test_a_tied_decoder_needs_the_kernels_of_the_posterior():
    init(vae(TiedDecoder(jnp.tanh, (), 6)), jax.random.key(0), jnp.ones((1, 6)))
    with pytest.raises(InputError, match=r"^posterior Unit has no method kernels, which the tied decoder needs"):
        init(vae(TiedDecoder(jnp.tanh, (), 6), Unit()), jax.random.key(0), jnp.ones((1, 6)))


class NeedsMore(nn.Module):
    def __call__(self, h, train):
        return h


@pytest.mark.fault
@pytest.mark.parametrize("part", ["encoder", "decoder", "posterior", "prior"])
def test_a_part_that_is_no_linen_module_or_needs_unknown_arguments_is_refused(part):
    good = vae(MLPDecoder((), jnp.tanh, (), 6))
    for wrong, words in (
        (lambda x: x, "is a function, whose parameters would not be trained; use a Linen module"),
        (nnx.Linear(6, 6, rngs=nnx.Rngs(0)), "is a Linear, whose parameters would not be trained"),
        (NeedsMore(), r"NeedsMore cannot be called with \(\w+\): missing a required argument: 'train'; give its other"),
    ):
        with pytest.raises(InputError, match=f"^(model.)?{part} {words}"):
            init_params(good.clone(**{part: wrong}), jax.random.key(0), {"x": jnp.ones((1, 6))})
    tied = vae(TiedDecoder(jnp.tanh, (), 6)).clone(encoder=nn.Dense(4))
    with pytest.raises(InputError, match=r"^encoder Dense has no method kernels, which the tied decoder needs"):
        init_params(tied, jax.random.key(0), {"x": jnp.ones((1, 6))})
    with pytest.raises(InputError, match=r'^likelihood is a str; use `vae_jax.choice\("likelihood", NAME\)`'):
        init_params(good.clone(likelihood="bernoulli"), jax.random.key(0), {"x": jnp.ones((1, 6))})


def test_a_call_decodes_the_mean_of_the_code():
    model, params = built("mlp", (4, 3, 1))
    x = random_images((4, 3, 1))
    mean = apply(model, params, x, method="encode").mean()
    p_x, (latent,) = model.apply({"params": params}, from_means(), Normal(mean, mean), method="decode")
    np.testing.assert_array_equal(latent.z, mean)
    np.testing.assert_allclose(model.apply({"params": params}, {"x": x}).logits, p_x.logits, rtol=1e-5)


def test_densities_have_the_precision_of_the_data():
    _, params = built("mlp", (4, 3, 1))
    model = build_model(model_config(network__compute_dtype="bfloat16"), (4, 3, 1), training=True)
    with jax.enable_x64(True):
        x = random_images((4, 3, 1)).astype(jnp.float64)
        q = model.apply({"params": params}, {"x": x}, method="encode")
        p, _ = model.apply({"params": params}, from_means(), q, method="decode")
    assert q.loc.dtype == p.logits.dtype == jnp.float64
