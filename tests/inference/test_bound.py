"""From a model to terms, a loss and its gradient: log weights, KL, independence of examples, and pairs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jitted import log_likelihood, negative_bound, sample_terms
from linear_gaussian import exact_model, images
from small_model import binary_images, small_model
from two_layer_gaussian import two_layer_model

from vae_jax.inference import elbos, importance
from vae_jax.inference.bound import bound_parts
from vae_jax.inference.terms import Pair, bind, log_weights


@pytest.mark.usefixtures("x64")
def test_every_log_weight_is_the_evidence():
    model, params, evidence = exact_model()
    x = images()
    terms = sample_terms(params, jax.random.key(0), x, model=model, num_samples=5)
    expected = np.broadcast_to(evidence(x), (5, len(x)))
    np.testing.assert_allclose(log_weights(terms), expected, rtol=1e-6)


@pytest.mark.usefixtures("x64")
def test_every_log_weight_of_two_layers_is_the_evidence():
    model, params, evidence = two_layer_model()
    x = images(3)
    terms = sample_terms(params, jax.random.key(0), x, model=model, num_samples=5)
    np.testing.assert_allclose(log_weights(terms), np.tile(evidence(x), (5, 1)), rtol=1e-6)
    for bound in (elbos.elbo, elbos.sampled_elbo, importance.iwae):
        np.testing.assert_allclose(bound(terms), evidence(x), rtol=1e-6)


@pytest.mark.usefixtures("x64")
def test_each_layer_has_a_share_of_the_kl():
    model, params, _ = two_layer_model()
    x = images(3)
    terms = sample_terms(params, jax.random.key(0), x, model=model, num_samples=4000)
    parts = bound_parts(terms)
    assert terms.kl.shape == (2, 3)
    np.testing.assert_allclose(parts["kl_1"] + parts["kl_2"], parts["kl"], rtol=1e-9)
    np.testing.assert_allclose(parts["kl"], jnp.mean(terms.log_qz - terms.log_pz, axis=0), rtol=1e-9)
    # E KL(q(z_2|z_1) || N(0, I)) has a closed form, given that z_1 ~ q(z_1|x) is Gaussian.
    q = model.apply({"params": params}, x, method="encode")
    slope = jnp.diag(params["posterior_layers_0"]["mean"]["kernel"])
    mean = q.first.loc * slope[None] + params["posterior_layers_0"]["mean"]["bias"][None]
    second_moment = mean**2 + (slope**2)[None] * jnp.exp(2 * q.first.log_scale)
    s = params["posterior_layers_0"]["log_variance"]["bias"][None]
    expected = 0.5 * jnp.sum(jnp.exp(s) - 1 - s + second_moment, axis=-1)
    np.testing.assert_allclose(parts["kl_2"], expected, atol=0.15)


def test_terms_have_their_shapes_and_their_key():
    model, params = small_model()
    x = binary_images()
    terms = sample_terms(params, jax.random.key(1), x, model=model, num_samples=5)  # K = B
    assert {t.shape for t in terms[:3]} == {(5, 5)}
    assert terms.kl.shape == (1, 5)
    again = sample_terms(params, jax.random.key(1), x, model=model, num_samples=5)
    other = sample_terms(params, jax.random.key(2), x, model=model, num_samples=5)
    np.testing.assert_array_equal(terms.log_px_z, again.log_px_z)
    assert np.all(terms.log_px_z != other.log_px_z)


def test_an_examples_bound_has_no_gradient_to_another_image():
    model, params = small_model()

    def bounds(x):
        return elbos.elbo(sample_terms(params, jax.random.key(1), x, model=model, num_samples=5))

    jacobian = np.asarray(jax.jit(jax.jacobian(bounds))(binary_images())).reshape(
        5, 5, -1
    )  # [B of the bound, B of x, pixels]
    for i in range(5):
        for j in range(5):
            assert np.any(jacobian[i, j] != 0) == (i == j)


def test_closed_form_and_sampled_kl_agree_within_their_error():
    model, params = small_model()
    terms = sample_terms(params, jax.random.key(1), binary_images(), model=model, num_samples=50_000)
    sampled = np.asarray(terms.log_qz - terms.log_pz, np.float64)
    error = sampled.std(axis=0) / np.sqrt(len(sampled))
    np.testing.assert_array_less(np.abs(sampled.mean(axis=0) - terms.kl[0]), 5 * error)
    parts = bound_parts(terms._replace(kl=None))
    np.testing.assert_allclose(parts["kl"], sampled.mean(axis=0), rtol=1e-4)


def test_the_loss_is_minus_the_mean_bound_and_is_differentiable_everywhere():
    model, params = small_model()
    x = binary_images()
    loss, metrics = negative_bound(params, jax.random.key(1), x, model=model, objective=elbos.elbo)
    terms = sample_terms(params, jax.random.key(1), x, model=model)
    np.testing.assert_allclose(loss, -elbos.elbo(terms).mean(), rtol=1e-6)
    np.testing.assert_allclose(metrics["bound"], metrics["reconstruction"] - metrics["kl"], rtol=1e-6)
    grads = jax.grad(lambda p: negative_bound(p, jax.random.key(1), x, model=model, objective=elbos.elbo)[0])(params)
    assert all(np.all(np.isfinite(g)) and np.any(g != 0) for g in jax.tree.leaves(grads))


@pytest.mark.parametrize("tied", [False, True])
def test_decoder_and_encoder_receive_the_gradients_of_the_two_objectives_of_a_pair(tied):
    model, params = small_model(tied=tied)
    x = binary_images()
    inner = bind(importance.miwae, num_inner_samples=2)
    pair = Pair(generative=importance.iwae, inference=inner)

    def gradient(objective):
        loss = lambda p: negative_bound(  # noqa: E731
            p, jax.random.key(1), x, model=model, objective=objective, num_samples=6
        )
        return jax.jit(jax.value_and_grad(loss, has_aux=True))(params)

    (loss, metrics), both = gradient(pair)
    (iwae, expected), outer = gradient(importance.iwae)
    (_, _), inside = gradient(inner)
    np.testing.assert_allclose(loss, iwae, rtol=1e-6)
    for name in expected:
        np.testing.assert_allclose(metrics[name], expected[name], rtol=1e-6)
    same = lambda part, other: all(  # noqa: E731
        np.allclose(a, b, rtol=1e-4, atol=1e-6) for a, b in zip(*map(jax.tree.leaves, (part, other)), strict=True)
    )
    assert same(both["output_bias"], outer["output_bias"])
    assert same(both["posterior_log_variance"], inside["posterior_log_variance"])
    if not tied:
        for part in ("decoder", "output_bias"):
            assert same(both[part], outer[part])
            assert not same(both[part], inside[part])
        for part in ("encoder", "posterior_mean", "posterior_log_variance"):
            assert same(both[part], inside[part])
            assert not same(both[part], outer[part])


def test_the_gradient_is_that_of_finite_differences():
    with jax.enable_x64(True):
        model, params = small_model()
        params = jax.tree.map(lambda p: p.astype(jnp.float64), params)
        loss = lambda p: negative_bound(  # noqa: E731
            p, jax.random.key(1), binary_images().astype(jnp.float64), model=model, objective=elbos.elbo, num_samples=2
        )[0]
        direction = jax.tree.map(lambda p: jax.random.normal(jax.random.key(p.size + 7), p.shape, jnp.float64), params)
        step = 1e-6
        up, down = (loss(jax.tree.map(lambda p, d, s=s: p + s * d, params, direction)) for s in (step, -step))
        slope = sum(
            jnp.vdot(g, d) for g, d in zip(*map(jax.tree.leaves, (jax.grad(loss)(params), direction)), strict=True)
        )
        np.testing.assert_allclose(slope, (up - down) / (2 * step), rtol=1e-6)


@pytest.mark.parametrize("posterior", ["gaussian", "fixed-noise", "deterministic"])
def test_terms_of_each_kind_of_posterior(posterior):
    model, params = small_model(posterior=posterior, noise_scale=0.3)
    x = binary_images()
    terms = sample_terms(params, jax.random.key(1), x, model=model, num_samples=2)
    spread = np.ptp(terms.log_px_z, axis=0)
    if posterior == "deterministic":
        assert terms.log_qz is None
        assert terms.kl is None
        assert np.all(spread == 0)
        assert set(bound_parts(terms)) == {"reconstruction"}
        with pytest.raises(ValueError, match="no density"):
            log_likelihood(params, jax.random.key(1), x, model=model, num_samples=2, chunk=2)
    else:
        assert np.all(spread > 0)
        q = model.apply({"params": params}, x, method="encode")
        if posterior == "fixed-noise":
            np.testing.assert_allclose(jnp.exp(q.log_scale), 0.3, rtol=1e-6)
