"""Gradient rules: the values they leave alone, the gradients they agree on in expectation, and what noise they save."""

import functools
import typing

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jitted import init, negative_bound, sample_terms
from linear_gaussian import SCALE, exact_model, images, shifted_model

from vae_jax.config.schema import ModelConfig, ObjectiveConfig
from vae_jax.distributions.normal import Normal, standard_normal
from vae_jax.inference import aggregate, elbos, estimators, importance, terms
from vae_jax.inference.estimators import ESTIMATORS, doubly_reparameterized, pathwise, sticking_the_landing
from vae_jax.inference.gradient_statistics import gradient_statistics, signal_to_noise
from vae_jax.inference.objectives import OBJECTIVES
from vae_jax.inference.terms import Pair, Terms, bind
from vae_jax.models.build import build_model

WEIGHTED = {
    "iwae": {},
    "renyi": {"alpha": 0.5},
    "miwae": {"num_inner_samples": 4},
    "ciwae": {"elbo_weight": 0.3},
    "cubo": {"order": 2.0},
}
KEYS = 4000


@pytest.fixture(autouse=True)
def _x64():
    with jax.enable_x64(True):
        yield


def climbed(name):
    """What the encoder climbs."""
    objective = bind(OBJECTIVES[name], **WEIGHTED.get(name, {}))
    return objective.inference if isinstance(objective, Pair) else objective


def numbers(make_model):
    """(encoder's numbers, decoder's) of a linear-Gaussian model, without the layers around them."""
    _, params, *_ = make_model()
    mean, log_variance = params["posterior_mean"], params["posterior_log_variance"]
    encoder = {"gain": mean["kernel"], "mean": mean["bias"], "log_scale": log_variance["bias"] / 2}
    return encoder, {"weights": params["decoder"]["Dense_0"]["kernel"], "offset": params["output_bias"].reshape(-1)}


def terms_of(encoder, key, decoder, rule, num_samples=8):
    """Terms of a linear-Gaussian model for three images, by an estimator and with no model of the package."""
    x = images(3).reshape(3, -1)
    mean = x @ encoder["gain"]
    q = Normal(mean + encoder["mean"][None], jnp.broadcast_to(encoder["log_scale"], mean.shape))

    def densities(z, q):
        decoded = z @ decoder["weights"]
        decoded = decoded + jnp.broadcast_to(decoder["offset"], decoded.shape)
        likelihood = Normal(decoded, jnp.full_like(decoded, np.log(SCALE)))
        return Terms(likelihood.log_prob(x), standard_normal((2,)).log_prob(z), q.log_prob(z), kl=None)

    return rule(densities, q.sample(key, (num_samples,)), q)


def loss(encoder, key, decoder, objective, rule, num_samples=8):
    terms = terms_of(encoder, key, decoder, functools.partial(rule, objective=objective), num_samples)
    return -jnp.mean(objective(terms))


def encoder_statistics(objective, rule, num_samples=8):
    encoder, decoder = numbers(shifted_model)
    keys = jax.random.split(jax.random.key(list(ESTIMATORS.values()).index(rule)), KEYS)
    one = functools.partial(loss, decoder=decoder, objective=objective, rule=rule, num_samples=num_samples)
    return jax.jit(functools.partial(gradient_statistics, one, encoder, chunk=KEYS // 4))(keys)


def flat(tree):
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])


def differences(one, other):
    """How many standard errors lie between the means of two estimators, parameter by parameter."""
    error = np.hypot(flat(one.standard_error), flat(other.standard_error))
    return np.abs(flat(one.mean) - flat(other.mean)) / error


def test_the_names_of_config_are_those_of_the_registry():
    assert typing.get_args(typing.get_type_hints(ObjectiveConfig)["estimator"]) == tuple(ESTIMATORS)


@pytest.mark.parametrize("name", WEIGHTED)
def test_an_estimator_changes_neither_the_bound_nor_what_the_decoder_learns(name):
    encoder, decoder = numbers(shifted_model)

    @jax.jit
    def found():
        one = functools.partial(loss, objective=climbed(name))
        gradient = jax.value_and_grad(one, argnums=(0, 2))
        return [gradient(encoder, jax.random.key(0), decoder, rule=rule) for rule in ESTIMATORS.values()]

    (value, (own, learned)), *others = found()
    for other_value, (other_own, other_learned) in others:
        np.testing.assert_allclose(other_value, value, rtol=1e-12)
        np.testing.assert_allclose(flat(other_learned), flat(learned), rtol=1e-9, atol=1e-12)
        assert not np.allclose(flat(other_own), flat(own), rtol=1e-3)


@pytest.mark.parametrize("name", ["sampled-elbo", *WEIGHTED])
def test_with_the_exact_posterior_nothing_is_left_of_the_noise(name):
    """log w does not depend on z then, so what flows through z is zero, sample by sample."""
    encoder, decoder = numbers(exact_model)

    @jax.jit
    def found():
        gradient = jax.grad(functools.partial(loss, objective=climbed(name)))
        return [gradient(encoder, jax.random.key(0), decoder, rule=rule) for rule in ESTIMATORS.values()]

    own, *others = map(flat, found())
    assert np.abs(own).max() > 1e-2
    for other in others:
        assert np.abs(other).max() < 1e-12


def weights_in_closed_form(name, log_w):
    """What multiplies the path through z_k for each objective, [K, B] (Tucker et al., and sums of theirs)."""
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
def test_doubly_reparameterised_gradients_are_those_of_the_written_out_surrogate(name):
    encoder, decoder = numbers(shifted_model)
    key = jax.random.key(0)

    def surrogate(encoder):
        log_w = terms.log_weights(terms_of(encoder, key, decoder, sticking_the_landing))
        weights = jax.lax.stop_gradient(weights_in_closed_form(name, log_w))
        return -jnp.sum(weights * log_w, axis=0).mean()

    @jax.jit
    def found():
        settings = {"objective": climbed(name), "rule": doubly_reparameterized}
        return jax.grad(loss)(encoder, key, decoder, **settings), jax.grad(surrogate)(encoder)

    np.testing.assert_allclose(*map(flat, found()), rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("name", WEIGHTED)
def test_doubly_reparameterised_and_pathwise_gradients_agree_in_expectation(name):
    one, other = (encoder_statistics(climbed(name), rule) for rule in (pathwise, doubly_reparameterized))
    assert differences(one, other).max() < 5
    assert np.abs(flat(one.mean) / flat(one.standard_error)).max() > 10  # there is something to agree on
    assert flat(other.variance).sum() < flat(one.variance).sum()


def test_sticking_the_landing_agrees_for_the_elbo_and_is_biased_for_iwae():
    def largest(objective):
        return differences(*(encoder_statistics(objective, rule) for rule in (pathwise, sticking_the_landing))).max()

    assert largest(elbos.sampled_elbo) < 5
    assert largest(importance.iwae) > 10


def test_signal_to_noise_falls_with_the_samples_of_iwae_and_rises_if_doubly_reparameterised():
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
    ("objective", "words"),
    [
        (elbos.elbo, "use `sampled_elbo`"),
        (bind(elbos.free_bits, free_bits=1.0), "use `sampled_elbo`"),
        (bind(aggregate.info_vae, mmd_weight=1.0), "use `sampled_elbo`"),
        (bind(aggregate.beta_tc, num_examples=9), "no codes"),
    ],
)
def test_what_has_no_samples_to_reparameterise_is_refused(rule, objective, words):
    model, params, _ = exact_model()
    with pytest.raises(ValueError, match=words):
        negative_bound(params, jax.random.key(0), images(), model=model, objective=objective, estimator=rule)


def test_the_terms_of_a_model_have_the_same_values_by_each_rule():
    model, params, *_ = shifted_model()
    sample = functools.partial(sample_terms, params, jax.random.key(0), images(), model=model, num_samples=3)
    expected = sample()
    for rule in (sticking_the_landing, functools.partial(doubly_reparameterized, objective=importance.iwae)):
        found = sample(estimator=rule)
        for one, other in zip(found[:3], expected[:3], strict=True):
            np.testing.assert_array_equal(one, other)
        assert found.kl is None
        assert found.codes is None


def test_a_model_s_gradient_is_that_of_the_rule_and_a_pair_s_encoder_has_it_too():
    model, params, *_ = shifted_model()
    encoder, decoder = numbers(shifted_model)
    inner = bind(importance.miwae, num_inner_samples=4)

    @jax.jit
    def found():
        settings = {"model": model, "num_samples": 8, "estimator": doubly_reparameterized}
        gradients = [
            jax.grad(lambda p, f=f: negative_bound(p, jax.random.key(0), images(3), objective=f, **settings)[0])(params)
            for f in (inner, Pair(importance.iwae, inner))
        ]
        own = jax.grad(loss)(encoder, jax.random.key(0), decoder, objective=inner, rule=doubly_reparameterized)
        return *gradients, own

    alone, paired, own = found()
    for gradient in (alone, paired):
        np.testing.assert_allclose(gradient["posterior_mean"]["kernel"], own["gain"], rtol=1e-9)
        np.testing.assert_allclose(gradient["posterior_log_variance"]["bias"], own["log_scale"] / 2, rtol=1e-9)
    assert not np.allclose(alone["output_bias"], paired["output_bias"], rtol=1e-3)


def test_weights_that_vanish_leave_the_gradient_finite():
    log_w = jnp.asarray([[0.0, -1e4], [-1e4, 0.0], [-300.0, -300.0]])
    zeros = jnp.zeros((3, 2))

    def densities(z, q):
        del q
        return Terms(log_w + z[..., 0], zeros, zeros, kl=None)

    def bound(q):
        z = jnp.broadcast_to(q, (3, 2, 1))
        return importance.iwae(doubly_reparameterized(densities, z, q, objective=importance.iwae)).sum()

    np.testing.assert_allclose(jax.jit(jax.grad(bound))(jnp.ones((2, 1))), 1.0, rtol=1e-6)


def test_the_first_look_at_the_weights_costs_next_to_nothing():
    """XLA sees that the terms are computed twice from the same numbers, and computes them once."""
    model = build_model(ModelConfig(hidden=(64,), latent_dim=8), (8, 8, 1))
    x = jnp.zeros((16, 8, 8, 1))
    params = init(model, jax.random.key(0), x)["params"]

    def flops(rule):
        settings = {"model": model, "objective": importance.iwae, "num_samples": 8, "estimator": rule}
        gradient = jax.jit(jax.grad(lambda p: negative_bound(p, jax.random.key(0), x, **settings)[0]))
        return gradient.lower(params).compile().cost_analysis()["flops"]

    assert flops(doubly_reparameterized) < 1.1 * flops(pathwise)


def test_derivatives_are_those_of_the_whole_hessian():
    log_w = jnp.asarray(np.random.default_rng(0).normal(size=(6, 2)))
    objective = bind(importance.miwae, num_inner_samples=3)
    first, second = jax.jit(estimators._derivatives, static_argnums=0)(objective, log_w)
    zeros = jnp.zeros((6, 1))
    one = lambda row: objective(Terms(row[:, None], zeros, zeros, kl=None))[0]  # noqa: E731
    np.testing.assert_allclose(first, jax.vmap(jax.grad(one), 1, 1)(log_w), rtol=1e-12)
    hessian = jax.jit(jax.vmap(jax.hessian(one), 1))(log_w)  # [B, K, K]
    np.testing.assert_allclose(second.T, np.diagonal(hessian, axis1=1, axis2=2), rtol=1e-9)


class TestGradientStatistics:
    params: typing.ClassVar = {"a": np.array([1.0, -2.0]), "b": np.array(0.5)}

    @staticmethod
    def loss(params, key):
        noise = jax.random.normal(key, (3,))
        return jnp.sum(params["a"] * (2 + noise[:2])) + params["b"] ** 2 * (1 + 0.1 * noise[2])

    @pytest.mark.parametrize("chunk", [1, 7, 84])
    def test_moments_are_those_of_numpy_whatever_the_chunk(self, chunk):
        keys = jax.random.split(jax.random.key(3), 84)
        reference = {"a": np.full(2, 2.0), "b": np.array(1.0)}
        found = gradient_statistics(self.loss, self.params, keys, chunk=chunk, reference=reference)
        all_of_them = jax.vmap(jax.grad(self.loss), in_axes=(None, 0))(self.params, keys)
        for name in ("a", "b"):
            each = np.asarray(all_of_them[name])
            np.testing.assert_allclose(found.mean[name], each.mean(axis=0), rtol=1e-12)
            np.testing.assert_allclose(found.variance[name], each.var(axis=0, ddof=1), rtol=1e-12)
            np.testing.assert_allclose(found.snr[name], np.abs(each.mean(axis=0)) / each.std(axis=0, ddof=1), rtol=1e-9)
            np.testing.assert_allclose(found.standard_error[name], each.std(axis=0, ddof=1) / np.sqrt(84), rtol=1e-9)
            np.testing.assert_allclose(found.bias[name], each.mean(axis=0) - reference[name], atol=1e-12)

    def test_without_a_reference_there_is_no_bias_to_speak_of(self):
        keys = jax.random.split(jax.random.key(3), 8)
        assert gradient_statistics(self.loss, self.params, keys, chunk=4).bias is None

    def test_signal_to_noise_of_a_whole_gradient(self):
        keys = jax.random.split(jax.random.key(3), 20_000)
        ratio = signal_to_noise(gradient_statistics(self.loss, self.params, keys, chunk=1000), 20_000)
        np.testing.assert_allclose(ratio, np.sqrt((4 + 4 + 1) / (1 + 1 + 0.01)), rtol=0.02)

    def test_signal_to_noise_of_pure_noise_is_next_to_zero_with_few_keys_too(self):
        def noise(params, key):
            return jnp.sum(params["a"] * jax.random.normal(key, (2,))) + 0 * params["b"]

        @jax.vmap
        def ratios(seed):
            keys = jax.random.split(jax.random.key(seed), 10)
            found = gradient_statistics(noise, self.params, keys, chunk=10)
            naive = (found.mean["a"] ** 2).sum() / found.variance["a"].sum()
            return naive, signal_to_noise(found, 10) ** 2

        naive, ratio = ratios(jnp.arange(1000))
        assert np.mean(naive) > 0.08
        assert np.mean(ratio) < 0.05

    @pytest.mark.parametrize(("count", "chunk"), [(10, 3), (1, 1)])
    def test_keys_that_cannot_be_used_are_refused(self, count, chunk):
        with pytest.raises(ValueError, match=f"chunk={chunk} must divide the number of keys, {count}"):
            gradient_statistics(self.loss, self.params, jax.random.split(jax.random.key(0), count), chunk=chunk)
