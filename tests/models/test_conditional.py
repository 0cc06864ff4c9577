"""The VAE given labels: its symmetries, its prior, examples without a label, and settings that it refuses."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jitted import init, sample_terms
from small_model import binary_images, small_model

from vae_jax.config import Config, override
from vae_jax.distributions import from_prior, from_values, label_mask
from vae_jax.errors import InputError
from vae_jax.inference import elbo
from vae_jax.models.conditional import ConditionalVAE

CLASSES = 3
SETTINGS = {"model": "conditional", "model__num_classes": CLASSES, "model__embedding": 4}
CONDITIONS = ("condition_encoder", "condition_prior", "condition_decoder")
KEY = jax.random.key(1)


def labelled(count=6, **arrays):
    return {"x": binary_images(count), "y": jnp.arange(count) % CLASSES} | arrays


@functools.cache
def conditional(**settings):
    """Return (model, params) away from the initial parameters, by default with all conditions."""
    return small_model(**SETTINGS, **settings)


@functools.cache
def bound_and_gradients():
    """Return a program (params, batch) -> bound of each example [B], gradient of each bound {name: [B, ...]}."""
    model, _ = conditional()

    def bounds(params, batch):
        return elbo(sample_terms(params, KEY, batch, model=model))

    return jax.jit(lambda params, batch: (bounds(params, batch), jax.jacrev(bounds)(params, batch)))


def test_permuted_classes_and_rows_of_the_embedding_have_permuted_results():
    _, params = conditional()
    batch, order = labelled(), np.array([2, 0, 1])
    bound, _ = bound_and_gradients()(params, batch)
    moved = params | {"class_embeddings": params["class_embeddings"][order]}
    new_label = jnp.asarray(np.argsort(order))  # row `order[i]` of the old table is row i of the new one
    same, _ = bound_and_gradients()(moved, batch | {"y": new_label[batch["y"]]})
    np.testing.assert_allclose(same, bound, rtol=1e-6)
    other, _ = bound_and_gradients()(moved, batch)
    assert np.abs(other - bound).min() > 1e-3


def test_the_gradient_of_an_example_reaches_the_embedding_of_its_class_alone_or_that_of_no_label():
    _, params = conditional()
    mask = jnp.array([True, True, True, True, False, False])
    batch = labelled(y=jnp.array([0, 1, 2, 0, 1, -1]), mask=mask)  # the label of a hidden example is not read
    bound, gradients = bound_and_gradients()(params, batch)
    assert np.isfinite(bound).all()
    reaches = np.abs(gradients["class_embeddings"]).max(axis=-1) > 1e-4  # [B, classes]
    np.testing.assert_array_equal(reaches, np.eye(3)[np.array([0, 1, 2, 0, 1, 1])] * mask[:, None])
    np.testing.assert_array_equal(np.abs(gradients["class_embeddings"])[4:], 0)
    np.testing.assert_array_equal(np.abs(gradients["no_label_embedding"]).max(axis=-1) > 1e-4, ~mask)


def test_a_batch_without_labels_is_one_of_hidden_labels_and_a_label_of_no_class_is_nan():
    model, params = conditional()
    hidden, _ = bound_and_gradients()(params, labelled(mask=jnp.zeros(6, bool)))
    np.testing.assert_allclose(elbo(sample_terms(params, KEY, binary_images(6), model=model)), hidden, rtol=1e-6)
    for y in (-1, CLASSES):
        bound, _ = bound_and_gradients()(params, labelled(y=jnp.full(6, y), mask=jnp.arange(6) < 2))
        np.testing.assert_array_equal(np.isnan(bound), np.arange(6) < 2)


@pytest.mark.parametrize("part", CONDITIONS)
def test_each_condition_makes_one_part_depend_on_the_label(part):
    model, params = conditional(**{f"model__{name}": name == part for name in CONDITIONS})

    @jax.jit
    def parts(y):
        batch = {"x": binary_images(1), "y": y}
        q = model.apply({"params": params}, batch, method="encode")
        p_x, (latent,) = model.apply(
            {"params": params}, from_values({"z": jnp.ones((1, 3))}), q, batch, method="decode"
        )
        return q.loc, jnp.broadcast_to(latent.prior.loc, (1, 3)), p_x.logits

    depends = [np.any(a != b) for a, b in zip(parts(jnp.array([0])), parts(jnp.array([1])), strict=True)]
    assert depends == [name == part for name in CONDITIONS]


def test_the_prior_starts_at_the_standard_normal_and_depends_on_the_label_afterwards():
    model, params = conditional()

    @jax.jit
    def prior(params):
        y = {"y": jnp.arange(CLASSES)}
        _, (latent,) = model.apply({"params": params}, from_prior(KEY, CLASSES), None, y, method="decode")
        return latent.prior

    initial = prior(init(model, jax.random.key(0), labelled())["params"])
    np.testing.assert_array_equal(initial.loc, np.zeros((CLASSES, 3)))
    np.testing.assert_array_equal(initial.log_scale, np.zeros((CLASSES, 3)))
    moved = prior(params)
    assert np.abs(moved.loc[0] - moved.loc[1]).min() > 1e-3
    assert np.abs(moved.log_scale[0] - moved.log_scale[1]).min() > 1e-3


def test_a_model_whose_parts_do_not_read_the_label_is_the_flat_vae():
    flat, params = small_model()
    fields = {name: getattr(flat, name) for name in ("encoder", "decoder", "posterior", "prior", "likelihood", "shape")}
    model = ConditionalVAE(**fields, num_classes=CLASSES, embedding=4, **dict.fromkeys(CONDITIONS, False))
    found, expected = (sample_terms(params, KEY, labelled(), model=m) for m in (model, flat))
    np.testing.assert_array_equal(elbo(found), elbo(expected))
    assert jax.tree.structure(init(model, jax.random.key(0), labelled())["params"]) == jax.tree.structure(params)


def test_a_mask_of_the_numbers_of_x_is_no_mask_of_labels():
    assert label_mask({"mask": np.ones((5, 4, 4, 1), bool)}) is None
    assert label_mask({}) is None
    assert label_mask({"mask": np.ones(5, bool)}).shape == (5,)


@pytest.mark.fault
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict.fromkeys((f"model__{name}" for name in CONDITIONS), False),
         "model.condition_decoder=False must be True with model=conditional, or another condition must"),
        ({"prior": "mixture"}, "prior=mixture must be standard-normal with model=conditional"),
        ({"network__tied": True}, "network.tied=True must be False with model=conditional"),
        ({"objective": "info-vae"}, "model.condition_prior=True must be False with objective=info-vae"),
        ({"objective": "reconstruction"}, "model.condition_prior=True must be False with objective=reconstruction"),
        ({"model__num_classes": 1}, "model.num_classes=1 must be at least 2"),
        ({"model": "vae", "train__label_dropout": 0.1},
         "train.label_dropout=0.1 has no effect with model=vae, which reads no labels; remove it or use"),
        ({"train__label_dropout": 1.0}, "train.label_dropout=1.0 must be at least 0 and less than 1"),
    ],
)  # fmt: skip
def test_settings_that_contradict_the_condition_are_refused(settings, message):
    with pytest.raises(InputError) as refused:
        override(Config(), **{"model": "conditional"} | settings)
    assert str(refused.value).startswith(message)


@pytest.mark.fault
def test_labels_of_another_kind_are_refused():
    model, params = conditional()
    with pytest.raises(InputError, match=r"^labels y have shape \[6, 3\] and dtype float32; pass integers \[B\]"):
        sample_terms(params, KEY, labelled(y=jnp.zeros((6, 3))), model=model)
