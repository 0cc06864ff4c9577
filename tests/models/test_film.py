"""Modulation of the layers of networks by a condition: its formula, and models of each network that has it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jitted import init, sample_terms
from small_model import binary_images, small_model

from vae_jax.config import Config, override
from vae_jax.distributions import from_values
from vae_jax.errors import InputError
from vae_jax.inference import elbo
from vae_jax.models.film import FiLM

KEY = jax.random.key(1)
FILM = {"model": "conditional", "model__num_classes": 3, "model__embedding": 4, "model__condition_by": "film"}
WIDTHS = {"mlp": (8,), "conv": (2, 3), "residual": (2,)}
NETWORKS = ["mlp", "conv", pytest.param("residual", marks=pytest.mark.thorough)]  # it has the modulations of conv


@functools.cache
def conditional(network):
    """Return (model, params) away from the initial parameters, with a p(z) without the condition."""
    return small_model(**FILM, network=network, model__condition_prior=False, network__hidden=WIDTHS[network])


def test_features_have_a_scale_and_a_shift_that_are_linear_in_the_condition():
    h, condition = jnp.arange(12.0).reshape(2, 3, 2), jnp.array([[1.0, 2], [0, 0], [3, -1]])
    kernel = jnp.array([[1.0, 0, 0, 2], [0, 0.5, 1, 0]])
    params = {"params": {"Dense_0": {"kernel": kernel, "bias": jnp.array([0.0, 1, 2, 3])}}}
    found = FiLM().apply(params, h, condition)
    for e, row in zip(np.asarray(condition), np.moveaxis(np.asarray(found), 1, 0), strict=True):
        both = e @ np.asarray(kernel) + [0, 1, 2, 3]
        index = int(np.flatnonzero((np.asarray(condition) == e).all(axis=1))[0])
        np.testing.assert_allclose(row, (1 + both[:2]) * np.asarray(h)[:, index] + both[2:], rtol=1e-6)
    initial = FiLM().init(KEY, h, condition)
    np.testing.assert_array_equal(FiLM().apply(initial, h, condition), h)
    assert FiLM().init(KEY, h, None) == {}
    assert FiLM().apply({}, h, None) is h


@pytest.mark.parametrize("network", NETWORKS)
def test_encoder_and_decoder_depend_on_the_condition_of_each_example_alone(network):
    model, params = conditional(network)
    x, z = binary_images(3), jax.random.normal(KEY, (3, 3, 3))  # as many samples as examples

    @jax.jit
    def parts(x, z, y):
        q = model.apply({"params": params}, {"x": x, "y": y}, method="encode")
        p_x, _ = model.apply({"params": params}, from_values({"z": z}), None, {"y": y}, method="decode")
        return q.loc, jnp.moveaxis(p_x.logits, -4, 0)

    y = jnp.array([0, 2, 1])
    together = parts(x, z, y)
    alone = [parts(x[i : i + 1], z[:, i : i + 1], y[i : i + 1]) for i in range(3)]
    for found, expected in zip(together, map(jnp.concatenate, zip(*alone, strict=True)), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    for found, other in zip(together, parts(x, z, y.at[1].set(0)), strict=True):
        differs = np.abs(found - other).reshape(3, -1).max(axis=1) > 1e-4
        assert differs.tolist() == [False, True, False]


@pytest.mark.parametrize("network", ["mlp", pytest.param("conv", marks=pytest.mark.thorough)])
def test_the_bound_starts_without_a_dependence_on_the_label_and_has_a_gradient_to_it(network):
    model, moved = conditional(network)
    batch = {"x": binary_images(4), "y": jnp.arange(4) % 3}
    initial = init(model, jax.random.key(0), batch)["params"]
    assert jax.tree.structure(initial) == jax.tree.structure(moved)
    bound = jax.jit(lambda params, batch: elbo(sample_terms(params, KEY, batch, model=model)))
    np.testing.assert_allclose(bound(initial, batch), bound(initial, {"x": batch["x"]}), rtol=1e-6)
    assert np.abs(bound(moved, batch) - bound(moved, {"x": batch["x"]})).max() > 1e-3
    gradients = jax.jit(jax.grad(lambda params: bound(params, batch).sum()))(moved)
    assert np.abs(gradients["class_embeddings"]).min() > 0


def test_one_condition_can_be_switched_off():
    _, params = small_model(**FILM, model__condition_encoder=False)
    assert {name: "modulations_0" in params[name] for name in ("encoder", "decoder")} == {
        "encoder": False, "decoder": True,
    }  # fmt: skip


@pytest.mark.fault
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"network__hidden": ()}, "network.hidden=() must be one or more widths with model.condition_by=film"),
        ({"model__condition_encoder": False, "model__condition_decoder": False},
         "model.condition_by=film must be concatenation if neither encoder nor decoder reads the condition"),
        ({"model__condition_by": "sum"}, "model.condition_by='sum' must be one of concatenation, film"),
    ],
)  # fmt: skip
def test_settings_without_layers_to_modulate_are_refused(settings, message):
    with pytest.raises(InputError) as refused:
        override(Config(), **FILM | settings)
    assert str(refused.value).startswith(message)
