"""The exact sum over an unknown label: against float64, against the walks given each class, and its identities."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jitted import loss_and_statistics, sample_terms
from scipy.special import log_softmax, logsumexp
from small_model import binary_images, small_model

from vae_jax.distributions import Variables
from vae_jax.errors import InputError
from vae_jax.inference import (
    Annealing,
    PosteriorOptimization,
    annealed_log_likelihood,
    bound_parts,
    elbo,
    inference_gap,
    iwae,
)
from vae_jax.inference.labels import Bounds, label_weights, sum_over_labels
from vae_jax.inference.likelihood import importance_estimate

B, CLASSES, ALPHA = 6, 3, 7.0
KEY = jax.random.key(1)
Y, MASK = np.array([0, 1, 2, 0, 1, 2]), np.array([True, True, False, False, True, False])


def numbers():
    """Return bounds given each class [C, B] and log q(y|x) [B, C], as far from each other as in training."""
    rng = np.random.default_rng(0)
    return rng.normal(-90, 5, (CLASSES, B)), log_softmax(rng.normal(0, 3, (B, CLASSES)), axis=1)


@jax.jit
def summed(bounds, log_q, batch):
    parts = {"reconstruction": bounds + 1}
    return sum_over_labels(Bounds(bounds, parts, bounds - 2), log_q, batch, classifier_weight=ALPHA)


def as_float32(array):
    return jnp.asarray(array, jnp.float32)


def labelled(**arrays):
    return {"x": binary_images(B), "y": jnp.asarray(Y), "mask": jnp.asarray(MASK)} | arrays


@functools.cache
def m2(**settings):
    return small_model(model="m2", model__num_classes=CLASSES, model__embedding=4, model__classifier_weight=ALPHA,
                       **settings)  # fmt: skip


@functools.cache
def losses():
    """Return a program (params, batch) -> (loss, metrics), gradient."""
    model, _ = m2()

    def loss(params, batch):
        return loss_and_statistics(params, KEY, batch, model=model, objective=elbo)[:2]

    return jax.jit(jax.value_and_grad(loss, has_aux=True))


def test_the_sum_is_that_of_float64():
    bounds, log_q = numbers()
    q = np.exp(log_q)
    expected = {"bound": [], "label_kl": [], "classifier_loss": [], "reconstruction": []}
    for i in range(B):
        if MASK[i]:
            expected["bound"].append(bounds[Y[i], i] - np.log(CLASSES))
            expected["label_kl"].append(np.log(CLASSES))
            expected["classifier_loss"].append(-ALPHA * log_q[i, Y[i]])
            expected["reconstruction"].append(bounds[Y[i], i] + 1)
        else:
            terms = [q[i, c] * (bounds[c, i] - np.log(CLASSES) - log_q[i, c]) for c in range(CLASSES)]
            expected["bound"].append(sum(terms))
            expected["label_kl"].append(sum(q[i] * (log_q[i] + np.log(CLASSES))))
            expected["classifier_loss"].append(0)
            expected["reconstruction"].append(sum(q[i] * (bounds[:, i] + 1)))
    found = summed(as_float32(bounds), as_float32(log_q), {"y": Y, "mask": MASK})
    for name, values in expected.items():
        np.testing.assert_allclose(found.bound if name == "bound" else found.parts[name], values, rtol=2e-6, atol=1e-5)
    np.testing.assert_allclose(found.penalty, np.array(expected["reconstruction"]) - 3, rtol=2e-6)


def test_the_bound_is_log_p_x_where_the_bounds_and_the_classifier_are_exact():
    bounds, _ = numbers()
    posterior = log_softmax(bounds.T, axis=1)
    found = summed(as_float32(bounds), as_float32(posterior), {})
    np.testing.assert_allclose(found.bound, logsumexp(bounds, axis=0) - np.log(CLASSES), rtol=2e-6)
    other = summed(as_float32(bounds), as_float32(numbers()[1]), {})
    assert (other.bound < found.bound - 0.01).all()


def test_labels_are_known_unless_there_is_a_mask_of_them():
    _, log_q = numbers()
    find = jax.jit(label_weights)
    one_hot = np.eye(CLASSES)[Y].T
    np.testing.assert_array_equal(find(as_float32(log_q), {"y": Y})[0], one_hot)
    pixels = np.ones((B, 4, 4, 1), bool)
    np.testing.assert_array_equal(find(as_float32(log_q), {"y": Y, "mask": pixels})[0], one_hot)
    np.testing.assert_allclose(find(as_float32(log_q), {"mask": MASK})[0], np.exp(log_q).T, rtol=1e-5)


def test_a_label_that_is_no_class_is_nan_where_it_is_known():
    bounds, log_q = map(as_float32, numbers())
    for y in (-1, CLASSES):
        found = summed(bounds, log_q, {"y": np.full(B, y), "mask": MASK})
        np.testing.assert_array_equal(np.isnan(found.bound), MASK)


def test_the_loss_is_the_sum_of_the_walks_given_each_class():
    model, params = m2()
    batch = labelled()
    (loss, metrics), _ = losses()(params, batch)
    walks = [sample_terms(params, KEY, {"x": batch["x"], "y": jnp.full(B, c)}, model=model) for c in range(CLASSES)]
    bounds = np.stack([np.asarray(elbo(terms), np.float64) for terms in walks])
    logits = jax.jit(lambda p: model.apply({"params": p}, batch, {}, method="classify").logits)(params)
    log_q = log_softmax(np.asarray(logits, np.float64), axis=1)
    assert np.abs(log_q - log_q.mean()).max() > 0.01
    q = np.where(MASK[:, None], np.eye(CLASSES)[Y], np.exp(log_q))
    kl = np.where(MASK, np.log(CLASSES), (np.exp(log_q) * (log_q + np.log(CLASSES))).sum(1))
    np.testing.assert_allclose(metrics["bound"], np.mean((q.T * bounds).sum(0) - kl), rtol=1e-5)
    cross_entropy = -(log_q[np.arange(B), Y] * MASK).mean()
    np.testing.assert_allclose(metrics["classifier_loss"], ALPHA * cross_entropy, rtol=1e-5)
    np.testing.assert_allclose(loss, metrics["classifier_loss"] - metrics["bound"], rtol=1e-6)
    kl_z = np.mean((q.T * np.stack([bound_parts(terms)["kl"] for terms in walks])).sum(0))
    np.testing.assert_allclose(metrics["kl"], kl_z, rtol=1e-4)


def test_with_all_labels_the_loss_is_that_of_the_conditional_model_and_of_the_classifier():
    _, params = m2()
    (loss, metrics), gradient = losses()(params, labelled(mask=jnp.ones(B, bool)))
    conditional, _ = small_model(model="conditional", model__num_classes=CLASSES, model__embedding=4,
                                 model__condition_prior=False)  # fmt: skip
    shared = {name: value for name, value in params.items() if not name.startswith("class_l") and name != "classifier"}
    shared["no_label_embedding"] = jnp.zeros(4)

    @jax.jit
    def given_labels(params):
        return loss_and_statistics(params, KEY, labelled(mask=jnp.ones(B, bool)), model=conditional, objective=elbo)[0]

    value, expected = jax.value_and_grad(given_labels)(shared)
    np.testing.assert_allclose(loss, value + np.log(CLASSES) + metrics["classifier_loss"], rtol=1e-6)
    for name in ("encoder", "decoder", "posterior", "class_embeddings", "output_bias"):
        jax.tree.map(
            functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5), gradient[name], expected[name]
        )


def test_a_masked_label_has_no_effect_on_loss_and_gradient():
    _, params = m2()
    first = losses()(params, labelled())
    second = losses()(params, labelled(y=jnp.asarray(np.where(MASK, Y, -5))))
    jax.tree.map(np.testing.assert_array_equal, first, second)
    other = losses()(params, labelled(y=jnp.asarray(np.where(MASK, 2 - Y, Y))))
    assert abs(other[0][0] - first[0][0]) > 0.01


def test_permuted_classes_have_permuted_results():
    _, params = m2()
    order = np.array([2, 0, 1])
    logits = {"kernel": params["class_logits"]["kernel"][:, order], "bias": params["class_logits"]["bias"][order]}
    moved = params | {"class_embeddings": params["class_embeddings"][order], "class_logits": logits}
    (loss, metrics), _ = losses()(params, labelled())
    (same, parts), _ = losses()(moved, labelled(y=jnp.asarray(np.argsort(order)[Y])))
    np.testing.assert_allclose(same, loss, rtol=1e-6)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5), parts, metrics)


def test_the_bound_given_a_class_can_be_of_any_objective():
    model, params = m2()
    terms = sample_terms(params, KEY, labelled(mask=jnp.ones(B, bool)), model=model, num_samples=4)
    _, metrics, _ = loss_and_statistics(params, KEY, labelled(mask=jnp.ones(B, bool)), model=model, objective=iwae,
                                        num_samples=4)  # fmt: skip
    np.testing.assert_allclose(metrics["bound"], np.mean(iwae(terms)) - np.log(CLASSES), rtol=1e-5)


@pytest.mark.fault
def test_statistics_of_a_model_with_a_classifier_are_refused():
    model, params = m2()
    with pytest.raises(ValueError, match=r"^model has a method classify and statistics; use layers without"):
        loss_and_statistics(Variables(params, {"averages": {}}), KEY, labelled(), model=model, objective=elbo)


@pytest.mark.parametrize("y", [Y + 0.5, Y[:, None], np.eye(CLASSES)[Y]])
def test_labels_of_another_type_or_shape_are_refused(y):
    with pytest.raises(InputError, match="labels y have shape"):
        label_weights(jnp.asarray(numbers()[1]), {"y": jnp.asarray(y)})


@pytest.mark.parametrize(
    "estimate",
    [
        functools.partial(importance_estimate, num_samples=2, chunk=2),
        functools.partial(annealed_log_likelihood, settings=Annealing(2)),
        functools.partial(inference_gap, settings=PosteriorOptimization()),
    ],
)
def test_the_likelihood_of_examples_without_labels_is_refused(estimate):
    model, params = small_model(model="m2", model__num_classes=CLASSES)
    with pytest.raises(InputError, match="no labels y"):
        estimate(params, KEY, {"x": binary_images(2)}, model=model)
