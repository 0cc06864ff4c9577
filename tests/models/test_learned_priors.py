"""Priors with parameters: settings, a VampPrior against a double loop in float64, and refused combinations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flow_models import D, binary_batch, pair_config, pair_model

from vae_jax.config import Config, choice, choices, override
from vae_jax.distributions import Deterministic, from_prior
from vae_jax.errors import InputError
from vae_jax.models.flows import AffineCouplings, AutoregressiveTransforms, FlowPrior, SplineCouplings
from vae_jax.models.learned_priors import LearnedPriorConfig, MixturePrior, VampPrior

LEARNED = {name for name, cls in choices("prior").items() if issubclass(cls, LearnedPriorConfig)}


def test_the_settings_are_those_of_the_modules():
    assert {"mixture", "vamp", "coupling", "spline", "autoregressive"} == LEARNED
    assert choice("prior", "mixture", components=3).build(2, (4,)) == MixturePrior(2, 3)
    assert choice("prior", "vamp", components=3, inputs="reals").build(2, (4,)) == VampPrior(3, (4,), "reals")
    found = choice("prior", "coupling", layers=3, hidden=(5,)).build(2, (4,))
    assert found == FlowPrior(2, AffineCouplings(2, 3, (5,)))
    found = choice("prior", "spline", layers=3, hidden=(5,), bins=4, bound=2.0, actnorm=True).build(2, (4,))
    assert found == FlowPrior(2, SplineCouplings(2, 3, (5,), 4, 2.0, actnorm=True), inverted=True)
    found = choice("prior", "autoregressive", layers=3, hidden=(5,), actnorm=True).build(2, (4,))
    assert found == FlowPrior(2, AutoregressiveTransforms(2, 3, (5,), actnorm=True), inverted=True)


@pytest.mark.parametrize(("inputs", "range_"), [("unit-interval", (0, 1)), ("reals", (-9, 9)), ("counts", (0, 9))])
def test_the_vamp_prior_is_the_mixture_of_the_posteriors_of_its_pseudo_inputs(inputs, range_):
    model, _, params = pair_model("vamp", "gaussian")
    model = model.clone(prior=VampPrior(40, model.shape, inputs))

    @jax.jit
    def evaluate(params):
        _, (latent,) = model.apply({"params": params}, from_prior(jax.random.key(0), 9), method="decode")
        raw = params["prior"]["pseudo_inputs"]
        maps = {"unit-interval": lambda x: 1 / (1 + jnp.exp(-x)), "reals": lambda x: x, "counts": jax.nn.softplus}
        x = maps[inputs](raw)
        return latent.z, latent.log_p, x, model.apply({"params": params}, {"x": x}, method="encode")

    z, log_p, pseudo_inputs, q = evaluate(params)
    assert np.all((pseudo_inputs > range_[0]) & (pseudo_inputs < range_[1]))
    expected = []
    for value in np.asarray(z, np.float64):
        total = 0.0
        for m, s in zip(np.asarray(q.loc, np.float64), np.asarray(q.log_scale, np.float64), strict=True):
            total += np.exp(sum(-0.5 * ((value - m) / np.exp(s)) ** 2 - s - 0.5 * np.log(2 * np.pi))) / 40
        expected.append(np.log(total))
    np.testing.assert_allclose(log_p, expected, rtol=1e-5, atol=1e-5)


def test_the_encoder_has_the_gradient_of_its_part_in_a_vamp_prior():
    model, _, params = pair_model("vamp", "gaussian")

    @jax.jit
    @jax.grad
    def gradient(params):
        _, (latent,) = model.apply({"params": params}, from_prior(jax.random.key(0), 9), method="decode")
        return jnp.mean(latent.prior.log_prob(jnp.ones((4, D))))

    found = gradient(params)
    for part in ("prior", "encoder", "posterior"):
        assert all(np.abs(leaf).max() > 1e-6 for leaf in jax.tree.leaves(found[part])), part
    assert np.abs(jax.tree.leaves(found["decoder"])[0]).max() == 0


@pytest.mark.fault
@pytest.mark.parametrize("prior", sorted(LEARNED))
def test_objectives_that_need_a_normal_prior_or_none_are_refused(prior):
    for objective, reason in {"info-vae": "in closed form for a", "reconstruction": "does not depend on p"}.items():
        with pytest.raises(InputError, match=rf"^prior={prior} must be standard-normal with objective={objective}, w"
                                             rf".*{reason}"):  # fmt: skip
            override(Config(), prior=prior, objective=objective)
    override(Config(), prior=prior, objective="free-bits")
    override(Config(), prior=prior, model="layered")
    override(Config(), prior=prior, objective="iwae", objective__num_samples=2, estimator="doubly-reparameterized")


@pytest.mark.fault
def test_settings_that_a_prior_does_not_support_are_refused():
    with pytest.raises(InputError, match=r"^prior=vamp must be another prior with posterior=iaf: a vamp is"):
        pair_config("vamp", "iaf")
    with pytest.raises(InputError, match=r"^prior\.inputs=reals must be unit-interval with preprocess=dynamic-bin"):
        override(Config(), prior="vamp", prior__inputs="reals")
    override(Config(), prior="vamp", prior__inputs="reals", preprocess="identity", likelihood="gaussian")
    for prior in ("coupling", "spline", "autoregressive"):
        with pytest.raises(InputError, match=r"^prior\.hidden=\(\) must be one width or more"):
            override(Config(), prior=prior, prior__hidden=())
    with pytest.raises(InputError, match=r"^prior\.bins=1 must be at least 2"):
        override(Config(), prior="spline", prior__bins=1)
    with pytest.raises(InputError, match=r"^prior\.components has no effect with prior=coupling"):
        override(Config(), prior="coupling", prior__components=3)
    module = VampPrior(3, (4,))
    with pytest.raises(InputError, match=r"^posterior is a Deterministic; with a VampPrior use one that is a Normal"):
        module.init(jax.random.key(0), Deterministic)


def test_the_mixture_starts_at_samples_of_the_standard_normal():
    _, params, _ = pair_model("mixture", "planar")
    assert {name: leaf.shape for name, leaf in params["prior"].items()} == {
        "logits": (5,), "loc": (5, D), "log_scale": (5, D),
    }  # fmt: skip
    assert len(np.unique(params["prior"]["loc"])) == 5 * D
    assert binary_batch()["x"].shape[1:] == (4, 4, 1)


def test_a_fit_to_codes_starts_a_mixture_at_the_first_of_them_and_other_priors_as_they_are():
    params = {"logits": jnp.zeros(3), "loc": jnp.zeros((3, D)), "log_scale": jnp.zeros((3, D))}
    codes = jnp.arange(1.0, 9.0).reshape(4, D)
    mixture = choice("prior", "mixture", components=3)
    started = mixture.start_from(params, codes)
    np.testing.assert_array_equal(started["loc"], codes[:3])
    assert started["log_scale"] is params["log_scale"]
    np.testing.assert_array_equal(mixture.start_from(params, codes[:2])["loc"], jnp.array([[1, 2], [3, 4], [0, 0]]))
    assert choice("prior", "coupling").start_from(params, codes) is params
