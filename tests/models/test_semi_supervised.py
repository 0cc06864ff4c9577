"""The VAE with a classifier: examples without a label, and settings that it refuses."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_model import binary_images, small_model

from vae_jax.config import Config, override
from vae_jax.distributions import from_prior
from vae_jax.errors import InputError
from vae_jax.inference import classify

CLASSES = 3


@functools.cache
def m2(**settings):
    return small_model(model="m2", model__num_classes=CLASSES, model__embedding=4, **settings)


@functools.partial(jax.jit, static_argnums=0)
def posterior_means(model, params, batch):
    return model.apply({"params": params}, batch, method="encode").loc


def test_an_example_without_a_label_has_the_mean_embedding_under_the_classifier():
    model, params = m2()
    batch = {"x": binary_images(3), "y": jnp.array([0, 1, -1]), "mask": jnp.array([True, False, False])}
    q = np.exp(jax.jit(functools.partial(classify, model=model))(params, batch))
    np.testing.assert_allclose(q.sum(axis=1), 1, rtol=1e-6)
    mean = jnp.asarray(q @ params["class_embeddings"])
    given = params | {"class_embeddings": jnp.concatenate([params["class_embeddings"][:1], mean[1:]])}
    same = posterior_means(model, given, {"x": batch["x"], "y": jnp.array([0, 1, 2])})
    np.testing.assert_allclose(posterior_means(model, params, batch), same, rtol=1e-5)
    without = posterior_means(model, params, {"x": batch["x"]})
    np.testing.assert_allclose(without[1:], same[1:], rtol=1e-5)
    assert np.abs(without[0] - same[0]).max() > 1e-4


def test_a_sample_without_a_label_has_the_mean_embedding_of_the_classes():
    model, params = m2()

    @jax.jit
    def logits(params, batch):
        return model.apply({"params": params}, from_prior(jax.random.key(0), 2), None, batch, method="decode")[0].logits

    mean = params | {"class_embeddings": jnp.tile(jnp.mean(params["class_embeddings"], axis=0), (CLASSES, 1))}
    np.testing.assert_allclose(logits(params, {}), logits(mean, {"y": jnp.array([0, 2])}), rtol=1e-5)


def test_the_prior_is_standard_normal_unless_it_is_given_the_label():
    model, params = m2(model__condition_prior=True)
    assert "prior" in params
    assert "prior" not in m2()[1]
    assert model.condition_prior


@pytest.mark.fault
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model": "vae", "data__labelled": 100}, "data.labelled=100 has no effect with model=vae, which reads no"),
        ({"data__labelled": 99}, "data.labelled=99 must be a multiple of model.num_classes=10, for example 90"),
        ({"data__labelled": 5}, "data.labelled=5 must be a multiple of model.num_classes=10, for example 10"),
        ({"data__labelled_draw": 1}, "data.labelled_draw=1 has no effect with data.labelled=0; remove it or set"),
        ({"train__labelled_share": 0.2}, "train.labelled_share=0.2 has no effect with data.labelled=0; remove it"),
        ({"train__labelled_share": 1.0}, "train.labelled_share=1.0 must be greater than 0 and less than 1"),
        (
            {"data__labelled": 100, "data__streaming": "always"},
            "data.labelled=100 must be 0 with data.streaming=always",
        ),
        ({"data__labelled": 100, "train__batch_size": 1}, "train.batch_size=1 must be 2 or more with data.labelled"),
        ({"objective": "beta-tc"}, "objective=beta-tc must be another objective with model=m2: it compares the codes"),
        ({"prior": "mixture"}, "prior=mixture must be standard-normal with model=m2"),
        ({"model__classifier_weight": -1.0}, "model.classifier_weight=-1.0 must be at least 0"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings, message):
    with pytest.raises(InputError) as refused:
        override(Config(), **{"model": "m2"} | settings)
    assert str(refused.value).startswith(message)
