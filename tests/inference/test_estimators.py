"""Gradient estimators: unchanged values, gradients that agree in expectation, and smaller variance."""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jitted import init, negative_bound, sample_terms
from linear_gaussian import SCALE, exact_model, images, shifted_model
from random_terms import terms_of_weights
from small_model import binary_images, small_model
from subsets import by_default
from two_layer_gaussian import move_posterior, two_layer_model

from vae_jax.config import Config, apply_overrides, choice, choices
from vae_jax.distributions import (
    Bernoulli,
    Categorical,
    Latent,
    Normal,
    Poisson,
    from_posterior,
    from_values,
    standard_normal,
)
from vae_jax.errors import InputError
from vae_jax.inference import aggregate, bound, elbos, estimators, importance
from vae_jax.inference.estimators import doubly_reparameterized, pathwise, sticking_the_landing
from vae_jax.inference.gradient_statistics import gradient_statistics, signal_to_noise
from vae_jax.inference.terms import Pair, Terms, bind, log_weights
from vae_jax.models.build import build_model

ESTIMATORS = {name: cls().build() for name, cls in choices("estimator").items()}
WEIGHTED = {
    "iwae": {},
    "renyi": {"alpha": 0.5},
    "miwae": {"num_inner_samples": 4},
    "ciwae": {"elbo_weight": 0.3},
    "cubo": {"order": 2.0},
}
COMMON = (elbos.sampled_elbo, importance.iwae)
KEYS = 4000

pytestmark = pytest.mark.usefixtures("x64")


def encoder_objective(name):
    """Return the objective that the encoder maximizes."""
    objective = choice("objective", name, **WEIGHTED.get(name, {})).at(jnp.asarray(0), 100)
    return objective.inference if isinstance(objective, Pair) else objective


def model_numbers(make_model):
    """Return the numbers of encoder and decoder of a linear-Gaussian model, without the layers around them."""
    _, params, *_ = make_model()
    mean, log_variance = params["posterior"]["mean"], params["posterior"]["log_variance"]
    encoder = {"gain": mean["kernel"], "mean": mean["bias"], "log_scale": log_variance["bias"] / 2}
    return encoder, {"weights": params["decoder"]["Dense_0"]["kernel"], "offset": params["output_bias"].reshape(-1)}


@dataclasses.dataclass(frozen=True)
class LinearPasses:
    """The passes through a linear-Gaussian model for three images, without a model of the package."""

    encoder: dict
    key: jax.Array
    decoder: dict
    num_samples: int

    def posterior(self):
        mean = images(3).reshape(3, -1) @ self.encoder["gain"]
        return Normal(mean + self.encoder["mean"][None], jnp.broadcast_to(self.encoder["log_scale"], mean.shape))

    def terms(self, draw, q):
        latent = dataclasses.replace(draw("z", standard_normal((2,)), lambda: q), kl=None)
        decoded = latent.z @ self.decoder["weights"]
        decoded = decoded + jnp.broadcast_to(self.decoder["offset"], decoded.shape)
        likelihood = Normal(decoded, jnp.full_like(decoded, np.log(SCALE)))
        return Terms(likelihood.log_prob(images(3).reshape(3, -1)), (latent,))

    def sampled(self):
        return self.terms(from_posterior(self.key, 3, self.num_samples), self.posterior())

    def at(self, values):
        return self.terms(from_values(values, with_posterior=True), jax.lax.stop_gradient(self.posterior()))


def terms_of(encoder, key, decoder, rule, num_samples=8):
    return rule(LinearPasses(encoder, key, decoder, num_samples))


def loss(encoder, key, decoder, objective, rule, num_samples=8):
    terms = terms_of(encoder, key, decoder, functools.partial(rule, objective=objective), num_samples)
    return -jnp.mean(objective(terms))


def encoder_statistics(objective, rule, num_samples=8):
    encoder, decoder = model_numbers(shifted_model)
    keys = jax.random.split(jax.random.key(list(ESTIMATORS.values()).index(rule)), KEYS)
    one = functools.partial(loss, decoder=decoder, objective=objective, rule=rule, num_samples=num_samples)
    return jax.jit(functools.partial(gradient_statistics, one, encoder, chunk=KEYS // 4))(keys)


def flat(tree):
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])


def differences(one, other):
    """Return the distance of the means of two estimators in standard errors, for each parameter."""
    error = np.hypot(flat(one.standard_error), flat(other.standard_error))
    return np.abs(flat(one.mean) - flat(other.mean)) / error


@pytest.mark.parametrize("name", WEIGHTED)
def test_an_estimator_changes_neither_the_bound_nor_the_gradient_of_the_decoder(name):
    encoder, decoder = model_numbers(shifted_model)

    @jax.jit
    def found():
        one = functools.partial(loss, objective=encoder_objective(name))
        gradient = jax.value_and_grad(one, argnums=(0, 2))
        return [gradient(encoder, jax.random.key(0), decoder, rule=rule) for rule in ESTIMATORS.values()]

    (value, (encoder_grad, decoder_grad)), *others = found()
    for other_value, (other_encoder_grad, other_decoder_grad) in others:
        np.testing.assert_allclose(other_value, value, rtol=1e-12)
        np.testing.assert_allclose(flat(other_decoder_grad), flat(decoder_grad), rtol=1e-9, atol=1e-12)
        assert not np.allclose(flat(other_encoder_grad), flat(encoder_grad), rtol=1e-3)


@pytest.mark.parametrize("name", ["sampled-elbo", *WEIGHTED])
def test_with_the_exact_posterior_the_gradient_is_free_of_noise(name):
    """log w does not depend on z then, so the gradient through z is zero for each sample."""
    encoder, decoder = model_numbers(exact_model)

    @jax.jit
    def found():
        gradient = jax.grad(functools.partial(loss, objective=encoder_objective(name)))
        return [gradient(encoder, jax.random.key(0), decoder, rule=rule) for rule in ESTIMATORS.values()]

    pathwise_grad, *others = map(flat, found())
    assert np.abs(pathwise_grad).max() > 1e-2
    for other in others:
        assert np.abs(other).max() < 1e-12


def weights_in_closed_form(name, log_w):
    """Return the factor of the path through z_k for each objective, [K, B] (Tucker et al., or sums of theirs)."""
    w = jax.nn.softmax(log_w, axis=0)
    groups = jax.nn.softmax(log_w.reshape(-1, 4, log_w.shape[1]), axis=1)
    halved = jax.nn.softmax(log_w / 2, axis=0)
    squared = jax.nn.softmax(2 * log_w, axis=0)
    return {
        "iwae": w**2,
        "renyi": 0.5 * halved + 0.5 * halved**2,
        "miwae": (groups**2 / len(groups)).reshape(log_w.shape),
        "ciwae": 0.3 / len(log_w) + 0.7 * w**2,
        "cubo": squared - 2 * squared**2,  # of -CUBO
    }[name]


@pytest.mark.parametrize("name", WEIGHTED)
def test_doubly_reparameterized_gradients_are_those_of_an_explicit_surrogate(name):
    encoder, decoder = model_numbers(shifted_model)
    key = jax.random.key(0)

    def surrogate(encoder):
        log_w = log_weights(terms_of(encoder, key, decoder, sticking_the_landing))
        weights = jax.lax.stop_gradient(weights_in_closed_form(name, log_w))
        return -jnp.sum(weights * log_w, axis=0).mean()

    @jax.jit
    def found():
        settings = {"objective": encoder_objective(name), "rule": doubly_reparameterized}
        return jax.grad(loss)(encoder, key, decoder, **settings), jax.grad(surrogate)(encoder)

    np.testing.assert_allclose(*map(flat, found()), rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("name", WEIGHTED)
def test_doubly_reparameterized_and_pathwise_gradients_agree_in_expectation(name):
    one, other = (encoder_statistics(encoder_objective(name), rule) for rule in (pathwise, doubly_reparameterized))
    assert differences(one, other).max() < 5
    assert np.abs(flat(one.mean) / flat(one.standard_error)).max() > 10  # the gradient is not zero
    assert flat(other.variance).sum() < flat(one.variance).sum()


def test_sticking_the_landing_agrees_for_the_elbo_and_is_biased_for_iwae():
    def largest(objective):
        return differences(*(encoder_statistics(objective, rule) for rule in (pathwise, sticking_the_landing))).max()

    assert largest(elbos.sampled_elbo) < 5
    assert largest(importance.iwae) > 10


@pytest.mark.thorough
def test_signal_to_noise_falls_with_the_samples_of_iwae_and_rises_if_doubly_reparameterized():
    counts = (4, 16, 64)
    ratios = {
        rule: [float(signal_to_noise(encoder_statistics(importance.iwae, rule, k), KEYS)) for k in counts]
        for rule in (pathwise, doubly_reparameterized)
    }
    slopes = {rule: np.polyfit(np.log(counts), np.log(ratio), 1)[0] for rule, ratio in ratios.items()}
    assert np.all(np.diff(ratios[pathwise]) < 0)
    assert np.all(np.diff(ratios[doubly_reparameterized]) > 0)
    assert -0.7 < slopes[pathwise] < -0.3  # 1/sqrt(K)
    assert 0.3 < slopes[doubly_reparameterized] < 0.7  # sqrt(K)


@pytest.mark.parametrize("rule", [sticking_the_landing, doubly_reparameterized])
@pytest.mark.parametrize(
    "objective", [bind(aggregate.info_vae, mmd_weight=1.0), bind(aggregate.beta_tc, num_examples=9)]
)
def test_objectives_that_compare_codes_are_refused(rule, objective):
    model, params, _ = exact_model()
    with pytest.raises(ValueError, match="no densities of their codes; use `sample_terms` with estimator `pathwise`"):
        negative_bound(params, jax.random.key(0), images(), model=model, objective=objective, estimator=rule)


@pytest.mark.parametrize("rule", [sticking_the_landing, doubly_reparameterized])
def test_a_posterior_without_a_density_is_refused(rule):
    model, params = small_model(posterior="deterministic")
    with pytest.raises(ValueError, match="posterior of layer 'z' is a point, which has no density; use `pathwise`"):
        negative_bound(
            params, jax.random.key(0), binary_images(), model=model, objective=elbos.reconstruction, estimator=rule
        )


@pytest.mark.parametrize("make_model", [shifted_model, two_layer_model])
@pytest.mark.parametrize("beta", [1.0, 0.5])
def test_the_elbo_is_the_sampled_elbo_after_sticking_the_landing(make_model, beta):
    """A KL in closed form has a gradient that does not use the samples, so the KL is estimated from them."""
    model, params, *_ = make_model()
    settings = {"model": model, "num_samples": 3, "estimator": sticking_the_landing}

    @jax.jit
    def found():
        gradient = jax.value_and_grad(
            lambda p, f: negative_bound(p, jax.random.key(0), images(3), objective=f, **settings)[0]
        )
        return [gradient(params, bind(f, beta=beta)) for f in (elbos.elbo, elbos.sampled_elbo)]

    (one, one_grad), (other, other_grad) = found()
    np.testing.assert_allclose(one, other, rtol=1e-12)
    np.testing.assert_allclose(flat(one_grad), flat(other_grad), rtol=1e-9, atol=1e-12)


def test_the_penalty_of_a_layer_keeps_its_gradient():
    encoder, decoder = model_numbers(shifted_model)

    class Penalized(LinearPasses):
        def sampled(self):
            terms = super().sampled()
            (latent,) = terms.latents
            return terms._replace(latents=(dataclasses.replace(latent, penalty=jnp.sum(latent.z**2, axis=-1)),))

    def penalty(encoder, rule):
        return jnp.mean(rule(Penalized(encoder, jax.random.key(0), decoder, 4)).penalty)

    @jax.jit
    def found():
        rules = pathwise, sticking_the_landing, functools.partial(doubly_reparameterized, objective=importance.iwae)
        return [jax.value_and_grad(penalty)(encoder, rule) for rule in rules]

    (value, gradient), *others = found()
    assert np.abs(flat(gradient)).max() > 0.1
    for other_value, other_gradient in others:
        np.testing.assert_allclose(other_value, value, rtol=1e-12)
        np.testing.assert_allclose(flat(other_gradient), flat(gradient), rtol=1e-9)


@pytest.mark.parametrize("make_model", [shifted_model, two_layer_model])
def test_the_terms_of_a_model_have_the_same_values_by_each_rule(make_model):
    model, params, *_ = make_model()
    sample = functools.partial(sample_terms, params, jax.random.key(0), images(), model=model, num_samples=3)
    expected = sample()
    for rule in (sticking_the_landing, functools.partial(doubly_reparameterized, objective=importance.iwae)):
        found = sample(estimator=rule)
        for name in ("log_px_z", "log_pz", "log_qz"):
            np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
        assert len(found.latents) == len(expected.latents)
        for one, other in zip(found.latents, expected.latents, strict=True):
            assert one.name == other.name
            np.testing.assert_array_equal(one.z, other.z)
            assert (one.kl, one.prior, one.posterior) == (None, None, None)
        np.testing.assert_allclose(found.kl.sum(axis=0), jnp.mean(found.log_qz - found.log_pz, axis=0), rtol=1e-12)


def test_a_models_gradient_and_that_of_a_pairs_encoder_are_those_of_the_rule():
    model, params, *_ = shifted_model()
    encoder, decoder = model_numbers(shifted_model)
    inner = bind(importance.miwae, num_inner_samples=4)

    @jax.jit
    def found():
        settings = {"model": model, "num_samples": 8, "estimator": doubly_reparameterized}
        gradients = [
            jax.grad(lambda p, f=f: negative_bound(p, jax.random.key(0), images(3), objective=f, **settings)[0])(params)
            for f in (inner, Pair(importance.iwae, inner))
        ]
        expected = jax.grad(loss)(encoder, jax.random.key(0), decoder, objective=inner, rule=doubly_reparameterized)
        return *gradients, expected

    alone, paired, expected = found()
    for gradient in (alone, paired):
        np.testing.assert_allclose(gradient["posterior"]["mean"]["kernel"], expected["gain"], rtol=1e-9)
        np.testing.assert_allclose(gradient["posterior"]["log_variance"]["bias"], expected["log_scale"] / 2, rtol=1e-9)
    assert not np.allclose(alone["output_bias"], paired["output_bias"], rtol=1e-3)


def test_weights_of_zero_keep_the_gradient_finite():
    log_w = jnp.asarray([[0.0, -1e4], [-1e4, 0.0], [-300.0, -300.0]])
    zeros = jnp.zeros((3, 2))

    class GivenWeights:
        def __init__(self, q):
            self.q = q

        def sampled(self):
            return self.at({"z": jnp.broadcast_to(self.q, (3, 2, 1))})

        def at(self, values):
            return Terms(log_w + values["z"][..., 0], (Latent("z", values["z"], log_p=zeros, log_q=zeros),))

    def bound(q):
        return importance.iwae(doubly_reparameterized(GivenWeights(q), objective=importance.iwae)).sum()

    np.testing.assert_allclose(jax.jit(jax.grad(bound))(jnp.ones((2, 1))), 1.0, rtol=1e-6)


def test_computing_the_weights_twice_costs_little():
    """XLA merges the two computations of the terms, because their inputs are equal."""
    model = build_model(apply_overrides(Config(), {"network.hidden": (64,), "model.latent_dim": 8}), (8, 8, 1))
    x = jnp.zeros((16, 8, 8, 1))
    params = init(model, jax.random.key(0), x)["params"]

    def flops(rule):
        settings = {"model": model, "objective": importance.iwae, "num_samples": 8, "estimator": rule}
        gradient = jax.jit(jax.grad(lambda p: negative_bound(p, jax.random.key(0), x, **settings)[0]))
        return gradient.lower(params).compile().cost_analysis()["flops"]

    assert flops(doubly_reparameterized) < 1.1 * flops(pathwise)


def test_derivatives_are_those_of_the_complete_hessian():
    log_w = jnp.asarray(np.random.default_rng(0).normal(size=(6, 2)))
    objective = bind(importance.miwae, num_inner_samples=3)
    first, second = jax.jit(estimators._derivatives, static_argnums=0)(objective, log_w)
    one = lambda row: objective(terms_of_weights(row[:, None]))[0]  # noqa: E731
    np.testing.assert_allclose(first, jax.vmap(jax.grad(one), 1, 1)(log_w), rtol=1e-12)
    hessian = jax.jit(jax.vmap(jax.hessian(one), 1))(log_w)  # [B, K, K]
    np.testing.assert_allclose(second.T, np.diagonal(hessian, axis1=1, axis2=2), rtol=1e-9)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    "rule", ["doubly-reparameterized", pytest.param("sticking-the-landing", marks=pytest.mark.thorough)]
)
def test_estimators_of_two_layers_agree_in_expectation(rule):
    model, params, _ = two_layer_model()
    params, x, keys = move_posterior(params), images(3), jax.random.split(jax.random.key(2), 8000)
    objective = elbos.sampled_elbo if rule == "sticking-the-landing" else importance.iwae

    def statistics(name, keys):
        settings = {"model": model, "objective": objective, "num_samples": 3, "estimator": ESTIMATORS[name]}
        return jax.jit(
            lambda keys: gradient_statistics(
                lambda p, key: negative_bound(p, key, x, **settings)[0], params, keys, chunk=500
            )
        )(keys)

    plain, other = statistics("pathwise", keys), statistics(rule, jax.random.split(jax.random.key(3), 8000))
    for name in ("posterior", "posterior_layers_0"):
        trees = plain.mean, other.mean, plain.standard_error, other.standard_error
        leaves = [jax.tree.leaves(tree[name]) for tree in trees]
        for a, b, error_a, error_b in zip(*leaves, strict=True):
            np.testing.assert_array_less(abs(a - b), 5 * np.hypot(error_a, error_b) + 1e-9)
    assert sum(jnp.sum(v) for v in jax.tree.leaves(other.variance["posterior_layers_0"])) < sum(
        jnp.sum(v) for v in jax.tree.leaves(plain.variance["posterior_layers_0"])
    )


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(("rule", "objective"), by_default(lambda case: case[1] in COMMON, [
    ("sticking-the-landing", elbos.sampled_elbo),
    ("doubly-reparameterized", importance.iwae),
    ("doubly-reparameterized", bind(importance.renyi, alpha=0.5)),
    ("doubly-reparameterized", bind(importance.miwae, num_inner_samples=2)),
    ("doubly-reparameterized", bind(importance.ciwae, elbo_weight=0.3)),
    ("doubly-reparameterized", importance.negative_cubo),
]))  # fmt: skip
def test_with_the_exact_posterior_the_gradient_of_every_layer_is_free_of_noise(rule, objective):
    model, params, _ = two_layer_model()

    def largest(name, objective):
        settings = {"model": model, "objective": objective, "num_samples": 4, "estimator": ESTIMATORS[name]}
        loss = lambda p: negative_bound(p, jax.random.key(0), images(3), **settings)[0]  # noqa: E731
        grads = jax.jit(jax.grad(loss))(params)
        parts = (grads["posterior"]["mean"], grads["posterior"]["log_variance"], grads["posterior_layers_0"])
        return [max(float(abs(leaf).max()) for leaf in jax.tree.leaves(part)) for part in parts]

    assert max(largest(rule, objective)) < 1e-12
    assert min(largest("pathwise", elbos.sampled_elbo)) > 0.1


class Codes(nn.Module):
    """A model of vectors [6] whose code has the given family of densities; it starts with equal posterior and prior."""

    family: str

    def setup(self):
        self.heads, self.output = nn.Dense(4), nn.Dense(6)

    def encode(self, batch):
        return self.density(self.heads(batch["x"]))

    def density(self, h):
        if self.family == "straight-through":
            return StraightThrough(h, 1)
        discrete = {"bernoulli": Bernoulli(h, 1), "categorical": Categorical(h, 1), "poisson": Poisson(h)}
        return discrete.get(self.family) or Normal(h, jnp.zeros_like(h))

    def decode(self, draw, evidence=None, batch=None):
        latent = draw("z", self.density(jnp.zeros(4)), lambda: evidence)
        return Bernoulli(self.output(latent.z), event_ndims=1), (latent,)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class StraightThrough(Bernoulli):
    """Binary samples with the gradient of their mean."""

    def sample(self, key, sample_shape=()):
        mean = jnp.broadcast_to(self.mean(), (*sample_shape, *self.logits.shape))
        return mean + jax.lax.stop_gradient(super().sample(key, sample_shape) - mean)


@pytest.mark.fault
@pytest.mark.parametrize("family", ["bernoulli", "categorical", "poisson", "straight-through", "normal"])
def test_a_gradient_through_samples_without_one_is_refused(family):
    model, x = Codes(family), jnp.ones((3, 6))
    params = init(model, jax.random.key(0), x)["params"]
    cases = [(pathwise, elbos.elbo), (pathwise, Pair(elbos.sampled_elbo, importance.iwae))]
    cases += [(sticking_the_landing, elbos.sampled_elbo), (doubly_reparameterized, importance.iwae)]

    def loss(params, estimator, objective):
        settings = {"model": model, "objective": objective, "estimator": estimator, "num_samples": 2}
        return bound.negative_bound(params, jax.random.key(1), {"x": x}, **settings)[0]

    values = jax.jit(lambda params: [loss(params, *case) for case in cases])(params)
    assert np.isfinite(values).all()  # values have no restriction
    for estimator, objective in cases:
        gradient = jax.jit(jax.grad(functools.partial(loss, estimator=estimator, objective=objective)))
        if family in ("straight-through", "normal"):
            assert np.all(jax.eval_shape(gradient, params)["heads"]["kernel"].shape == (6, 4))
            continue
        with pytest.raises(InputError, match=rf"^posterior {family.capitalize()} of layer 'z' has samples without a"):
            jax.eval_shape(gradient, params)
