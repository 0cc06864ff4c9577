"""Six families of models under unchanged objectives, estimators and drawers: see `families`."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from families import FAMILIES, NUM_BLOCKS, SIZE, Ladder, LoopLadder, batch_for

import vae_jax
from vae_jax import random
from vae_jax.config import TrainConfig, choice, choices
from vae_jax.distributions import from_means, from_prior, from_values
from vae_jax.inference import (
    Pair,
    decode,
    elbo,
    encode,
    iwae,
    log_likelihood,
    negative_bound,
    sample_terms,
    sampled_elbo,
)
from vae_jax.runs import StopWhen, recording_callbacks

KEY = jax.random.key(0)
B, K = 5, 4

of_each_family = pytest.mark.parametrize("name", FAMILIES)


@functools.cache
def parts(name):
    """Return (model, parameters, batch) of a family; all parameters, biases included, are random."""
    model = FAMILIES[name]
    batch = batch_for(model, B)
    leaves, tree = jax.tree.flatten(jax.jit(model.init)(jax.random.key(1), batch)["params"])
    keys = jax.random.split(jax.random.key(2), len(leaves))
    leaves = [leaf + 0.2 * jax.random.normal(key, leaf.shape) for key, leaf in zip(keys, leaves, strict=True)]
    return model, jax.tree.unflatten(tree, leaves), batch


def labels_of(batch):
    return {name: values for name, values in batch.items() if name != "x"}


def rows(batch, first, last):
    return {name: values[first:last] for name, values in batch.items()}


def assert_close(found, expected, rtol=1e-4, atol=1e-5):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=atol), found, expected)


@functools.partial(jax.jit, static_argnames=("model", "objective", "estimator", "num_samples"))
def loss_and_gradient(params, key, batch, *, model, objective, estimator="pathwise", num_samples=K):
    settings = {"objective": objective, "estimator": choice("estimator", estimator).build(), "num_samples": num_samples}
    loss = functools.partial(negative_bound, model=model, **settings)
    return jax.value_and_grad(loss, has_aux=True)(params, key, batch)


@functools.partial(jax.jit, static_argnames=("model", "num_samples"))
def terms_of(params, key, batch, *, model, num_samples=K):
    return sample_terms(params, key, batch, model=model, num_samples=num_samples)


def bounds(params, key, batch, *, model, objective, num_samples=K):
    return objective(terms_of(params, key, batch, model=model, num_samples=num_samples))  # [B]


@pytest.mark.parametrize("objective", [elbo, iwae])
@of_each_family
def test_the_loss_is_finite_and_reaches_every_parameter(name, objective):
    model, params, batch = parts(name)
    (loss, metrics), gradient = loss_and_gradient(params, KEY, batch, model=model, objective=objective)
    penalty = metrics.get("penalty", 0)
    assert np.isfinite(loss)
    assert float(loss) == pytest.approx(float(penalty - metrics["bound"]))
    assert (penalty > 0) == (name == "quantizer")
    for path, leaf in jax.tree.leaves_with_path(gradient):
        blocks = leaf if path[0].key == "blocks" else leaf[None]
        for i, values in enumerate(blocks):
            assert np.isfinite(values).all(), (path, i)
            assert np.abs(values).max() > 1e-5, (path, i)


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("objective", "estimator"),
    [
        (iwae, "sticking-the-landing"),
        (iwae, "doubly-reparameterized"),
        (Pair(iwae, sampled_elbo), "doubly-reparameterized"),
    ],
)
@of_each_family
def test_estimators_and_pairs_change_no_value(name, objective, estimator):
    model, params, batch = parts(name)
    (expected, metrics), _ = loss_and_gradient(params, KEY, batch, model=model, objective=iwae)
    (loss, found), _ = loss_and_gradient(params, KEY, batch, model=model, objective=objective, estimator=estimator)
    assert float(loss) == pytest.approx(float(expected), rel=1e-5)
    assert found.keys() == metrics.keys()


@of_each_family
def test_samples_of_the_prior_have_the_shape_of_the_data_and_encode_no_data(name):
    model, params, batch = parts(name)
    encoded = []

    def record(call, args, kwargs, context):
        if context.method_name == "encode":
            encoded.append(args[0]["x"].shape)
        return call(*args, **kwargs)

    with nn.intercept_methods(record):
        p_x, latents = decode(params, from_prior(KEY, B), None, labels_of(batch), model=model)
    assert encoded == ([params["pseudo_inputs"].shape] if name == "vamp" else [])
    assert p_x.sample(random.example_keys(KEY, B)).shape == batch["x"].shape
    for latent in latents.values():
        assert latent.log_p.shape == ((NUM_BLOCKS, B) if latent.name == "blocks" else (B,))
        assert np.isfinite(latent.log_p).all()
        assert latent.log_q is None


@of_each_family
def test_means_of_the_posterior_are_decoded(name):
    model, params, batch = parts(name)
    evidence = encode(params, batch, model=model)
    p_x, latents = decode(params, from_means(), evidence, batch, model=model)
    assert p_x.mean().shape == batch["x"].shape
    assert_close(p_x.mean(), model.apply({"params": params}, batch).mean())
    values = {layer: latent.z for layer, latent in latents.items()}
    again, given = decode(params, from_values(values), None, batch, model=model)
    assert_close(again.mean(), p_x.mean())
    assert_close({layer: latent.log_p for layer, latent in given.items()}, {l.name: l.log_p for l in latents.values()})


@of_each_family
def test_log_likelihoods_do_not_depend_on_the_chunk_and_exceed_the_elbo(name):
    model, params, batch = parts(name)
    estimate = jax.jit(functools.partial(log_likelihood, model=model, num_samples=50), static_argnames="chunk")
    value, size = estimate(params, KEY, batch, chunk=50)
    assert_close(estimate(params, KEY, batch, chunk=7), (value, size), rtol=1e-3)
    assert value.shape == (B,)
    assert np.isfinite(value).all()
    assert (size > 1 - 1e-4).all()
    assert (size < 50 + 1e-2).all()
    if name == "quantizer":  # all samples are equal
        assert_close(value, bounds(params, KEY, batch, model=model, objective=elbo))
    else:
        assert (value > bounds(params, KEY, batch, model=model, objective=sampled_elbo, num_samples=50)).all()


@of_each_family
def test_the_value_of_an_example_depends_on_its_position_and_not_on_its_batch(name):
    model, params, batch = parts(name)
    complete = bounds(params, KEY, batch, model=model, objective=iwae)
    assert_close(bounds(params, KEY, batch, model=model, objective=iwae), complete, rtol=0, atol=0)
    keys = random.example_keys(KEY, 3, first=2)
    assert_close(bounds(params, keys, rows(batch, 2, 5), model=model, objective=iwae), complete[2:5])
    if name != "quantizer":  # whose posterior is not random
        moved = bounds(params, random.example_keys(KEY, B, first=1), batch, model=model, objective=iwae)
        assert (np.abs(moved - complete) > 1e-4).all()


@of_each_family
def test_a_sample_of_the_prior_depends_on_its_position_and_not_on_its_batch(name):
    model, params, batch = parts(name)
    complete, _ = decode(params, from_prior(KEY, B), None, labels_of(batch), model=model)
    keys, labels = random.example_keys(KEY, 3, first=2), labels_of(rows(batch, 2, 5))
    part, _ = decode(params, from_prior(keys, 3), None, labels, model=model)
    assert_close(part.mean(), complete.mean()[2:5])


def loop_parameters(params):
    blocks = {f"blocks_{i}": jax.tree.map(lambda leaf, i=i: leaf[i], params["blocks"]) for i in range(NUM_BLOCKS)}
    return {name: leaf for name, leaf in params.items() if name != "blocks"} | blocks


def test_a_ladder_under_scan_equals_its_blocks_in_a_loop():
    model, params, batch = parts("ladder")
    scanned = terms_of(params, KEY, batch, model=model)
    looped = terms_of(loop_parameters(params), KEY, batch, model=LoopLadder())
    assert_close(scanned, looped)
    blocks = scanned.latents[1]
    assert blocks.z.shape == (NUM_BLOCKS, K, B, SIZE)
    assert scanned.kl.shape == (1 + NUM_BLOCKS, B)
    assert (np.asarray(scanned.kl) > 0).all()
    noise = (blocks.z - blocks.posterior.mean()) / blocks.posterior.stddev()
    assert len(np.unique(np.round(noise, 3))) > 0.9 * noise.size  # the blocks share no noise
    samples, _ = decode(params, from_prior(KEY, B), model=model)
    expected, _ = decode(loop_parameters(params), from_prior(KEY, B), model=LoopLadder())
    assert_close(samples.mean(), expected.mean())


@pytest.mark.thorough
@pytest.mark.parametrize("estimator", list(choices("estimator")))
def test_gradients_of_a_ladder_equal_those_without_scan_and_those_without_remat(estimator):
    model, params, batch = parts("ladder")
    gradient = functools.partial(loss_and_gradient, key=KEY, batch=batch, objective=iwae, estimator=estimator)
    _, found = gradient(params, model=model)
    _, without_remat = gradient(params, model=Ladder(remat=False))
    assert_close(found, without_remat)
    _, without_scan = gradient(loop_parameters(params), model=LoopLadder())
    assert_close(loop_parameters(found), without_scan)


@pytest.mark.thorough
def test_the_gradient_of_a_ladder_is_the_mean_of_those_of_the_examples():
    """There are as many samples and examples as blocks, so their axes cannot be distinguished by length."""
    model, params, batch = parts("ladder")
    settings = {"model": model, "objective": iwae, "estimator": "doubly-reparameterized", "num_samples": NUM_BLOCKS}
    keys, batch = random.example_keys(KEY, NUM_BLOCKS), rows(batch, 0, NUM_BLOCKS)
    _, found = loss_and_gradient(params, keys, batch, **settings)
    single = [
        loss_and_gradient(params, keys[i : i + 1], rows(batch, i, i + 1), **settings)[1] for i in range(NUM_BLOCKS)
    ]
    assert_close(found, jax.tree.map(lambda *leaves: sum(leaves) / NUM_BLOCKS, *single))


def test_the_blocks_of_a_ladder_are_recomputed():
    def program(model):
        return str(jax.make_jaxpr(functools.partial(terms_of, model=model))(params, KEY, batch))

    model, params, batch = parts("ladder")
    assert "remat" in program(model)
    assert "remat" not in program(Ladder(remat=False))


def test_the_density_of_a_flow_agrees_with_its_inverse_and_its_jacobian():
    model, params, batch = parts("flow")
    q = encode(params, batch, model=model)
    z, log_q = q.sample_and_log_prob(KEY, (K,))
    np.testing.assert_allclose(q.log_prob(z), log_q, rtol=1e-4, atol=1e-4)
    e = q.base.sample(KEY, (K,))
    jacobian = jax.vmap(jax.vmap(jax.jacfwd(lambda e: q.forward(e)[0])))(e)  # [K, B, D, D]
    expected = q.base.log_prob(e) - jnp.linalg.slogdet(jacobian)[1]
    np.testing.assert_allclose(log_q, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("objective", [elbo, Pair(elbo, iwae)])
@pytest.mark.parametrize("estimator", list(choices("estimator")))
def test_the_codebook_has_the_gradient_of_its_penalty_alone(objective, estimator):
    model, params, batch = parts("quantizer")

    def penalty(params):
        return jnp.mean(sample_terms(params, KEY, batch, model=model).penalty)

    settings = {"model": model, "objective": objective, "estimator": estimator}
    _, found = loss_and_gradient(params, KEY, batch, **settings)
    expected = jax.grad(penalty)(params)
    assert np.abs(expected["codebook"]).max() > 0.1
    np.testing.assert_allclose(found["codebook"], expected["codebook"], rtol=1e-4, atol=1e-5)
    assert np.abs(found["code"]["kernel"] - expected["code"]["kernel"]).max() > 0.01  # the straight-through part


def test_the_density_of_a_known_label_is_that_of_the_label():
    model, params, batch = parts("partly labelled")
    y = terms_of(params, KEY, batch, model=model).latents[0]
    known = np.asarray(batch["mask"])
    np.testing.assert_array_equal(y.z[:, known], np.tile(batch["y"][known], (K, 1)))
    np.testing.assert_array_equal(y.log_q[:, known], 0)
    assert (y.log_q[:, ~known] < 0).all()
    np.testing.assert_allclose(y.log_p, jax.nn.log_sigmoid((2 * y.z - 1) * params["label_logit"]), rtol=1e-5)


@pytest.mark.parametrize("objective", [elbo, iwae])
def test_an_example_with_a_known_label_has_no_gradient_to_the_classifier(objective):
    model, params, batch = parts("partly labelled")
    derivative = jax.jacrev(functools.partial(bounds, key=KEY, batch=batch, model=model, objective=objective))(params)
    for leaf in jax.tree.leaves(derivative["classifier"]):  # [B, ...]
        size = np.abs(leaf).reshape(B, -1).max(axis=1)
        np.testing.assert_array_equal(size > 1e-6, ~np.asarray(batch["mask"]))
        np.testing.assert_array_equal(size[np.asarray(batch["mask"])], 0)
    assert (np.abs(derivative["code"]["kernel"]).reshape(B, -1).max(axis=1) > 1e-6).all()


def test_a_known_label_has_the_same_value_as_a_given_one():
    """log p(x, y | z) - log q(z | x, y) of known labels equals the weights of the same values without a mask."""
    model, params, batch = parts("partly labelled")
    known = batch | {"mask": jnp.ones(B, bool)}
    terms = terms_of(params, KEY, known, model=model)
    values = {latent.name: latent.z for latent in terms.latents}
    evidence = encode(params, batch, model=model)
    p_x, given = decode(params, from_values(values, with_posterior=True), evidence, {"x": batch["x"]}, model=model)
    np.testing.assert_allclose(terms.log_px_z, p_x.log_prob(batch["x"]), rtol=1e-5)
    np.testing.assert_allclose(terms.log_qz, given["z"].log_q, rtol=1e-5)
    np.testing.assert_allclose(terms.log_pz, given["y"].log_p + given["z"].log_p, rtol=1e-5)


def as_the_model_reads(key, batch):
    """The preprocessing of all families: floats, with one-hot labels for `Conditional`."""
    del key
    x = batch["x"].astype(jnp.float32)
    inputs = {"x": (x / 255 > 0.5).astype(jnp.float32) if batch["x"].dtype == jnp.uint8 else x}
    if "mask" in batch:
        return inputs | {"y": batch["y"].astype(jnp.float32), "mask": batch["mask"]}
    return inputs | ({"y": jax.nn.one_hot(batch["y"], 3)} if "y" in batch else {})


def family_experiment(name):
    """Return an experiment on the data of a family, repeated to 140 examples, with labels where it reads them."""
    model = FAMILIES[name]
    arrays = {key: np.tile(np.asarray(values), (20,) + (1,) * (values.ndim - 1)) for key, values in
              batch_for(model, 7).items()}  # fmt: skip
    if "y" in arrays:
        arrays["y"] = (arrays["y"].argmax(-1) if arrays["y"].ndim > 1 else arrays["y"]).astype(np.int32)
    training = TrainConfig(steps=12, batch_size=16, log_every=4, evaluate_every=8, save_every=4)
    evaluation = vae_jax.EvaluationConfig(num_samples=10, batch_size=16)
    source = vae_jax.from_arrays(**arrays)
    return vae_jax.Experiment(
        model, source, iwae, optax.adam(1e-2), as_the_model_reads, num_samples=2, training=training,
        evaluation=evaluation,
    )  # fmt: skip


@pytest.mark.parametrize("name", [pytest.param("ladder", marks=pytest.mark.thorough), "partly labelled"])
def test_a_family_is_trained_resumed_and_evaluated_like_any_model(name, tmp_path):
    experiment = family_experiment(name)
    complete = vae_jax.fit(experiment, tmp_path / "complete", callbacks=recording_callbacks())
    calls = iter([False, True])  # interrupted after the first dispatch
    callbacks = [StopWhen(lambda: next(calls)), *recording_callbacks()]
    assert vae_jax.fit(experiment, tmp_path / "parts", callbacks=callbacks).status == "interrupted"
    resumed = vae_jax.fit(experiment, tmp_path / "parts", callbacks=recording_callbacks())
    assert (resumed.resumed_from, resumed.step, resumed.status) == (4, 12, "done")
    jax.tree.map(np.testing.assert_array_equal, resumed.params, complete.params)
    logs = [(tmp_path / part / "metrics.jsonl").read_bytes() for part in ("complete", "parts")]
    assert logs[0] == logs[1]
    result = vae_jax.evaluate_run(experiment, complete.params, split="test")
    assert result["nll"] <= -result["elbo"] + 0.5
