"""Codes of several stochastic layers: the chain of densities, the model that is made of it, and what it tells."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial
from jitted import init, log_likelihood, negative_bound, sample_terms
from scipy.stats import multivariate_normal, norm

from vae_jax.config.schema import ModelConfig
from vae_jax.distributions.markov_chain import MarkovChain
from vae_jax.distributions.normal import Normal, standard_normal
from vae_jax.errors import InputError
from vae_jax.inference import elbos, importance, terms
from vae_jax.inference.bound import bound_parts
from vae_jax.inference.estimators import ESTIMATORS
from vae_jax.inference.gradient_statistics import gradient_statistics
from vae_jax.models.build import ACTIVATIONS, build_model
from vae_jax.models.mlp import MLPDecoder, MLPEncoder
from vae_jax.models.vae import VAE, ConditionalNormal
from vae_jax.runs import decoding, evaluation, opening, plots, train_loop
from vae_jax.training.evaluator import Evaluator

IMAGE_SHAPE = (2, 3, 1)
LATENT, SCALE = 2, 0.7
SLOPE, NOISE = np.array([0.8, -1.3]), np.array([0.5, 0.9])  # p(z_1|z_2) = N(slope z_2 + 0.1, noise²)


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield


def affine(slope, offset, variance):
    """Parameters of a ConditionalNormal without hidden layers: N(slope z + offset, variance), a number at a time."""
    zeros = jnp.zeros((LATENT, LATENT))
    return {
        "mean": {"kernel": jnp.diag(jnp.asarray(slope)), "bias": jnp.asarray(offset)},
        "log_variance": {"kernel": zeros, "bias": jnp.log(jnp.asarray(variance))},
    }


def exact_model():
    """(model, params, evidence): z_2 ~ N(0, I), z_1 and x linear-Gaussian above one another, the posterior exact."""
    rng = np.random.default_rng(0)
    pixels = int(np.prod(IMAGE_SHAPE))
    orthogonal, _ = np.linalg.qr(rng.normal(size=(pixels, LATENT)))
    weights, offset = orthogonal * np.array([1.5, 0.6]), rng.normal(size=pixels)
    shift, spread = np.full(LATENT, 0.1), SLOPE**2 + NOISE**2  # mean and variance of z_1
    variance = 1 / (1 / spread + (weights**2).sum(0) / SCALE**2)  # of z_1 given x
    gain = weights * variance / SCALE**2
    upper = SLOPE / spread  # z_2 given z_1: N(upper (z_1 - shift), 1 - slope² / spread)
    model = VAE(
        encoder=MLPEncoder((), ACTIVATIONS["identity"]),
        decoder=MLPDecoder((), ACTIVATIONS["identity"], IMAGE_SHAPE[:2], 1),
        latent_dim=LATENT,
        latent_layers=(LATENT,),
        posterior_layers=(ConditionalNormal((), ACTIVATIONS["identity"], LATENT),),
        prior_layers=(ConditionalNormal((), ACTIVATIONS["identity"], LATENT),),
        image_shape=IMAGE_SHAPE,
        likelihood="gaussian",
        likelihood_scale=SCALE,
    )
    params = {
        "posterior_mean": {"kernel": jnp.asarray(gain), "bias": jnp.asarray(shift * variance / spread - offset @ gain)},
        "posterior_log_variance": {"kernel": jnp.zeros_like(gain), "bias": jnp.log(jnp.asarray(variance))},
        "posterior_layers_0": affine(upper, -upper * shift, 1 - SLOPE**2 / spread),
        "prior_layers_0": affine(SLOPE, shift, NOISE**2),
        "decoder": {"Dense_0": {"kernel": jnp.asarray(weights.T)}},
        "output_bias": jnp.asarray(offset).reshape(IMAGE_SHAPE),
    }
    covariance = weights @ np.diag(spread) @ weights.T + SCALE**2 * np.eye(pixels)
    evidence = multivariate_normal(offset + weights @ shift, covariance)
    return model, params, lambda x: evidence.logpdf(np.asarray(x, np.float64).reshape(len(x), -1))


def images(count=3):
    return jnp.asarray(np.random.default_rng(1).normal(size=(count, *IMAGE_SHAPE)))


def wrong(params):
    """The exact posterior, both of its layers moved and the upper one made wider."""
    upper = jax.tree.map(lambda leaf: leaf + 0.2, params["posterior_layers_0"])
    mean = params["posterior_mean"]
    return params | {"posterior_mean": mean | {"bias": mean["bias"] + 0.3}, "posterior_layers_0": upper}


@pytest.mark.usefixtures("x64")
class TestLinearGaussian:
    def test_the_parameters_are_those_of_init(self):
        model, params, _ = exact_model()
        made = init(model, jax.random.key(0), images())["params"]
        assert jax.tree.map(jnp.shape, made) == jax.tree.map(jnp.shape, params)

    def test_every_log_weight_is_the_evidence(self):
        model, params, evidence = exact_model()
        x = images()
        terms = sample_terms(params, jax.random.key(0), x, model=model, num_samples=5)
        np.testing.assert_allclose(terms.log_weights(terms), np.tile(evidence(x), (5, 1)), rtol=1e-6)
        for bound in (elbos.elbo, elbos.sampled_elbo, importance.iwae):
            np.testing.assert_allclose(bound(terms), evidence(x), rtol=1e-6)

    def test_a_wrong_posterior_gives_less_and_importance_sampling_gives_it_back(self):
        model, params, evidence = exact_model()
        x = images()
        terms = sample_terms(wrong(params), jax.random.key(0), x, model=model, num_samples=2000)
        assert (elbos.elbo(terms) < evidence(x) - 0.05).all()
        log_px, ess = log_likelihood(wrong(params), jax.random.key(1), x, model=model, num_samples=20_000, chunk=1000)
        np.testing.assert_allclose(log_px, evidence(x), atol=0.03)
        assert (ess < 19_000).all()

    def test_each_layer_has_its_divergence(self):
        model, params, _ = exact_model()
        x = images()
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

    @pytest.mark.parametrize("rule", ["sticking-the-landing", "doubly-reparameterized"])
    def test_estimators_agree_in_expectation(self, rule):
        model, params, _ = exact_model()
        params, x, keys = wrong(params), images(), jax.random.split(jax.random.key(2), 8000)
        objective = elbos.sampled_elbo if rule == "sticking-the-landing" else importance.iwae

        def found(name, keys):
            settings = {"model": model, "objective": objective, "num_samples": 3, "estimator": ESTIMATORS[name]}
            return jax.jit(
                lambda keys: gradient_statistics(
                    lambda p, key: negative_bound(p, key, x, **settings)[0], params, keys, chunk=500
                )
            )(keys)

        plain, other = found("pathwise", keys), found(rule, jax.random.split(jax.random.key(3), 8000))
        for name in ("posterior_mean", "posterior_log_variance", "posterior_layers_0"):
            leaves = [jax.tree.leaves(tree[name]) for tree in (plain.mean, other.mean, *map(_error, (plain, other)))]
            for a, b, error_a, error_b in zip(*leaves, strict=True):
                np.testing.assert_array_less(abs(a - b), 5 * np.hypot(error_a, error_b) + 1e-9)
        assert sum(jnp.sum(v) for v in jax.tree.leaves(other.variance["posterior_layers_0"])) < sum(
            jnp.sum(v) for v in jax.tree.leaves(plain.variance["posterior_layers_0"])
        )

    @pytest.mark.parametrize(("rule", "objective"), [
        ("sticking-the-landing", elbos.sampled_elbo),
        ("doubly-reparameterized", importance.iwae),
        ("doubly-reparameterized", terms.bind(importance.renyi, alpha=0.5)),
        ("doubly-reparameterized", terms.bind(importance.miwae, num_inner_samples=2)),
        ("doubly-reparameterized", terms.bind(importance.ciwae, elbo_weight=0.3)),
        ("doubly-reparameterized", importance.negative_cubo),
    ])  # fmt: skip
    def test_with_the_exact_posterior_nothing_is_left_of_the_noise_in_any_layer(self, rule, objective):
        model, params, _ = exact_model()

        def largest(name, objective):
            settings = {"model": model, "objective": objective, "num_samples": 4, "estimator": ESTIMATORS[name]}
            loss = lambda p: negative_bound(p, jax.random.key(0), images(), **settings)[0]  # noqa: E731
            grads = jax.jit(jax.grad(loss))(params)
            parts = (grads[name] for name in ("posterior_mean", "posterior_log_variance", "posterior_layers_0"))
            return [max(float(abs(leaf).max()) for leaf in jax.tree.leaves(part)) for part in parts]

        assert max(largest(rule, objective)) < 1e-12
        assert min(largest("pathwise", elbos.sampled_elbo)) > 0.1


def _error(statistics):
    return statistics.standard_error


@pytest.mark.usefixtures("x64")
class TestMarkovChain:
    def chain(self, downwards):
        second = Partial(lambda scale, z: Normal(jnp.sin(z[..., :1]) * scale, z[..., :1] / 2), jnp.asarray(2.0))
        sizes = (1, 2) if downwards else (2, 1)
        return MarkovChain(Normal(jnp.array([0.3, -0.2]), jnp.array([-1.0, 0.1])), (second,), sizes, downwards)

    @pytest.mark.parametrize("downwards", [False, True])
    def test_log_prob_is_that_of_the_layers_one_after_another(self, downwards):
        first, second = np.array([0.5, -1.0]), np.array([0.7])
        value = np.concatenate([second, first] if downwards else [first, second])
        lower = norm.logpdf(first, [0.3, -0.2], np.exp([-1.0, 0.1])).sum()
        upper = norm.logpdf(second, 2 * np.sin(0.5), np.exp(0.25)).sum()
        chain = self.chain(downwards)
        np.testing.assert_allclose(chain.log_prob(jnp.asarray(value)), lower + upper, rtol=1e-9)
        expected = [upper, lower] if downwards else [lower, upper]
        np.testing.assert_allclose(chain.log_probs(jnp.asarray(value)), expected, rtol=1e-9)

    @pytest.mark.parametrize("downwards", [False, True])
    def test_samples_have_the_chains_moments(self, downwards):
        chain, count = self.chain(downwards), 200_000
        z = np.asarray(chain.sample(jax.random.key(0), (count,)))
        first, second = (z[:, 1:], z[:, :1]) if downwards else (z[:, :2], z[:, 2:])
        np.testing.assert_allclose(first.mean(axis=0), [0.3, -0.2], atol=0.02)
        np.testing.assert_allclose(first.std(axis=0), np.exp([-1.0, 0.1]), rtol=0.02)
        standard = (second[:, 0] - 2 * np.sin(first[:, 0])) / np.exp(first[:, 0] / 2)
        np.testing.assert_allclose([standard.mean(), standard.std()], [0, 1], atol=0.02)
        assert abs(np.corrcoef(standard, first[:, 0])[0, 1]) < 0.02
        mean, variance = chain.sampled_mean(jax.random.key(1), count)
        expected = 4 * np.sin(first[:, 0]).var() / count
        np.testing.assert_allclose(variance, [expected, 0, 0] if downwards else [0, 0, expected], rtol=0.02)
        np.testing.assert_allclose(mean, z.mean(axis=0), atol=0.03)
        along = 2 * np.sin(0.3)  # not the mean of sin
        np.testing.assert_allclose(chain.mean(), [along, 0.3, -0.2] if downwards else [0.3, -0.2, along], rtol=1e-9)

    def test_the_third_layer_s_mean_is_over_draws_of_the_second(self):
        constant = lambda z: jnp.zeros_like(z)  # noqa: E731
        copied = Partial(lambda z: Normal(z, constant(z)))
        squared = Partial(lambda z: Normal(z**2, constant(z)))
        chain = MarkovChain(standard_normal((1,)), (copied, squared), (1, 1, 1))
        mean, variance = chain.sampled_mean(jax.random.key(0), 200_000)
        np.testing.assert_allclose(mean[2], 2.0, atol=0.04)  # E z_2², of N(0, 1 + 1)
        np.testing.assert_allclose(variance[2], 8 / 200_000, rtol=0.05)

    def test_a_code_of_another_length_is_refused(self):
        with pytest.raises(ValueError, match="3 numbers, got 2"):
            self.chain(False).log_prob(jnp.zeros(2))


def test_three_layers_in_both_directions():
    config = ModelConfig(hidden=(6,), latent_dim=2, latent_layers=(5, 4), layer_hidden=(7, 3))
    model = build_model(config, (4, 4, 1))
    x = jnp.ones((2, 4, 4, 1))
    params = init(model, jax.random.key(0), x)["params"]
    shapes = {name: jax.tree.map(jnp.shape, params[name]) for name in params if "layers" in name}
    assert shapes["posterior_layers_0"]["Dense_0"]["kernel"] == (5, 7)
    assert shapes["posterior_layers_1"]["mean"]["kernel"] == (3, 2)
    assert shapes["prior_layers_0"]["Dense_0"]["kernel"] == (2, 3)
    assert shapes["prior_layers_1"]["mean"]["kernel"] == (7, 5)
    prior = model.apply({"params": params}, method="prior")
    assert prior.sample(jax.random.key(0), (3,)).shape == (3, 11)
    terms = sample_terms(params, jax.random.key(1), x, model=model, num_samples=4)
    assert terms.log_qz.shape == (4, 2)
    assert terms.kl.shape == (3, 2)
    np.testing.assert_allclose(jnp.sum(terms.kl, axis=0), jnp.mean(terms.log_qz - terms.log_pz, axis=0), rtol=1e-5)
    loss = lambda p: negative_bound(p, jax.random.key(1), x, model=model, objective=importance.iwae)[0]  # noqa: E731
    grads = jax.jit(jax.grad(loss))(params)
    assert all(jnp.any(leaf["mean"]["kernel"] != 0) for name, leaf in grads.items() if "layers" in name)


def test_a_standard_upper_layer_with_nothing_below_it_is_the_prior():
    chain = MarkovChain(standard_normal((2,)), (), (2,), True)
    z = jnp.array([[0.3, -1.0], [2.0, 0.0]])
    np.testing.assert_allclose(chain.log_prob(z), standard_normal((2,)).log_prob(z), rtol=1e-6)


def test_an_upper_layer_that_knows_nothing_of_the_image_is_not_active():
    """Its mean given the layer below varies; what is counted is whether it varies with the image."""
    model, params, _ = exact_model()
    params = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), params)
    pixels = np.random.default_rng(1).integers(0, 2, size=(400, *IMAGE_SHAPE), dtype=np.uint8) * 255
    units = lambda p: Evaluator(model, "none", 50).bound(p, jax.random.key(0), pixels)["active_units_by_layer"]  # noqa: E731
    assert units(params) == [2, 2]
    head = params["posterior_mean"]
    blind = params | {"posterior_mean": head | {"kernel": jnp.zeros_like(head["kernel"])}}
    blind["posterior_log_variance"] = jax.tree.map(jnp.zeros_like, params["posterior_log_variance"])
    blind["posterior_layers_0"] = affine(np.array([1.0, -2.0]), np.zeros(2), np.ones(2))
    assert units(jax.tree.map(lambda leaf: leaf.astype(jnp.float32), blind)) == [0, 0]
    # z_1 has one mean for all images and a width of each; z_2 is its positive part, whose mean is the width's.
    rectified = ConditionalNormal((LATENT,), ACTIVATIONS["relu"], LATENT)
    model = model.clone(posterior_layers=(rectified,))
    blind["posterior_log_variance"] = {"kernel": head["kernel"] * 3, "bias": jnp.zeros(LATENT)}
    plain = affine(np.array([1.0, 1.0]), np.zeros(2), np.ones(2))
    blind["posterior_layers_0"] = plain | {"Dense_0": plain["mean"]}
    assert units(jax.tree.map(lambda leaf: leaf.astype(jnp.float32), blind)) == [0, 2]


def test_a_run_of_two_layers_is_trained_judged_and_drawn(small, tmp_path):
    layers = {"model__latent_layers": (3,), "model__layer_hidden": (4,), "objective__name": "iwae"}
    config = small(**layers, objective__num_samples=2, objective__estimator="doubly-reparameterized")
    run, train_images = opening.prepare_run(config, tmp_path / "run")
    params = train_loop.fit(run, train_images).state.params
    found = evaluation.evaluate_run(run, params, split="test")
    assert found["kl"] == pytest.approx(found["kl_1"] + found["kl_2"], rel=1e-5)
    assert found["nll"] < -found["elbo"] + 1
    assert len(found["active_units_by_layer"]) == 2
    assert sum(found["active_units_by_layer"]) == found["active_units"]
    codes = decoding.encode_images(run, params, run.key, run.images("test")[:5])
    assert codes["mean"].shape == codes["scale"].shape == (5, 5)
    drawn = {path.stem for path in plots.plot_all(run, params)}
    assert drawn == {"samples", "reconstructions", "traversals", "curves", "interpolations"}


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"model__posterior": "fixed-noise"}, "model.posterior"),
        ({"model__tied": True}, "model.tied"),
        ({"objective__name": "beta-tc"}, "objective.name"),
        ({"model__latent_layers": (), "model__layer_hidden": (4,)}, "model.layer_hidden"),
        ({"model__latent_layers": (0,)}, "model.latent_layers"),
    ],
)
def test_what_several_layers_cannot_be_used_with_is_refused(small, settings, named):
    with pytest.raises(InputError, match=f"^{named}: "):
        small(**{"model__latent_layers": (3,)} | settings)
