"""Observed layers: known values, their log densities, and a bound without a path to their posterior."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from densities import B, D, gather, log_prob, normals

from vae_jax.distributions import Deterministic, Normal, Observed, standard_normal
from vae_jax.distributions.drawers import from_means, from_posterior, from_prior, from_values
from vae_jax.inference import negative_bound, pathwise, sampled_elbo, sticking_the_landing

K = 3
KEY = jax.random.key(0)
KNOWN = np.arange(B) % 3 == 0
OBSERVED = Observed(normals(5, B, D), jnp.asarray(KNOWN))


def gaussian(seed, *batch):
    return Normal(normals(seed, *batch, D), normals(seed + 1, *batch, D, scale=0.5))


def test_samples_of_the_posterior_are_replaced_by_the_known_values():
    p, q, draw = gaussian(6, B), gaussian(0, B), from_posterior(KEY, B, K)
    free, layer = draw("y", p, lambda: q), draw("y", p, lambda: q, observed=OBSERVED)
    for k in range(K):
        np.testing.assert_array_equal(layer.z[k, KNOWN], OBSERVED.value[KNOWN])
        np.testing.assert_array_equal(layer.z[k, ~KNOWN], free.z[k, ~KNOWN])
    np.testing.assert_array_equal(layer.log_q[:, KNOWN], 0)
    np.testing.assert_allclose(layer.log_q[:, ~KNOWN], free.log_q[:, ~KNOWN], rtol=1e-6)
    np.testing.assert_allclose(layer.log_p, log_prob(p, layer.z), rtol=1e-5, atol=1e-5)
    assert layer.kl is None  # it would be that of the posterior of known values too


def test_samples_of_the_prior_are_replaced_by_the_known_values():
    p, draw = standard_normal((D,)), from_prior(KEY, B)
    free, layer = draw("y", p), draw("y", p, observed=OBSERVED)
    np.testing.assert_array_equal(layer.z[KNOWN], OBSERVED.value[KNOWN])
    np.testing.assert_array_equal(layer.z[~KNOWN], free.z[~KNOWN])
    np.testing.assert_allclose(layer.log_p, log_prob(p, layer.z), rtol=1e-5, atol=1e-5)
    assert layer.log_q is None


def test_means_are_replaced_by_the_known_values():
    p, q = standard_normal((D,)), gaussian(0, B)
    layer = from_means()("y", p, lambda: q, observed=OBSERVED)
    np.testing.assert_array_equal(layer.z, np.where(KNOWN[:, None], OBSERVED.value, q.mean()))
    np.testing.assert_allclose(layer.log_p, log_prob(p, layer.z), rtol=1e-5, atol=1e-5)


def test_given_values_of_known_examples_have_no_log_density_under_the_posterior():
    q, z = gaussian(0, B), normals(9, K, B, D)
    layer = from_values({"y": z}, with_posterior=True)("y", None, lambda: q, observed=OBSERVED)
    assert layer.z is z
    np.testing.assert_array_equal(layer.log_q, np.where(KNOWN, 0, log_prob(q, z)))


def test_a_point_may_be_replaced_by_known_values():
    point = Deterministic(normals(0, B, D))
    layer = from_posterior(KEY, B, K)("y", None, lambda: point, observed=OBSERVED)
    np.testing.assert_array_equal(layer.z[1], np.where(KNOWN[:, None], OBSERVED.value, point.loc))
    assert layer.log_q is None


def test_integers_become_values_in_the_dtype_of_the_layer():
    q = Normal(normals(0, B), normals(1, B), event_ndims=0)  # one number for each example
    observed = Observed(jnp.arange(B), jnp.asarray(KNOWN))
    layer = from_posterior(KEY, B, K)("y", standard_normal((), event_ndims=0), lambda: q, observed=observed)
    assert layer.z.dtype == jnp.float32
    np.testing.assert_array_equal(layer.z[:, KNOWN], np.broadcast_to(np.arange(B)[KNOWN], (K, KNOWN.sum())))


@pytest.mark.parametrize(
    ("value", "mask"),
    [((B,), (B,)), ((1, D), (B,)), ((B, 1), (B,)), ((D,), (B,)), ((B, D), ()), ((B, D), (1,)), ((B, D), (B, 1))],
    ids=str,
)
def test_known_values_that_would_broadcast_are_refused(value, mask):
    q, observed = gaussian(0, B), Observed(jnp.zeros(value), jnp.ones(mask, bool))
    shapes = rf"of shape \[{', '.join(map(str, value))}\] and a mask of shape \[{', '.join(map(str, mask))}\]"
    message = rf"^layer 'y' has observed values {shapes}; pass \[{B}, {D}\] and \[{B}\]$"
    draws = {
        "posterior": from_posterior(KEY, B, K),
        "prior": from_prior(KEY, B),
        "means": from_means(),
        "values": from_values({"y": jnp.zeros((K, B, D))}, with_posterior=True),
    }
    for draw in draws.values():
        with pytest.raises(ValueError, match=message):
            draw("y", standard_normal((D,)), lambda: q, observed=observed)


def test_known_values_of_as_many_examples_as_numbers_are_refused():
    q = Normal(jnp.zeros((D, D)), jnp.zeros((D, D)))  # B = D
    with pytest.raises(ValueError, match=r"observed values of shape \[5\]"):
        from_posterior(KEY, D, K)("y", None, lambda: q, observed=Observed(jnp.zeros(D), jnp.ones(D, bool)))


class PartlyObserved(nn.Module):
    """q(y|x), of which some values are known, q(z|y, x), and p(x|y, z); each example has separate parameters."""

    @nn.compact
    def __call__(self, batch):
        return self.decode(from_means(), self.encode(batch), batch)[0]

    def setup(self):
        for name in ("q_y", "q_z", "p_y"):
            setattr(self, name, self.param(name, nn.initializers.normal(), (2, B, D)))
        self.weight = self.param("weight", nn.initializers.ones, (B, D))

    def encode(self, batch):
        return batch["x"]

    def decode(self, draw, evidence=None, batch=None):
        y = draw("y", Normal(*self.p_y), lambda: Normal(*self.q_y), observed=Observed(batch["y"], batch["known"]))
        upper = jnp.broadcast_to(self.q_z[0], y.z.shape) + y.z
        scale = jnp.broadcast_to(self.q_z[1], y.z.shape)
        z = draw("z", standard_normal((D,)), lambda: Normal(upper + jnp.broadcast_to(evidence, y.z.shape), scale))
        mean = jnp.broadcast_to(self.weight, z.z.shape) * z.z + y.z
        return Normal(mean, jnp.zeros_like(mean)), (y, z)


@pytest.mark.parametrize("estimator", [pathwise, sticking_the_landing])
def test_the_bound_has_no_gradient_to_the_posterior_of_known_values(estimator):
    model = PartlyObserved()
    batch = {"x": normals(3, B, D), "y": OBSERVED.value, "known": OBSERVED.mask}
    params = model.init(jax.random.key(1), batch)["params"]

    @jax.jit
    @jax.grad
    def gradient(params):
        loss, _ = negative_bound(
            params, KEY, batch, model=model, objective=sampled_elbo, num_samples=K, estimator=estimator
        )
        return loss

    gradients = jax.tree.map(gather, gradient(params))
    np.testing.assert_array_equal(gradients["q_y"][:, KNOWN], 0)
    assert np.all(gradients["q_y"][:, ~KNOWN] != 0)
    for name in ("q_z", "p_y"):
        assert np.all(gradients[name] != 0), name
    assert np.all(gradients["weight"] != 0)


def test_the_value_of_the_bound_contains_the_prior_of_known_values_alone():
    model = PartlyObserved()
    batch = {"x": normals(3, B, D), "y": OBSERVED.value, "known": jnp.ones(B, bool)}
    params = model.init(jax.random.key(1), batch)["params"]
    evaluate = jax.jit(lambda params: negative_bound(params, KEY, batch, model=model, objective=sampled_elbo)[0])
    moved = params | {"q_y": params["q_y"] + 1}
    assert evaluate(moved) == evaluate(params)
    shifted = params | {"p_y": params["p_y"] + 0.5}
    densities = [log_prob(Normal(*p["p_y"]), batch["y"]).mean() for p in (params, shifted)]
    np.testing.assert_allclose(evaluate(shifted) - evaluate(params), densities[0] - densities[1], rtol=1e-4, atol=1e-5)
