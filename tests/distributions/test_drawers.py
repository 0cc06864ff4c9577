"""The drawers: the value of a layer, its log densities, its keys and the refusals of each."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from densities import B, D, gather, log_prob, mixture, normals

from vae_jax.distributions import Deterministic, Normal, kl_divergence, standard_normal
from vae_jax.distributions.base import Density
from vae_jax.distributions.drawers import from_means, from_posterior, from_prior, from_top_layers, from_values
from vae_jax.errors import InputError

K = 3
KEY = jax.random.key(0)


def gaussian(seed, *batch):
    return Normal(normals(seed, *batch, D), normals(seed + 1, *batch, D, scale=0.5))


def uncalled():
    raise AssertionError("the posterior was called")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Laplace(Density):
    """A density of a user, without a KL in closed form: independent Laplace(loc, 1)."""

    loc: jax.Array

    @property
    def batch_shape(self):
        return self.loc.shape[:-1]

    def sample(self, key, sample_shape=()):
        shape = (*sample_shape, *self.loc.shape)
        noise = jax.vmap(jax.vmap(lambda k: jax.random.laplace(k, shape[2:])))(key)
        return jnp.broadcast_to(self.loc, shape) + noise

    def log_prob(self, value):
        return jnp.sum(-jnp.abs(value - jnp.broadcast_to(self.loc, value.shape)) - jnp.log(2), axis=-1)


PRIORS = {
    "[D]": lambda: standard_normal((D,)),
    "[B, D]": lambda: gaussian(6, B),
    "[K, B, D]": lambda: gaussian(8, K, B),
}
POSTERIORS = {"[B, D]": lambda: gaussian(0, B), "[K, B, D]": lambda: gaussian(2, K, B), "[D]": lambda: gaussian(4)}


class TestFromPosterior:
    @pytest.mark.parametrize("posterior", POSTERIORS)
    @pytest.mark.parametrize("prior", PRIORS)
    def test_values_have_the_log_densities_and_the_kl_of_their_layer(self, prior, posterior):
        p, q = PRIORS[prior](), POSTERIORS[posterior]()
        layer = from_posterior(KEY, B, K)("z", p, lambda: q)
        assert layer.name == "z"
        assert layer.z.shape == (K, B, D)
        assert layer.log_p.shape == layer.log_q.shape == (K, B)
        np.testing.assert_allclose(layer.log_p, log_prob(p, layer.z), rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(layer.log_q, log_prob(q, layer.z), rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(layer.kl, kl_divergence(q, p), rtol=1e-5, atol=1e-5)
        assert layer.penalty is None
        assert (layer.prior, layer.posterior) == (p, q)
        assert len(np.unique(layer.z)) == K * B * D

    def test_values_are_samples_of_the_posterior(self):
        q, n = gaussian(0, B), 20_000
        z = gather(jax.jit(lambda: from_posterior(KEY, B, n)("z", None, lambda: q).z)())
        standardized = (z - gather(q.loc)) / np.exp(gather(q.log_scale))
        assert scipy.stats.kstest(standardized.ravel(), "norm").pvalue > 1e-4
        pairs = np.corrcoef(standardized.reshape(n, -1).T) - np.eye(B * D)
        assert np.all(np.abs(pairs) < 5.5 / np.sqrt(n))  # examples and numbers are independent
        neighbours = (standardized[1:] * standardized[:-1]).mean(0)
        assert np.all(np.abs(neighbours) < 5 / np.sqrt(n))  # and so are samples

    def test_one_sample_is_the_default(self):
        assert from_posterior(KEY, B)("z", None, lambda: gaussian(0, B)).z.shape == (1, B, D)

    def test_values_have_a_gradient_to_the_posterior(self):
        draw = from_posterior(KEY, B, K)
        gradient = jax.grad(lambda q: draw("z", None, lambda: q).z.sum())(gaussian(0, B))
        np.testing.assert_array_equal(gradient.loc, K)
        assert np.all(gradient.log_scale != 0)

    @pytest.mark.parametrize("traced", [False, True])
    def test_chunks_of_samples_are_all_samples_at_once(self, traced):
        q = gaussian(0, B)
        complete = from_posterior(KEY, B, 7)("z", None, lambda: q).z

        def chunk(first, size):
            return from_posterior(KEY, B, size, first_sample=first)("z", None, lambda: q).z

        chunk = jax.jit(chunk, static_argnums=1) if traced else chunk
        parts = [chunk(first, size) for first, size in ((0, 3), (3, 3), (6, 1))]
        np.testing.assert_allclose(jnp.concatenate(parts), complete, rtol=1e-6, atol=1e-6)

    def test_a_value_does_not_depend_on_the_other_examples(self):
        q, keys = gaussian(0, B), jax.random.split(KEY, B)
        complete = from_posterior(keys, B, K)("z", None, lambda: q).z
        part = jax.tree.map(lambda a: a[3:5], q)
        z = from_posterior(keys[3:5], 2, K)("z", None, lambda: part).z
        np.testing.assert_allclose(z, complete[:, 3:5], rtol=1e-6, atol=1e-6)

    def test_one_key_is_folded_with_the_positions_of_the_examples(self):
        q, keys = gaussian(0, B), jax.vmap(jax.random.fold_in, (None, 0))(KEY, jnp.arange(B))
        np.testing.assert_array_equal(
            from_posterior(KEY, B, K)("z", None, lambda: q).z, from_posterior(keys, B, K)("z", None, lambda: q).z
        )

    def test_a_point_has_neither_log_density_nor_kl(self):
        point, prior = Deterministic(normals(0, B, D)), standard_normal((D,))
        layer = from_posterior(KEY, B, K)("z", prior, lambda: point)
        np.testing.assert_array_equal(layer.z, np.broadcast_to(point.loc, (K, B, D)))
        np.testing.assert_allclose(layer.log_p, log_prob(prior, layer.z), rtol=1e-5)
        assert layer.log_q is layer.kl is None

    def test_a_density_without_a_kl_in_closed_form_has_its_log_densities(self):
        q = Laplace(normals(0, B, D))
        layer = from_posterior(KEY, B, K)("z", standard_normal((D,)), lambda: q)
        np.testing.assert_allclose(layer.log_q, q.log_prob(layer.z), rtol=1e-5)
        assert layer.log_p.shape == (K, B)
        assert layer.kl is None

    def test_a_density_that_overrides_sample_and_log_prob_is_not_scored_again(self):
        class Flow(Laplace):
            def sample_and_log_prob(self, key, sample_shape=()):
                return self.sample(key, sample_shape), jnp.full(key.shape, 7.0)

        layer = from_posterior(KEY, B, K)("z", None, lambda: Flow(normals(0, B, D)))
        np.testing.assert_array_equal(layer.log_q, np.full((K, B), 7.0))

    def test_a_prior_that_is_not_known_yet(self):
        layer = from_posterior(KEY, B, K)("z", None, lambda: gaussian(0, B))
        assert layer.prior is layer.log_p is layer.kl is None
        assert layer.log_q.shape == (K, B)

    def test_events_with_several_axes(self):
        q = mixture(0, B, 4, 3, channels=3)
        layer = from_posterior(KEY, B, K)("z", None, lambda: q)
        assert layer.z.shape == (K, B, 4, 3, 3)
        np.testing.assert_allclose(layer.log_q, log_prob(q, layer.z), rtol=1e-5)

    def test_keys_of_another_number_of_examples_are_refused(self):
        with pytest.raises(
            ValueError, match=rf"^key has shape \[2\]; pass one key, or a key for each example, \[{B}\]$"
        ):
            from_posterior(jax.random.split(KEY, 2), B)

    def test_a_posterior_of_another_number_of_examples_is_refused(self):
        with pytest.raises(ValueError, match=r"^keys have shape .* must be the beginning of"):
            from_posterior(KEY, B, K)("z", None, lambda: gaussian(0, B - 1))


class TestFromPrior:
    @pytest.mark.parametrize("prior", ["[D]", "[B, D]"])
    def test_values_are_drawn_from_the_prior_and_the_posterior_is_never_called(self, prior):
        p = PRIORS[prior]()
        layer = from_prior(KEY, B)("z", p, uncalled)
        assert layer.name == "z"
        assert layer.z.shape == (B, D)
        np.testing.assert_allclose(layer.log_p, log_prob(p, layer.z), rtol=1e-5, atol=1e-5)
        assert layer.log_q is layer.kl is layer.penalty is layer.posterior is None
        assert layer.prior is p
        np.testing.assert_array_equal(from_prior(KEY, B)("z", p).z, layer.z)

    def test_values_are_samples_of_the_prior(self):
        p, n = gaussian(0), 40_000
        z = gather(jax.jit(lambda: from_prior(KEY, n)("z", p).z)())
        standardized = (z - gather(p.loc)) / np.exp(gather(p.log_scale))
        assert scipy.stats.kstest(standardized.ravel(), "norm").pvalue > 1e-4
        assert np.all(np.abs(np.corrcoef(standardized.T) - np.eye(D)) < 5.5 / np.sqrt(n))

    def test_a_value_does_not_depend_on_the_other_examples(self):
        p, keys = standard_normal((D,)), jax.random.split(KEY, B)
        complete = from_prior(keys, B)("z", p).z
        np.testing.assert_allclose(from_prior(keys[3:5], 2)("z", p).z, complete[3:5], rtol=1e-6, atol=1e-6)
        more = from_prior(KEY, B + 2)("z", p).z
        np.testing.assert_allclose(more[:B], from_prior(KEY, B)("z", p).z, rtol=1e-6, atol=1e-6)

    def test_a_temperature_multiplies_the_deviation_of_the_noise(self):
        p = gaussian(0)
        usual, cold = (from_prior(KEY, B, temperature=t)("z", p) for t in (None, 0.25))
        mean = np.broadcast_to(p.loc, (B, D))
        np.testing.assert_allclose(cold.z - mean, 0.25 * (usual.z - mean), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(cold.log_p, usual.log_p + D * np.log(4), rtol=1e-4)
        with pytest.raises(InputError, match=r"^prior Laplace of layer 'z' has no method tempered, which a temp"):
            from_prior(KEY, B, temperature=0.5)("z", Laplace(jnp.zeros(D)))

    def test_a_layer_without_a_prior_is_refused(self):
        message = r"^layer 'z' has no prior yet; draw from the top unless `draw\.posterior_first`$"
        with pytest.raises(ValueError, match=message):
            from_prior(KEY, B)("z", None, uncalled)

    def test_keys_of_another_number_of_examples_are_refused(self):
        with pytest.raises(ValueError, match=r"^key has shape \[2\]"):
            from_prior(jax.random.split(KEY, 2), B)


class TestFromMeans:
    @pytest.mark.parametrize("prior", ["[D]", "[B, D]"])
    def test_values_are_the_means_of_the_posterior(self, prior):
        p, q = PRIORS[prior](), gaussian(0, B)
        layer = from_means()("z", p, lambda: q)
        np.testing.assert_array_equal(layer.z, q.mean())
        np.testing.assert_allclose(layer.log_p, log_prob(p, q.mean()), rtol=1e-5, atol=1e-5)
        assert layer.log_q is layer.kl is None
        assert (layer.prior, layer.posterior) == (p, q)

    def test_a_prior_that_is_not_known_yet(self):
        layer = from_means()("z", None, lambda: Deterministic(normals(0, B, D)))
        np.testing.assert_array_equal(layer.z, normals(0, B, D))
        assert layer.prior is layer.log_p is None

    def test_events_with_several_axes(self):
        q = mixture(0, B, 4, 3)
        np.testing.assert_array_equal(from_means()("z", None, lambda: q).z, q.mean())


class TestFromValues:
    z = normals(9, K, B, D)

    @pytest.mark.parametrize("prior", PRIORS)
    def test_values_are_scored_under_the_prior_and_the_posterior_is_not_called(self, prior):
        p = PRIORS[prior]()
        layer = from_values({"z": self.z, "y": self.z})("z", p, uncalled)
        assert layer.z is self.z
        np.testing.assert_allclose(layer.log_p, log_prob(p, self.z), rtol=1e-5, atol=1e-5)
        assert layer.log_q is layer.kl is layer.posterior is None
        assert layer.prior is p

    @pytest.mark.parametrize("posterior", POSTERIORS)
    def test_with_their_posterior_values_are_scored_under_it_too(self, posterior):
        q = POSTERIORS[posterior]()
        layer = from_values({"z": self.z}, with_posterior=True)("z", standard_normal((D,)), lambda: q)
        np.testing.assert_allclose(layer.log_q, log_prob(q, self.z), rtol=1e-5, atol=1e-5)
        assert layer.log_p.shape == (K, B)
        assert layer.kl is None  # its gradient would not use the values
        assert layer.posterior is q

    @pytest.mark.parametrize("lead", [(), (2,), (4, 3, 2)])
    def test_values_may_have_any_leading_axes(self, lead):
        layer = from_values({"z": normals(0, *lead, D)})("z", standard_normal((D,)))
        assert layer.log_p.shape == lead

    def test_a_point_has_no_log_density(self):
        layer = from_values({"z": self.z}, with_posterior=True)("z", None, lambda: Deterministic(self.z[0]))
        assert layer.log_q is layer.log_p is None
        assert isinstance(layer.posterior, Deterministic)

    def test_values_of_blocks_are_indexed(self):
        draw = from_values({"z": self.z})
        for i in range(K):
            np.testing.assert_array_equal(draw("z", None, index=jnp.asarray(i)).z, self.z[i])

    def test_samples_of_the_posterior_get_the_same_log_densities_again(self):
        p, q = gaussian(6, B), gaussian(0, B)
        drawn = from_posterior(KEY, B, K)("z", p, lambda: q)
        again = from_values({"z": drawn.z}, with_posterior=True)("z", p, lambda: q)
        for field in ("z", "log_p", "log_q"):
            np.testing.assert_allclose(getattr(again, field), getattr(drawn, field), rtol=1e-5, atol=1e-5)

    @pytest.mark.parametrize(("values", "names"), [({}, "no layer"), ({"z2": z, "z1": z}, "z1, z2")])
    def test_a_layer_without_a_value_is_refused(self, values, names):
        with pytest.raises(ValueError, match=rf"^layer 'z' has no value; there are values of {names}$"):
            from_values(values)("z", standard_normal((D,)))


@pytest.mark.parametrize(
    "draw",
    [from_posterior(KEY, B), from_means(), from_values({"z": jnp.zeros((B, D))}, with_posterior=True)],
    ids=["posterior", "means", "values"],
)
def test_a_layer_without_a_posterior_is_refused_where_one_is_needed(draw):
    message = r"^layer 'z' has no posterior; use a drawer that does not need one, such as `from_prior`$"
    with pytest.raises(ValueError, match=message):
        draw("z", standard_normal((D,)))


class TestLayers:
    """Several layers: the first is given, and the second depends on it."""

    first = Normal(jnp.array([0.3, -0.2]), jnp.array([-1.0, 0.1]))

    def second(self, z):
        return Normal(2 * jnp.sin(z[..., :1]), z[..., :1] / 2)

    def walk(self, draw, posteriors=False):
        """Return both layers; with posteriors, they are those of the densities and the prior is standard normal."""
        if posteriors:
            upper = draw("first", standard_normal((2,)), lambda: self.first)
            return upper, draw("second", standard_normal((1,)), lambda: self.second(upper.z))
        upper = draw("first", self.first)
        return upper, draw("second", self.second(upper.z))

    def check_moments(self, first, second):
        first, second = gather(first), gather(second)
        np.testing.assert_allclose(first.mean(axis=0), [0.3, -0.2], atol=0.02)
        np.testing.assert_allclose(first.std(axis=0), np.exp([-1.0, 0.1]), rtol=0.02)
        standard = (second[:, 0] - 2 * np.sin(first[:, 0])) / np.exp(first[:, 0] / 2)
        np.testing.assert_allclose([standard.mean(), standard.std()], [0, 1], atol=0.02)
        assert np.all(np.abs(np.corrcoef(standard, first.T)[0, 1:]) < 0.02)

    def test_samples_of_the_prior_have_the_moments_of_the_joint_distribution(self):
        first, second = jax.jit(lambda: self.walk(from_prior(KEY, 100_000)))()
        self.check_moments(first.z, second.z)

    def test_samples_of_the_posterior_have_the_moments_of_the_joint_distribution(self):
        first, second = jax.jit(lambda: self.walk(from_posterior(KEY, 2, 50_000), posteriors=True))()
        self.check_moments(first.z.reshape(-1, 2), second.z.reshape(-1, 1))
        np.testing.assert_allclose(second.log_q, log_prob(self.second(first.z), second.z), rtol=1e-4, atol=1e-4)
        assert first.kl.shape == ()  # of one posterior for all samples
        assert second.kl.shape == (50_000, 2)  # given the layer before

    def test_a_mean_is_that_given_the_means_of_the_layers_before(self):
        first, second = self.walk(from_means(), posteriors=True)
        np.testing.assert_allclose(first.z, [0.3, -0.2], rtol=1e-6)
        np.testing.assert_allclose(second.z, [2 * np.sin(0.3)], rtol=1e-6)  # not the mean of the sine

    def test_log_densities_of_values_are_those_given_the_layers_before(self):
        values = {"first": jnp.array([0.5, -1.0]), "second": jnp.array([0.7])}
        first, second = self.walk(from_values(values))
        expected = scipy.stats.norm.logpdf([0.5, -1.0], [0.3, -0.2], np.exp([-1.0, 0.1])).sum()
        np.testing.assert_allclose(first.log_p, expected, rtol=1e-5)
        np.testing.assert_allclose(second.log_p, scipy.stats.norm.logpdf(0.7, 2 * np.sin(0.5), np.exp(0.25)), rtol=1e-5)

    @pytest.mark.parametrize("kind", ["posterior", "prior"])
    def test_a_value_does_not_depend_on_the_order_of_the_layers(self, kind):
        q = gaussian(0, B)

        def values(names):
            draw = from_posterior(KEY, B, K) if kind == "posterior" else from_prior(KEY, B)
            return {name: gather(draw(name, q, lambda: q).z) for name in names}

        forwards, backwards, alone = values(["z1", "z2", "z3"]), values(["z3", "z2", "z1"]), values(["z2"])
        for name, z in forwards.items():
            np.testing.assert_array_equal(backwards[name], z)
        np.testing.assert_array_equal(alone["z2"], forwards["z2"])
        assert np.all(forwards["z1"] != forwards["z2"])  # layers of equal densities have separate noise

    @pytest.mark.parametrize("kind", ["posterior", "prior"])
    def test_blocks_with_one_name_have_separate_noise(self, kind):
        q = gaussian(0, B)
        draw = from_posterior(KEY, B, K) if kind == "posterior" else from_prior(KEY, B)
        z = [gather(draw("z", q, lambda: q, index=index).z) for index in (None, jnp.asarray(0), jnp.asarray(1))]
        assert np.all(z[0] != z[1])
        assert np.all(z[1] != z[2])


class TestFromTopLayers:
    def walk(self, draw):
        """Three layers, each N(3 z, 1) of the one above; the last two are blocks of one name."""
        upper = draw("upper", standard_normal((B, D)))
        first, second = Normal(3 * upper.z, jnp.zeros((B, D))), None
        first = draw("blocks", first, index=jnp.asarray(0))
        second = draw("blocks", Normal(3 * first.z, jnp.zeros((B, D))), index=jnp.asarray(1))
        return upper, first, second

    @pytest.mark.parametrize(("kept", "blocks"), [(0, 0), (1, 0), (1, 1), (1, 2)])
    def test_the_first_layers_have_their_values_and_the_others_are_drawn_given_these(self, kept, blocks):
        values = {"upper": normals(1, B, D), "blocks": normals(2, 2, B, D)}
        drawn = jax.jit(lambda *kept: self.walk(from_top_layers(KEY, B, values, {"upper": kept[0], "blocks": kept[1]})))
        found, free = drawn(kept, blocks), self.walk(from_prior(KEY, B))
        noise = [free[0].z, free[1].z - 3 * free[0].z, free[2].z - 3 * free[1].z]
        upper = values["upper"] if kept else noise[0]
        first = values["blocks"][0] if blocks > 0 else 3 * upper + noise[1]
        second = values["blocks"][1] if blocks > 1 else 3 * first + noise[2]
        for latent, expected in zip(found, (upper, first, second), strict=True):
            np.testing.assert_allclose(latent.z, expected, rtol=1e-4, atol=1e-4)
            np.testing.assert_allclose(latent.log_p, log_prob(latent.prior, latent.z), rtol=1e-5)

    def test_a_layer_that_is_not_named_is_drawn(self):
        found = self.walk(from_top_layers(KEY, B, {"upper": normals(1, B, D)}, {"upper": 1}))
        np.testing.assert_array_equal(found[0].z, normals(1, B, D))
        assert found[2].z.shape == (B, D)

    @pytest.mark.fault
    def test_a_kept_layer_without_a_value_is_refused(self):
        with pytest.raises(ValueError, match="num_kept has layers without a value: blocks; pass their values"):
            from_top_layers(KEY, B, {"upper": normals(1, B, D)}, {"upper": 1, "blocks": 1})
