"""State that is not trained by gradient: microbatches, skipped steps, moving average, seeds, devices, evaluation."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from averaging_model import DECAY, SIZE, AveragingModel
from small_training import BATCH, LOSS, divided, initial_state, program, rows

from vae_jax import random
from vae_jax.data.order import batch_indices
from vae_jax.distributions import Variables
from vae_jax.inference import elbo, sampled_elbo, sticking_the_landing
from vae_jax.runtime import sharding
from vae_jax.training.evaluator import Evaluator
from vae_jax.training.loss import make_loss, unprocessed
from vae_jax.training.state import init_state
from vae_jax.training.step import make_train_step

OPTIMIZER = optax.sgd(1e-2)  # Adam enlarges the rounding errors of a gradient of zero, which a normalization causes
MODEL, PLAIN = AveragingModel(in_decoder=True), AveragingModel(normalized=False)
DATA = {"x": jnp.asarray(np.random.default_rng(0).normal(size=(64, SIZE)) + np.arange(SIZE), jnp.float32)}
STEPS = 5


def initial(seed=0, model=MODEL, **settings):
    batch = {"x": jnp.zeros((1, SIZE))}
    return init_state(jax.random.key(seed), model=model, batch=batch, optimizer=OPTIMIZER, **settings)


def step_of(model=MODEL, loss=None, **settings):
    loss = loss or make_loss(model, lambda step: sampled_elbo, num_samples=2, estimator=sticking_the_landing)
    return make_train_step(loss, OPTIMIZER, **settings)


def run(model=MODEL, state=None, num_steps=STEPS, microbatches=1, **settings):
    state = initial(model=model) if state is None else state
    step = step_of(model, microbatches=microbatches, **settings)
    return program(step, max_steps=STEPS, microbatches=microbatches)(state, DATA, num_steps)


def batches(seed=0):
    """Return the inputs x of each step, [BATCH, SIZE]."""
    key = jax.random.fold_in(jax.random.key(seed), random.DATA_STREAM)
    order = (batch_indices(key, jnp.asarray(i), num_examples=64, batch_size=BATCH) for i in range(STEPS))
    return [np.asarray(DATA["x"][index]) for index in order]


def averages(values):
    """Return the moving average that starts at 0."""
    average = np.zeros(SIZE)
    for value in values:
        average = DECAY * average + (1 - DECAY) * value
    return average


def test_the_statistics_follow_their_recursion():
    state, _ = run()
    found = state.statistics["statistics"]
    np.testing.assert_allclose(found["mean"], averages([x.mean(axis=0) for x in batches()]), rtol=1e-5)
    assert int(found["updates"]) == STEPS
    # the batch normalization receives x minus the average before the step
    shifted = [x.mean(axis=0) - averages([y.mean(axis=0) for y in batches()[:i]]) for i, x in enumerate(batches())]
    np.testing.assert_allclose(state.statistics["batch_stats"]["norm"]["mean"], averages(shifted), rtol=1e-4)


@pytest.mark.parametrize("microbatches", [2, 4])
def test_microbatches_have_the_averages_of_the_undivided_batch(microbatches):
    (one, metrics), (parts, found) = run(PLAIN), run(PLAIN, microbatches=microbatches)
    chex.assert_trees_all_close(parts.statistics, one.statistics, rtol=1e-6)
    assert int(parts.statistics["statistics"]["updates"]) == STEPS
    chex.assert_trees_all_close(parts.params, one.params, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(found["loss"], metrics["loss"], rtol=1e-5)


def test_microbatches_have_the_mean_of_a_batch_normalization():
    one, parts = (run(AveragingModel(), microbatches=m)[0].statistics["batch_stats"]["norm"] for m in (1, 4))
    np.testing.assert_allclose(parts["mean"], one["mean"], rtol=1e-5, atol=1e-7)
    assert not np.allclose(parts["var"], one["var"], rtol=1e-3)  # variances within the parts are smaller


def failing_at(failed, poison_statistics=False):
    inner = make_loss(MODEL, lambda step: elbo)

    def loss(params, statistics, keys, batch, step):
        value, (metrics, new) = inner(params, statistics, keys, batch, step)
        bad = jnp.where(step == failed, jnp.nan, 1.0)
        if poison_statistics:
            return value, (metrics, jax.tree.map(lambda leaf: (leaf * bad).astype(leaf.dtype), new))
        return bad * value, (metrics, new)

    return loss


@pytest.mark.parametrize("poison_statistics", [False, True])
def test_a_skipped_step_keeps_the_statistics(poison_statistics):
    step = jax.jit(step_of(loss=failing_at(2, poison_statistics), max_skips=1))
    state = initial()
    for i in range(4):
        before = state
        state, metrics = step(state, rows(DATA, slice(BATCH)))
        skipped = i == 2
        assert int(metrics["skipped"]) == skipped
        equal = [
            bool((a == b).all())
            for a, b in zip(*map(jax.tree.leaves, (state.statistics, before.statistics)), strict=True)
        ]
        assert all(equal) == skipped
        chex.assert_tree_all_finite(state.statistics)
    assert int(state.statistics["statistics"]["updates"]) == 3


def test_the_moving_average_of_the_weights_does_not_change_the_statistics():
    plain, _ = run()
    averaged, _ = run(state=initial(ema=True), ema_decay=0.9)
    chex.assert_trees_all_equal(averaged.statistics, plain.statistics)
    assert jax.tree.structure(averaged.ema_params) == jax.tree.structure(plain.params)


def test_seeds_under_vmap_have_the_statistics_that_they_have_alone():
    states = jax.vmap(initial)(jnp.arange(3))
    assert states.statistics["statistics"]["mean"].shape == (3, SIZE)
    step = functools.partial(program(step_of(), max_steps=STEPS))
    together, _ = jax.vmap(step, in_axes=(0, None, None))(states, DATA, STEPS)
    assert np.ptp(together.statistics["statistics"]["mean"], axis=0).min() > 1e-3  # each seed has other batches
    for seed in range(3):
        alone, _ = run(state=initial(seed))
        member = jax.tree.map(lambda leaf, s=seed: leaf[s], together.statistics)
        chex.assert_trees_all_close(member, alone.statistics, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("microbatches", [1, 2])
def test_one_and_eight_devices_have_equal_statistics(microbatches):
    found = []
    for devices in (1, 8):
        mesh = sharding.make_mesh(devices)
        state = jax.device_put(initial(), sharding.replicated(mesh))
        batch = DATA if microbatches == 1 else divided(DATA, microbatches)
        spec = sharding.batch_sharding(mesh)
        if microbatches > 1:
            spec = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(None, *spec.spec))
        step = jax.jit(step_of(microbatches=microbatches), out_shardings=sharding.replicated(mesh))
        for _ in range(3):
            state, _ = step(state, jax.device_put(batch, spec))
        found.append(jax.device_get((state.params, state.statistics)))
    chex.assert_trees_all_close(*found, rtol=1e-4, atol=1e-6)
    assert np.abs(found[0][1]["statistics"]["mean"]).max() > 0.1


def test_an_evaluation_uses_the_statistics_and_does_not_change_them():
    state, _ = run()
    variables = Variables(state.params, state.statistics)
    before = jax.tree.map(np.asarray, variables)
    data, key = jax.tree.map(np.asarray, DATA), jax.random.key(1)
    found = [
        Evaluator(MODEL, unprocessed, kind="vectors", batch_size=size).bound(variables, key, data) for size in (64, 10)
    ]
    assert found[1] == pytest.approx(found[0], rel=1e-5)  # with statistics of the batch, its size would change them
    for size, chunk in ((64, 5), (10, 2)):
        evaluator = Evaluator(MODEL, unprocessed, kind="vectors", batch_size=size)
        found.append(evaluator.likelihood(variables, key, data, num_samples=5, chunk=chunk))
    assert found[3] == pytest.approx(found[2], rel=1e-5)
    chex.assert_trees_all_equal(jax.tree.map(np.asarray, variables), before)
    initial_statistics = Variables(state.params, initial().statistics)
    other = Evaluator(MODEL, unprocessed, kind="vectors", batch_size=64).bound(initial_statistics, key, data)
    assert abs(other["elbo"] - found[0]["elbo"]) > 0.1


def test_a_model_without_statistics_has_none():
    state = initial_state()
    batch = {"x": jnp.zeros((4, 6, 6, 1), jnp.uint8)}
    _, (_, statistics) = jax.eval_shape(LOSS, state.params, {}, jax.random.key(0), batch, jnp.asarray(0))
    assert state.statistics == statistics == {}
