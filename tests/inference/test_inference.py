import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jitted import init, log_likelihood, negative_bound, sample_terms
from linear_gaussian import LATENT, exact_model, images

from vae_jax.config.schema import DataConfig, ModelConfig, ObjectiveConfig
from vae_jax.data.preprocess import read_images
from vae_jax.inference import bound, elbos, importance, likelihood, objectives, terms
from vae_jax.inference.bound import bound_parts
from vae_jax.models.build import build_model
from vae_jax.training.loss import make_loss, objective_at


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield


@pytest.mark.usefixtures("x64")
class TestLinearGaussian:
    def test_every_log_weight_is_the_evidence(self):
        model, params, evidence = exact_model()
        x = images()
        terms = sample_terms(params, jax.random.key(0), x, model=model, num_samples=5)
        expected = np.broadcast_to(evidence(x), (5, len(x)))
        np.testing.assert_allclose(terms.log_weights(terms), expected, rtol=1e-6)

    def test_the_bounds_are_the_evidence(self):
        model, params, evidence = exact_model()
        x = images()
        terms = sample_terms(params, jax.random.key(0), x, model=model, num_samples=7)
        np.testing.assert_allclose(elbos.sampled_elbo(terms), evidence(x), rtol=1e-6)
        log_px, ess = log_likelihood(params, jax.random.key(1), x, model=model, num_samples=7, chunk=3)
        np.testing.assert_allclose(log_px, evidence(x), rtol=1e-6)
        np.testing.assert_allclose(ess, 7.0, rtol=1e-6)

    def test_the_elbo_with_its_kl_in_closed_form_is_the_evidence_in_expectation(self):
        model, params, evidence = exact_model()
        x = images()
        terms = sample_terms(params, jax.random.key(0), x, model=model, num_samples=20_000)
        bounds = terms.log_px_z - terms.kl  # [K, B]
        error = np.std(bounds, axis=0) / np.sqrt(20_000)
        np.testing.assert_array_less(np.abs(elbos.elbo(terms) - evidence(x)), 5 * error)

    def test_a_wrong_posterior_gives_less_and_importance_sampling_gives_it_back(self):
        model, params, evidence = exact_model()
        wrong = jax.tree.map(lambda p: p, params)
        wrong["posterior_mean"]["bias"] = wrong["posterior_mean"]["bias"] + 0.5
        x = images()
        terms = sample_terms(wrong, jax.random.key(0), x, model=model, num_samples=1000)
        assert np.all(elbos.elbo(terms) < evidence(x) - 0.1)
        log_px, ess = log_likelihood(wrong, jax.random.key(1), x, model=model, num_samples=100_000, chunk=10_000)
        np.testing.assert_allclose(log_px, evidence(x), atol=0.02)
        assert np.all(ess < 90_000)


def tiny(**changes):
    config = ModelConfig(hidden=(8,), latent_dim=3, **changes)
    model = build_model(config, (4, 4, 1))
    params = init(model, jax.random.key(0), jnp.zeros((1, 4, 4, 1)))["params"]
    # Away from the initial point, where the posterior's log variance is zero everywhere.
    params = jax.tree.map(lambda p: p + 0.1 * jax.random.normal(jax.random.key(p.size), p.shape), params)
    return model, params


def binary(count=5, seed=0):
    return jax.random.bernoulli(jax.random.key(seed), 0.4, (count, 4, 4, 1)).astype(jnp.float32)


def test_terms_have_their_shapes_and_their_key():
    model, params = tiny()
    x = binary()
    terms = sample_terms(params, jax.random.key(1), x, model=model, num_samples=5)  # K = B
    assert {t.shape for t in terms[:3]} == {(5, 5)}
    assert terms.kl.shape == (1, 5)
    again = sample_terms(params, jax.random.key(1), x, model=model, num_samples=5)
    other = sample_terms(params, jax.random.key(2), x, model=model, num_samples=5)
    np.testing.assert_array_equal(terms.log_px_z, again.log_px_z)
    assert np.all(terms.log_px_z != other.log_px_z)


def test_an_examples_bound_has_no_gradient_to_another_image():
    model, params = tiny()

    def bounds(x):
        return elbos.elbo(sample_terms(params, jax.random.key(1), x, model=model, num_samples=5))

    jacobian = np.asarray(jax.jit(jax.jacobian(bounds))(binary())).reshape(5, 5, -1)  # [B of the bound, B of x, pixels]
    for i in range(5):
        for j in range(5):
            assert np.any(jacobian[i, j] != 0) == (i == j)


def test_closed_form_and_sampled_kl_agree_within_their_error():
    model, params = tiny()
    terms = sample_terms(params, jax.random.key(1), binary(), model=model, num_samples=50_000)
    sampled = np.asarray(terms.log_qz - terms.log_pz, np.float64)
    error = sampled.std(axis=0) / np.sqrt(len(sampled))
    np.testing.assert_array_less(np.abs(sampled.mean(axis=0) - terms.kl[0]), 5 * error)
    parts = bound_parts(terms._replace(kl=None))
    np.testing.assert_allclose(parts["kl"], sampled.mean(axis=0), rtol=1e-4)


def test_the_loss_is_minus_the_mean_bound_and_is_differentiable_everywhere():
    model, params = tiny()
    x = binary()
    loss, metrics = negative_bound(params, jax.random.key(1), x, model=model, objective=elbos.elbo)
    terms = sample_terms(params, jax.random.key(1), x, model=model)
    np.testing.assert_allclose(loss, -elbos.elbo(terms).mean(), rtol=1e-6)
    np.testing.assert_allclose(metrics["bound"], metrics["reconstruction"] - metrics["kl"], rtol=1e-6)
    grads = jax.grad(lambda p: negative_bound(p, jax.random.key(1), x, model=model, objective=elbos.elbo)[0])(params)
    assert all(np.all(np.isfinite(g)) and np.any(g != 0) for g in jax.tree.leaves(grads))


@pytest.mark.parametrize("tied", [False, True])
def test_of_a_pair_the_decoder_climbs_one_and_the_encoder_the_other(tied):
    model, params = tiny(tied=tied)
    x = binary()
    inner = terms.bind(importance.miwae, num_inner_samples=2)
    pair = terms.Pair(generative=importance.iwae, inference=inner)

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
        model, params = tiny()
        params = jax.tree.map(lambda p: p.astype(jnp.float64), params)
        loss = lambda p: negative_bound(  # noqa: E731
            p, jax.random.key(1), binary().astype(jnp.float64), model=model, objective=elbos.elbo, num_samples=2
        )[0]
        direction = jax.tree.map(lambda p: jax.random.normal(jax.random.key(p.size + 7), p.shape, jnp.float64), params)
        step = 1e-6
        up, down = (loss(jax.tree.map(lambda p, d, s=s: p + s * d, params, direction)) for s in (step, -step))
        slope = sum(
            jnp.vdot(g, d) for g, d in zip(*map(jax.tree.leaves, (jax.grad(loss)(params), direction)), strict=True)
        )
        np.testing.assert_allclose(slope, (up - down) / (2 * step), rtol=1e-6)


@pytest.mark.parametrize("posterior", ["gaussian", "fixed-noise", "deterministic"])
def test_each_posterior(posterior):
    model, params = tiny(posterior=posterior, noise_scale=0.3)
    x = binary()
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


class TestLogLikelihood:
    @pytest.mark.parametrize("chunk", [1, 7, 50, 100])
    def test_streams_what_one_chunk_computes(self, chunk):
        model, params = tiny()
        x = binary()
        log_px, ess = log_likelihood(params, jax.random.key(3), x, model=model, num_samples=50, chunk=chunk)
        sizes = [min(chunk, 50)] * (50 // min(chunk, 50)) + ([50 % chunk] if 50 % min(chunk, 50) else [])
        log_w = np.concatenate(
            [
                terms.log_weights(
                    sample_terms(params, jax.random.fold_in(jax.random.key(3), i), x, model=model, num_samples=size)
                )
                for i, size in enumerate(sizes)
            ]
        ).astype(np.float64)
        assert log_w.shape == (50, 5)
        top = log_w.max(axis=0)
        w = np.exp(log_w - top)
        np.testing.assert_allclose(log_px, top + np.log(w.mean(axis=0)), rtol=1e-5)
        np.testing.assert_allclose(ess, w.sum(axis=0) ** 2 / (w**2).sum(axis=0), rtol=1e-3)

    @pytest.mark.parametrize("level", [-90.0, -10_000.0, -40_000.0])
    @pytest.mark.parametrize("spread", [0.0, 3.0])
    def test_thousands_of_chunks_keep_the_digits_of_thousands_of_nats(self, level, spread, monkeypatch):
        log_w = jnp.asarray(level + spread * np.random.default_rng(0).normal(size=(2000, 5, 2)), jnp.float32)
        log_w = log_w.at[7].set(-jnp.inf)  # codes that cannot be, a whole chunk of them
        chunks = jax.vmap(lambda i: jax.random.key_data(jax.random.fold_in(jax.random.key(0), i)))(jnp.arange(2000))

        def terms(params, key, x, *, model, num_samples):
            chunk = jnp.argmax(jnp.all(chunks == jax.random.key_data(key)[None], axis=1))
            zero = jnp.zeros((num_samples, 2))
            return terms.Terms(log_w[chunk], zero, zero, kl=None)

        monkeypatch.setattr(bound, "sample_terms", terms)
        run = functools.partial(likelihood.log_likelihood, None, model=None, num_samples=10_000, chunk=5)
        log_px, ess = jax.jit(run)(jax.random.key(0), jnp.zeros((2, 1, 1, 1)))
        exact = np.asarray(log_w, np.float64).reshape(10_000, 2)
        w = np.exp(exact - exact.max(axis=0))
        np.testing.assert_allclose(log_px, exact.max(axis=0) + np.log(w.mean(axis=0)), rtol=2e-7, atol=1e-3)
        np.testing.assert_allclose(ess, w.sum(axis=0) ** 2 / (w**2).sum(axis=0), rtol=1e-3)

    def test_rises_with_the_number_of_samples(self):
        model, params = tiny()
        x = binary(count=200)
        run = functools.partial(log_likelihood, params, jax.random.key(4), x, model=model, chunk=50)
        means = [float(run(num_samples=k)[0].mean()) for k in (1, 10, 1000)]
        assert means[0] < means[1] < means[2]

    def test_memory_is_that_of_a_chunk(self):
        model, params = tiny()
        compiled = (
            jax.jit(functools.partial(log_likelihood, model=model, num_samples=samples, chunk=10))
            .lower(params, jax.random.key(0), binary())
            .compile()
            for samples in (100, 100_000)
        )
        small, large = (c.memory_analysis().temp_size_in_bytes for c in compiled)
        assert large <= small + 1_000_000  # the 100,000 keys and nothing of the size of the samples


class TestObjectiveAt:
    def terms(self):
        model, params = tiny()
        return sample_terms(params, jax.random.key(1), binary(), model=model)

    @pytest.mark.parametrize(("step", "weight"), [(0, 0.2), (4, 1.0), (99, 1.0)])
    def test_the_kl_warms_up_by_step(self, step, weight):
        config = ObjectiveConfig(beta=2.0, warmup_steps=5)
        expected = elbos.elbo(self.terms(), beta=2 * weight)
        np.testing.assert_allclose(objective_at(config, jnp.asarray(step))(self.terms()), expected, rtol=1e-6)

    def test_the_capacity_warms_up_and_its_weight_does_not(self):
        config = ObjectiveConfig(name="capacity", beta=3.0, capacity=10.0, warmup_steps=4)
        expected = elbos.capacity(self.terms(), capacity=5.0, beta=3.0)
        np.testing.assert_allclose(objective_at(config, jnp.asarray(1))(self.terms()), expected, rtol=1e-6)

    @pytest.mark.parametrize(
        ("name", "settings"),
        [
            ("reconstruction", {}),
            ("sampled-elbo", {"beta": 0.5}),
            ("free-bits", {"beta": 0.5, "free_bits": 0.7}),
            ("iwae", {}),
            ("renyi", {"alpha": 0.2}),
            ("miwae", {"num_inner_samples": 2}),
            ("ciwae", {"elbo_weight": 0.2}),
            ("piwae", {"num_inner_samples": 2}),
            ("cubo", {"order": 3.0}),
            ("beta-tc", {"beta": 4.0}),
            ("info-vae", {"beta": 0.5, "mmd_weight": 30.0}),
        ],
    )
    def test_settings_reach_the_objective(self, name, settings):
        model, params = tiny()
        terms = sample_terms(params, jax.random.key(1), binary(), model=model, num_samples=4)
        found = objective_at(ObjectiveConfig(name=name, num_samples=4, **settings), jnp.asarray(0), num_examples=9)
        settings |= {"num_examples": 9} if name == "beta-tc" else {}
        expected = terms.bind(objectives.OBJECTIVES[name], **settings)
        if isinstance(expected, terms.Pair):
            found, expected = found.inference, expected.inference
        np.testing.assert_allclose(found(terms), expected(terms), rtol=1e-6)

    def test_the_number_of_images_is_asked_for_and_the_run_gives_it(self):
        config = ObjectiveConfig(name="beta-tc", beta=4.0)
        with pytest.raises(ValueError, match="num_examples"):
            objective_at(config, jnp.asarray(0))
        model, params = tiny()
        arguments = params, jax.random.key(0), jnp.full((6, 4, 4, 1), 128, jnp.uint8), jnp.asarray(0)
        few, many = (jax.jit(make_loss(model, config, DataConfig(), n))(*arguments)[0] for n in (6, 6000))
        assert abs(few - many) > 1e-3


def test_the_runs_loss_binarises_and_draws_codes_each_with_a_key_of_its_own():
    model, params = tiny()
    images = jnp.full((64, 4, 4, 1), 128, jnp.uint8)
    loss = jax.jit(make_loss(model, ObjectiveConfig(), DataConfig()))
    values = {float(loss(params, jax.random.key(k), images, jnp.asarray(0))[0]) for k in (0, 0, 1)}
    assert len(values) == 2
    read_key, noise_key = jax.random.split(jax.random.key(1))
    x = read_images(read_key, images, binarization="dynamic")
    expected, _ = negative_bound(params, noise_key, x, model=model, objective=elbos.elbo)
    assert float(expected) in (pytest.approx(value, rel=1e-6) for value in values)


def test_latent_size_of_the_exact_model():
    model, params, _ = exact_model()
    assert model.apply({"params": params}, images().astype(jnp.float32), method="encode").mean().shape == (4, LATENT)
