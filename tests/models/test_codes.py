"""A VAE of integer codes: its bound against a sum over all grids, its gradient, its parts, and what it refuses."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from code_models import code_config
from jitted import init, loss_and_statistics

from vae_jax.distributions import from_means, from_posterior, from_prior, from_values
from vae_jax.errors import InputError
from vae_jax.inference import Pair, doubly_reparameterized, elbo, iwae, negative_bound, pathwise, sticking_the_landing
from vae_jax.models import build_model, init_params
from vae_jax.models.codes import straight_through

SHAPE = (4, 3, 1)
X = np.random.default_rng(0).integers(0, 2, (3, *SHAPE)).astype(np.float32)
GRIDS = np.array(list(itertools.product(range(4), repeat=2)), np.int32)  # all grids of two codes, each one of four


@pytest.fixture(scope="module")
def model():
    built = build_model(code_config(prior="categorical-codes"), SHAPE)
    params = init(built, jax.random.key(0), X)["params"]
    logits = np.random.default_rng(1).normal(size=(2, 4)).astype(np.float32)
    return built, params | {"prior": {"logits": logits}}


def test_the_value_of_straight_through_is_exact_and_its_gradient_is_that_of_the_argument():
    a = np.float32([0.1, -3e7, 1e-8])
    value = np.float32([1.0, 2.0, 1 / 3])
    found, gradient = jax.vjp(lambda v, a: straight_through(v, a), value, a)
    np.testing.assert_array_equal(found, value)
    of_value, of_a = gradient(jnp.asarray([1.0, 2.0, 3.0]))
    np.testing.assert_array_equal(of_value, np.zeros(3))
    np.testing.assert_array_equal(of_a, [1, 2, 3])


def test_the_bound_is_one_on_the_sum_over_all_codes(model):
    built, params = model

    @jax.jit
    def exact(params):
        draw = from_values({"z": jnp.broadcast_to(GRIDS[:, None], (16, 3, 2))})
        p_x, (latent,) = built.apply({"params": params}, draw, method="decode")
        return p_x.log_prob(jnp.asarray(X)) + latent.log_p, latent.log_p  # [16, 3]

    joint, log_p = exact(params)
    np.testing.assert_allclose(np.exp(log_p).sum(axis=0), 1, rtol=1e-5)
    evidence = jax.jit(lambda p: built.apply({"params": p}, {"x": X}, method="encode"))(params)
    chosen = (GRIDS[:, None] == np.asarray(evidence.posterior.indices)[None]).all(axis=-1)  # [16, 3]
    expected = np.asarray(joint)[chosen.T[:, :].nonzero()[1], np.arange(3)]
    for objective, samples in ((elbo, 1), (iwae, 2)):  # all samples are equal
        loss, metrics, _ = loss_and_statistics(
            params, jax.random.key(0), X, model=built, objective=objective, num_samples=samples
        )
        np.testing.assert_allclose(-loss, expected.mean(), rtol=1e-5)
    np.testing.assert_allclose(metrics["kl"], -np.asarray(log_p)[chosen.T.nonzero()[1], 0].mean(), rtol=1e-5)
    assert (expected <= jax.nn.logsumexp(joint, axis=0)).all()


def test_the_gradient_of_the_encoding_is_that_of_the_input_of_the_decoder(model):
    built, params = model
    evidence = built.apply({"params": params}, {"x": X}, method="encode")
    draw = from_posterior(jax.random.key(0), 3)

    def through_codes(encoding):
        changed = dataclasses.replace(evidence, encoding=encoding)
        p_x, _ = built.apply({"params": params}, draw, changed, method="decode")
        return jnp.sum(p_x.log_prob(X))

    def of_decoder(vectors):
        return jnp.sum(built.apply({"params": params}, vectors, method="_likelihood_of").log_prob(X))

    vectors = evidence.codebook.embed(evidence.posterior.indices)
    found, expected = jax.jit(lambda e, v: (jax.grad(through_codes)(e), jax.grad(of_decoder)(v)))(
        evidence.encoding, vectors.reshape(3, -1)
    )
    np.testing.assert_allclose(found.reshape(3, -1), expected, rtol=1e-6)
    assert np.abs(expected).max() > 1e-3


def test_every_parameter_has_a_gradient(model):
    built, params = model
    loss = lambda p: loss_and_statistics(p, jax.random.key(0), X, model=built, objective=elbo)[0]  # noqa: E731
    gradient = jax.jit(jax.grad(loss))(params)
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(gradient))


def test_walks_return_codes_and_decode_them(model):
    built, params = model
    apply = lambda *a, method: built.apply({"params": params}, *a, method=method)  # noqa: E731
    evidence = apply({"x": X}, method="encode")
    _, (means,) = apply(from_means(), evidence, method="decode")
    np.testing.assert_array_equal(means.z, evidence.posterior.indices)
    p_x, (latent,) = apply(from_prior(jax.random.key(0), 5), method="decode")
    assert (latent.z.shape, latent.z.dtype) == ((5, 2), jnp.int32)
    again, _ = apply(from_values({"z": latent.z}), method="decode")
    np.testing.assert_array_equal(again.logits, p_x.logits)
    with pytest.raises(
        InputError, match=r"^codes z have shape \[5, 2\] and dtype float32; pass integers \[\.\.\., 2\]"
    ):
        apply(from_values({"z": latent.z.astype(jnp.float32)}), method="decode")


def test_the_places_of_a_convolutional_encoder_have_a_code_each():
    settings = {"network": "conv", "network__hidden": (4, 6), "model__places": 0}
    built = build_model(code_config(**settings), (10, 7, 1))
    x = np.zeros((2, 10, 7, 1), np.float32)
    params = jax.eval_shape(lambda: init_params(built, jax.random.key(0), {"x": x}))["params"]
    assert params["posterior"]["projection"]["Dense_0"]["kernel"].shape == (6, 2)
    assert params["decoder"]["Dense_0"]["kernel"].shape == (2, 6)
    evidence = jax.eval_shape(lambda p: built.apply({"params": p}, {"x": x}, method="encode"), params)
    assert evidence.posterior.indices.shape == (2, 3 * 2)
    with pytest.raises(InputError, match=r"^model.places=0 must be greater than 0 with network=mlp"):
        build_model(code_config(model__places=0), SHAPE)


@pytest.mark.fault
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"posterior": "gaussian"}, r"^posterior=gaussian must be .*fsq.* with model=codes"),
        ({"prior": "standard-normal"}, r"^prior=standard-normal must be .*uniform-codes.* with model=codes"),
        ({"objective": "iwae", "objective__num_samples": 2}, r"^objective.num_samples=2 must be 1 with posterior=fsq"),
        (
            {"objective": "sampled-elbo", "estimator": "sticking-the-landing"},
            r"^estimator=sticking-the-landing must be p",
        ),
        (
            {"objective": "iwae", "estimator": "doubly-reparameterized"},
            r"^estimator=doubly-reparameterized must be path",
        ),
        (
            {"objective": "cubo"},
            r"^objective=cubo must be one with equal bounds for encoder and decoder with posterior=",
        ),
        ({"objective": "info-vae"}, r"^objective=info-vae must be another objective with model=codes"),
        ({"objective": "beta-tc"}, r"^objective=beta-tc must be another objective with model=codes"),
        ({"objective": "reconstruction", "prior": "categorical-codes"}, r"^prior=categorical-codes must be uniform-"),
    ],
)
def test_parts_that_do_not_fit_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        code_config(**settings)


@pytest.mark.fault
@pytest.mark.parametrize(
    ("objective", "estimator"),
    [(Pair(elbo, iwae), pathwise), (elbo, sticking_the_landing), (iwae, doubly_reparameterized)],
)
def test_estimators_that_would_drop_the_gradient_of_the_encoder_are_refused(model, objective, estimator):
    built, params = model
    with pytest.raises(InputError, match=r"^layer 'z' has integer samples, which have no gradient here; use estimator"):
        negative_bound(params, jax.random.key(0), {"x": X}, model=built, objective=objective, estimator=estimator)


@pytest.mark.fault
def test_other_models_refuse_codes():
    for settings in ({"prior": None}, {"posterior": None, "posterior__levels": None}):
        with pytest.raises(InputError, match=r"^model=vae must be codes with (posterior=fsq|prior=uniform-codes)$"):
            code_config(model="vae", model__places=None, **settings)
