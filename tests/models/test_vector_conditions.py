"""The VAE given vectors of numbers: its embedding, examples without a condition, and conditions that it refuses."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jitted import sample_terms
from small_model import binary_images, small_model

from vae_jax.config import Config, override
from vae_jax.distributions import from_prior
from vae_jax.errors import InputError
from vae_jax.inference import elbo

KEY, C = jax.random.key(1), jnp.array([[0.5, -1.0], [2.0, 0.0], [0.5, -1.0], [0.1, 0.2]])


@functools.cache
def conditional():
    """Return (model, params) away from the initial parameters."""
    return small_model(model="conditional-vector", model__condition_dim=2, model__embedding=4)


@functools.cache
def bounds():
    """Return a program (params, batch) -> bound of each example, [B]."""
    model, _ = conditional()
    return jax.jit(lambda params, batch: elbo(sample_terms(params, KEY, batch, model=model)))


def given(**arrays):
    return {"x": binary_images(4), "c": C} | arrays


def test_the_embedding_is_that_of_the_formula():
    model, params = conditional()
    first, second = params["condition_layers_0"], params["condition_layers_1"]
    h = np.asarray(C) @ np.asarray(first["kernel"]) + np.asarray(first["bias"])
    expected = h / (1 + np.exp(-h)) @ np.asarray(second["kernel"]) + np.asarray(second["bias"])
    found = model.apply({"params": params}, {"c": C}, method="embedding_of")
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_encoder_prior_and_decoder_depend_on_the_condition():
    model, params = conditional()

    def parts(c):
        q = model.apply({"params": params}, {"x": binary_images(1), "c": c}, method="encode")
        draw = from_prior(KEY, 1)
        p_x, (latent,) = model.apply({"params": params}, draw, None, {"c": c}, method="decode")
        return q.loc, latent.prior.loc, latent.prior.log_scale, p_x.logits

    for a, b in zip(parts(C[:1]), parts(C[1:2]), strict=True):
        assert np.abs(a - b).max() > 1e-3


def test_the_bound_of_an_example_depends_on_its_condition_alone():
    _, params = conditional()
    moved = bounds()(params, given(c=C.at[1].add(1.0)))
    assert (np.asarray(moved != bounds()(params, given()))).tolist() == [False, True, False, False]


def test_hidden_and_unknown_conditions_and_a_batch_without_them_have_the_same_bound():
    model, params = conditional()
    none = elbo(sample_terms(params, KEY, {"x": binary_images(4)}, model=model))
    known = bounds()(params, given())
    assert np.abs(known - none).min() > 1e-3
    hidden = bounds()(params, given(mask=jnp.array([True, False, True, False])))
    unknown = bounds()(params, given(c=C.at[1::2, 1].set(jnp.nan)))
    expected = jnp.stack([known[0], none[1], known[2], none[3]])
    np.testing.assert_allclose(hidden, expected, rtol=1e-6)
    np.testing.assert_allclose(unknown, expected, rtol=1e-6)


def test_the_gradient_is_finite_next_to_unknown_conditions():
    model, params = conditional()
    batch = given(c=C.at[1].set(jnp.nan))
    gradients = jax.jit(jax.grad(lambda p: elbo(sample_terms(p, KEY, batch, model=model)).sum()))(params)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))
    assert np.abs(gradients["no_condition_embedding"]).min() > 0
    assert np.abs(gradients["condition_layers_0"]["kernel"]).max() > 0


@pytest.mark.fault
def test_conditions_of_another_kind_are_refused():
    model, params = conditional()
    for c, found in ((C[:, :1], r"\[4, 1\] and dtype float32"), (C.astype(int), r"\[4, 2\] and dtype int32")):
        with pytest.raises(InputError, match=rf"^conditions c have shape {found}; pass floats \[B, 2\]"):
            sample_terms(params, KEY, given(c=c), model=model)


@pytest.mark.fault
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model__condition_dim": 0}, "model.condition_dim=0 must be greater than 0"),
        ({"data__labelled": 10}, "data.labelled=10 has no effect with model=conditional-vector, which reads no labels"),
        ({"evaluation__class_samples": 5}, "evaluation.class_samples=5 has no effect with model=conditional-vector"),
        ({"prior": "mixture"}, "prior=mixture must be standard-normal with model=conditional-vector"),
    ],
)
def test_settings_of_labels_are_refused(settings, message):
    with pytest.raises(InputError) as refused:
        override(Config(), **{"model": "conditional-vector"} | settings)
    assert str(refused.value).startswith(message)


def test_conditions_can_be_hidden_in_training():
    assert override(Config(), model="conditional-vector", train__label_dropout=0.1).train.label_dropout == 0.1
