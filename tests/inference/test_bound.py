"""From a model to terms, a loss and its gradient: log weights, KL, independence of examples, and pairs."""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jitted import apply, init, log_likelihood, negative_bound, sample_terms
from linear_gaussian import exact_model, images
from random_terms import with_kl
from small_model import binary_images, small_model
from two_layer_gaussian import two_layer_model

from vae_jax.distributions import Bernoulli, Normal, standard_normal
from vae_jax.inference import bound, elbos, importance, likelihood
from vae_jax.inference.bound import bound_parts
from vae_jax.inference.estimators import doubly_reparameterized, pathwise, sticking_the_landing
from vae_jax.inference.terms import Pair, bind, log_weights

ESTIMATORS = (pathwise, sticking_the_landing, doubly_reparameterized)


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
    for objective in (elbos.sampled_elbo, importance.iwae):
        np.testing.assert_allclose(objective(terms), evidence(x), rtol=1e-6)


@pytest.mark.usefixtures("x64")
def test_the_elbo_of_two_layers_is_the_evidence_in_expectation():
    """The KL of the upper layer is in closed form given the lower one, and that of the lower one is estimated."""
    model, params, evidence = two_layer_model()
    x = images(3)
    terms = sample_terms(params, jax.random.key(0), x, model=model, num_samples=20_000)
    lower, upper = terms.latents
    assert lower.kl is None
    bounds = terms.log_px_z - (lower.log_q - lower.log_p) - upper.kl  # [K, B]
    error = np.std(bounds, axis=0) / np.sqrt(20_000)
    np.testing.assert_allclose(elbos.elbo(terms), bounds.mean(axis=0), rtol=1e-9)
    np.testing.assert_array_less(np.abs(elbos.elbo(terms) - evidence(x)), 5 * error)
    assert np.all(error < 0.02)


@pytest.mark.usefixtures("x64")
def test_each_layer_has_a_share_of_the_kl():
    model, params, _ = two_layer_model()
    x = images(3)
    terms = sample_terms(params, jax.random.key(0), x, model=model, num_samples=4000)
    parts = bound_parts(terms)
    assert terms.kl.shape == (2, 3)
    np.testing.assert_allclose(parts["kl_1"] + parts["kl_2"], parts["kl"], rtol=1e-9)
    sampled = terms.log_qz - terms.log_pz
    error = np.std(sampled, axis=0) / np.sqrt(4000)
    np.testing.assert_array_less(np.abs(parts["kl"] - jnp.mean(sampled, axis=0)), 5 * error)
    # E KL(q(z_2|z_1) || N(0, I)) has a closed form, given that z_1 ~ q(z_1|x) is Gaussian.
    q = apply(model, params, x, method="encode")
    slope = jnp.diag(params["posterior_layers_0"]["mean"]["kernel"])
    mean = q.loc * slope[None] + params["posterior_layers_0"]["mean"]["bias"][None]
    second_moment = mean**2 + (slope**2)[None] * jnp.exp(2 * q.log_scale)
    s = params["posterior_layers_0"]["log_variance"]["bias"][None]
    expected = 0.5 * jnp.sum(jnp.exp(s) - 1 - s + second_moment, axis=-1)
    error = np.std(terms.latents[1].kl, axis=0) / np.sqrt(4000)
    np.testing.assert_array_less(np.abs(parts["kl_2"] - expected), 5 * error)
    assert np.all(error < 0.02)


def test_terms_have_their_shapes_and_their_key():
    model, params = small_model()
    x = binary_images()
    terms = sample_terms(params, jax.random.key(1), x, model=model, num_samples=5)  # K = B
    assert {t.shape for t in (terms.log_px_z, terms.log_pz, terms.log_qz)} == {(5, 5)}
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
    parts = bound_parts(with_kl(terms, None))
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
    model, params = small_model(network__tied=tied)
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
    assert same(both["posterior"]["log_variance"], inside["posterior"]["log_variance"])
    if not tied:
        for part in ("decoder", "output_bias"):
            assert same(both[part], outer[part])
            assert not same(both[part], inside[part])
        for part in ("encoder", "posterior"):
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
    noise = {"posterior__noise_scale": 0.3} if posterior == "fixed-noise" else {}
    model, params = small_model(posterior=posterior, **noise)
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
        q = apply(model, params, x, method="encode")
        if posterior == "fixed-noise":
            np.testing.assert_allclose(jnp.exp(q.log_scale), 0.3, rtol=1e-6)


def noise_of(terms):
    """Return (z - m) / σ of the layer next to the image, [K, B, D]."""
    (latent,) = terms.latents
    return (latent.z - latent.posterior.loc[None]) / latent.posterior.stddev()[None]


def test_the_samples_of_an_example_depend_on_its_key_and_their_number_alone():
    model, params = small_model()
    x, keys = binary_images(), jax.random.split(jax.random.key(8), 5)
    sample = functools.partial(sample_terms, params, model=model)
    complete = noise_of(sample(keys, x, num_samples=6))
    assert len(np.unique(complete)) == complete.size
    part = noise_of(sample(keys[2:4], x[2:4], num_samples=2, first_sample=3))
    np.testing.assert_allclose(part, complete[3:5, 2:4], rtol=1e-4, atol=1e-5)
    one_key = noise_of(sample(jax.random.key(8), x, num_samples=6))
    folded = jnp.stack([jax.random.fold_in(jax.random.key(8), i) for i in range(5)])
    np.testing.assert_array_equal(one_key, noise_of(sample(folded, x, num_samples=6)))


def test_given_evidence_replaces_that_of_the_encoder():
    model, params = small_model()
    x = binary_images()
    evidence = apply(model, params, x, method="encode")
    same = sample_terms(params, jax.random.key(1), x, model=model, evidence=evidence)
    np.testing.assert_allclose(
        log_weights(same), log_weights(sample_terms(params, jax.random.key(1), x, model=model)), rtol=1e-6
    )
    moved = Normal(evidence.loc + 1, evidence.log_scale)
    (latent,) = sample_terms(params, jax.random.key(1), x, model=model, evidence=moved).latents
    np.testing.assert_allclose(latent.z, same.latents[0].z + 1, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("make_model", [pytest.param(exact_model, marks=pytest.mark.thorough), two_layer_model])
@pytest.mark.usefixtures("x64")
def test_jit_equals_eager(make_model, estimator):
    model, params, _ = make_model()
    settings = {"model": model, "objective": importance.iwae, "num_samples": 3, "estimator": estimator}
    arguments = params, jax.random.key(0), {"x": images(3)}
    eager, eager_metrics = bound.negative_bound(*arguments, **settings)
    traced, metrics = negative_bound(*arguments, **settings)
    np.testing.assert_allclose(traced, eager, rtol=1e-12)
    assert set(metrics) == set(eager_metrics)
    for name, value in eager_metrics.items():
        np.testing.assert_allclose(metrics[name], value, rtol=1e-12)


class Ladder(nn.Module):
    """A model whose posterior draws from the top, so that every KL has a closed form; its prior is learned."""

    names: tuple[str, str] = ("lower", "upper")
    penalized: bool = False

    def setup(self):
        self.features, self.prior, self.pixels = nn.Dense(8), nn.Dense(4), nn.Dense(16)

    def encode(self, batch):
        return jnp.split(nn.tanh(self.features(batch["x"].reshape(-1, 16))), 4, axis=-1)

    def decode(self, draw, evidence=None, batch=None):
        del batch
        lower, upper = self.names
        top = draw(upper, standard_normal((2,)), evidence and (lambda: Normal(*evidence[:2])))
        below = draw(
            lower, Normal(*jnp.split(self.prior(top.z), 2, axis=-1)), evidence and (lambda: Normal(*evidence[2:]))
        )
        if self.penalized:
            below = dataclasses.replace(below, penalty=jnp.sum(below.z**2, axis=-1))
        pixels = self.pixels(jnp.concatenate([below.z, top.z], axis=-1))
        return Bernoulli(pixels.reshape(*pixels.shape[:-1], 4, 4, 1)), (below, top)


@functools.cache
def ladder_params():
    params = init(Ladder(), jax.random.key(0), binary_images())["params"]
    return jax.tree.map(lambda p: p + 0.3 * jax.random.normal(jax.random.key(p.size), p.shape), params)


def ladder_gradient(objective, model=None, **settings):
    loss = lambda p: negative_bound(  # noqa: E731
        p, jax.random.key(1), binary_images(), model=model or Ladder(), objective=objective, num_samples=6, **settings
    )[0]
    return jax.jit(jax.grad(loss))(ladder_params())


@pytest.mark.parametrize(
    ("generative", "inference"), [(elbos.elbo, importance.iwae), (importance.iwae, elbos.elbo)], ids=["elbo", "iwae"]
)
def test_a_kl_in_closed_form_has_the_gradients_of_a_pair_by_role(generative, inference):
    pair = ladder_gradient(Pair(generative, inference))
    expected = {"generative": ladder_gradient(generative), "inference": ladder_gradient(inference)}
    for part, role, other in (
        ("prior", "generative", "inference"),
        ("pixels", "generative", "inference"),
        ("features", "inference", "generative"),
    ):
        for name, leaf in pair[part].items():
            np.testing.assert_allclose(leaf, expected[role][part][name], rtol=1e-4, atol=1e-6)
            assert not np.allclose(leaf, expected[other][part][name], rtol=1e-2, atol=1e-3)


def test_a_penalty_is_added_to_the_loss_and_its_gradient_reaches_the_posterior():
    model, x = Ladder(penalized=True), binary_images()
    for objective in (importance.iwae, Pair(importance.iwae, importance.iwae)):
        settings = {"objective": objective, "num_samples": 6}
        loss, metrics = negative_bound(ladder_params(), jax.random.key(1), x, model=model, **settings)
        plain, _ = negative_bound(ladder_params(), jax.random.key(1), x, model=Ladder(), **settings)
        np.testing.assert_allclose(metrics["bound"], -plain, rtol=1e-6)
        np.testing.assert_allclose(loss, plain + metrics["penalty"], rtol=1e-6)

        def penalty(params):
            terms = sample_terms(params, jax.random.key(1), x, model=model, num_samples=6)
            return terms.penalty.mean()

        np.testing.assert_allclose(metrics["penalty"], penalty(ladder_params()), rtol=1e-6)
        gradients = ladder_gradient(objective, model), ladder_gradient(objective), jax.grad(penalty)(ladder_params())
        for both, alone, extra in zip(*map(jax.tree.leaves, gradients), strict=True):
            np.testing.assert_allclose(both, alone + extra, rtol=1e-4, atol=1e-5)


def test_layers_of_equal_names_are_refused():
    model = Ladder(names=("z", "z"))
    with pytest.raises(ValueError, match=r"^layers are named \['z', 'z'\]; use a different name for each$"):
        bound.sample_terms(ladder_params(), jax.random.key(0), {"x": binary_images()}, model=model)


@pytest.mark.parametrize(
    ("batch", "words"),
    [
        (binary_images(), 'batch is not a mapping with data "x"'),
        ({"y": jnp.zeros(5)}, 'batch is not a mapping with data "x"'),
        ({"x": binary_images(), "y": jnp.zeros(4)}, r"batch has arrays of \{'x': 5, 'y': 4\} examples"),
    ],
)
def test_batches_without_data_or_of_unequal_lengths_are_refused(batch, words):
    model, params = small_model()
    settings = {"model": model, "num_samples": 2}
    for call in (
        lambda: bound.sample_terms(params, jax.random.key(0), batch, **settings),
        lambda: bound.negative_bound(params, jax.random.key(0), batch, objective=elbos.elbo, **settings),
        lambda: likelihood.log_likelihood(params, jax.random.key(0), batch, chunk=1, **settings),
    ):
        with pytest.raises(ValueError, match=words):
            call()
