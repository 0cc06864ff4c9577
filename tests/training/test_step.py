"""One step: its noise, steps that are not finite, and the moving average."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from small_training import BATCH, CONFIG, LOSS, OPTIMIZER, STEPS, divided, initial_state, program, rows

from vae_jax import kernels, random
from vae_jax.config import apply_overrides
from vae_jax.training.optimizers import make_optimizer, make_schedule
from vae_jax.training.outliers import mark_outliers
from vae_jax.training.step import make_train_step


def step_keys(seed, step):
    """Return the data of the keys of the examples of a step, [BATCH, 2]."""
    root = jax.random.fold_in(jax.random.key(seed), random.NOISE_STREAM)
    keys = [jax.random.fold_in(jax.random.fold_in(root, step), position) for position in range(BATCH)]
    return np.stack([jax.random.key_data(key) for key in keys])


def spied(seen):
    """Return the loss, which appends the data of the keys that it receives to `seen`."""

    def spy(params, statistics, keys, batch, step):
        jax.debug.callback(lambda data: seen.append(np.asarray(data)), jax.random.key_data(keys))
        return LOSS(params, statistics, keys, batch, step)

    return spy


def test_every_random_number_is_a_function_of_seed_step_and_position(data):
    seen = []
    program(make_train_step(spied(seen), OPTIMIZER))(initial_state(3), data, STEPS)
    jax.effects_barrier()
    expected = np.concatenate([step_keys(3, step) for step in range(STEPS)])
    found = np.concatenate(seen)
    assert found.shape == (STEPS * BATCH, 2)
    assert set(map(tuple, found)) == set(map(tuple, expected))
    assert len(np.unique(found, axis=0)) == STEPS * BATCH


def test_microbatches_have_the_keys_and_the_gradient_of_the_batch(data):
    batch, results = rows(data, slice(BATCH)), {}
    state = initial_state(3)._replace(step=jnp.asarray(5))
    for microbatches in (1, 4):
        seen = []
        step = jax.jit(make_train_step(spied(seen), optax.sgd(1.0), microbatches=microbatches))
        parts = batch if microbatches == 1 else divided(batch, 4)
        results[microbatches] = step(state._replace(opt_state=optax.sgd(1.0).init(state.params)), parts)
        jax.effects_barrier()
        np.testing.assert_array_equal(np.unique(np.concatenate(seen), axis=0), np.unique(step_keys(3, 5), axis=0))
    (one, metrics), (four, metrics_of_parts) = results[1], results[4]
    chex.assert_trees_all_close(metrics_of_parts, metrics, rtol=1e-5)
    chex.assert_trees_all_close(four.params, one.params, rtol=1e-5, atol=1e-6)


def test_a_batch_without_the_parts_of_the_microbatches_is_refused(data):
    step = make_train_step(LOSS, OPTIMIZER, microbatches=4)
    message = r'^batch\["x"\] has shape \[16, 6, 6, 1\]; pass \[4, B/4, ...\] for microbatches=4'
    with pytest.raises(ValueError, match=message):
        step(initial_state(), rows(data, slice(BATCH)))


def test_a_step_on_a_part_of_a_batch_has_the_keys_of_its_positions(data):
    seen = []
    for first in (0, 12):
        step = jax.jit(make_train_step(spied(seen), OPTIMIZER, first_example=lambda first=first: first))
        step(initial_state(3), rows(data, slice(first, first + 4)))
        jax.effects_barrier()
    np.testing.assert_array_equal(seen[0], step_keys(3, 0)[:4])
    np.testing.assert_array_equal(seen[1], step_keys(3, 0)[12:])


class TestNotFinite:
    @staticmethod
    def loss_failing_at(*steps):
        def loss(params, statistics, key, batch, step):
            value, others = LOSS(params, statistics, key, batch, step)
            return jnp.where(jnp.isin(step, jnp.asarray(steps)), jnp.nan, 1.0) * value, others

        return loss

    def test_skipped_marks_the_first_step_that_is_not_finite(self, data):
        step = make_train_step(self.loss_failing_at(4), OPTIMIZER)
        _, metrics = program(step)(initial_state(), data, STEPS)
        np.testing.assert_array_equal(np.flatnonzero(metrics["skipped"])[0], 4)

    def test_one_skip_too_many_keeps_the_state_before_the_step_and_its_index(self, data):
        good, _ = program()(initial_state(), data, 4)
        step = make_train_step(self.loss_failing_at(4, 5), OPTIMIZER, max_skips=1)
        bad, metrics = program(step)(initial_state(), data, STEPS)
        assert bad.step == 5
        chex.assert_trees_all_equal(bad.params, good.params)
        assert metrics["skipped"][5] == 2

    def test_a_skipped_update_is_not_applied_and_training_continues(self, data):
        step = make_train_step(self.loss_failing_at(4, 5, 7), OPTIMIZER, max_skips=2)
        state, metrics = program(step)(initial_state(), data, STEPS)
        assert state.step == STEPS
        np.testing.assert_array_equal(metrics["skipped"], [0, 0, 0, 0, 1, 2, 0, 1, 0, 0, 0, 0])
        chex.assert_tree_all_finite(state.params)
        before, _ = program(step)(initial_state(), data, 4)
        during, _ = program(step)(initial_state(), data, 6)
        chex.assert_trees_all_equal(before.params, during.params)
        adam = lambda state: optax.tree.get(state.opt_state, "ScaleByAdamState")  # noqa: E731
        chex.assert_trees_all_equal(adam(before), adam(during))

    def test_the_learning_rate_is_that_of_the_step_after_skipped_steps(self, data):
        config = apply_overrides(
            CONFIG, {"optimizer": "sgd", "optimizer.learning_rate": 1e-3, "optimizer.b1": 0.0, "schedule": "cosine"}
        )
        optimizer, schedule = make_optimizer(config), make_schedule(config)
        loss = self.loss_failing_at(3, 4)
        step = jax.jit(make_train_step(loss, optimizer, max_skips=2, schedule=schedule))
        state = initial_state(optimizer=optimizer)
        for i in range(7):
            before = state.params
            state, metrics = step(state, rows(data, slice(BATCH)))
            moved = kernels.global_norm(jax.tree.map(jnp.subtract, state.params, before))
            expected = 0 if i in (3, 4) else schedule(i) * metrics["grad_norm"]
            np.testing.assert_allclose(moved, expected, rtol=1e-3)
            np.testing.assert_allclose(metrics["learning_rate"], schedule(i), rtol=1e-6)

    def test_a_step_that_stops_the_run_is_not_counted_by_the_schedule(self, data):
        step = jax.jit(make_train_step(self.loss_failing_at(0, 1), OPTIMIZER, max_skips=1))
        state = initial_state()
        for _ in range(3):
            state, _ = step(state, rows(data, slice(BATCH)))
        assert state.step == optax.tree.get(state.opt_state, "ScaleByScheduleState").count == 1

    def test_an_outlying_gradient_is_skipped_and_training_continues(self, data):
        """A spike in the warm-up is applied; a later one is skipped; a lasting increase stops the run."""
        factors = jnp.ones(STEPS).at[jnp.array([2, 6, 9, 10, 11])].set(1e3)

        def loss(params, statistics, key, batch, step):
            value, others = LOSS(params, statistics, key, batch, step)
            return factors[step] * value, others

        optimizer = mark_outliers(OPTIMIZER, quantile=0.5, factor=10.0, window=4)
        step = make_train_step(loss, optimizer, max_skips=2)
        run = program(step)
        state, metrics = run(initial_state(optimizer=optimizer), data, STEPS)
        np.testing.assert_array_equal(metrics["skipped"], [0] * 6 + [1] + [0] * 2 + [1, 2, 3])
        np.testing.assert_array_equal(metrics["outlier"], metrics["skipped"] > 0)
        assert state.step == STEPS - 1
        before, _ = run(initial_state(optimizer=optimizer), data, 6)
        after, _ = run(initial_state(optimizer=optimizer), data, 7)
        chex.assert_trees_all_equal(before.params, after.params)
        assert optax.tree.get(after.opt_state, "ScaleByAdamState").count == 6

    def test_too_many_consecutive_skips_stop(self, data):
        step = make_train_step(self.loss_failing_at(4, 5, 6), OPTIMIZER, max_skips=2)
        state, _ = program(step)(initial_state(), data, STEPS)
        assert state.step == 6

    @pytest.mark.parametrize("kind", ["gradient", "parameter", "moment"])
    def test_an_update_is_skipped_for_a_gradient_parameter_or_moment_that_is_not_finite(self, data, kind):
        weight = {"gradient": jnp.inf, "parameter": 100.0, "moment": 1e25}[kind]

        def loss(params, statistics, key, batch, step):
            value, others = LOSS(params, statistics, key, batch, step)
            leaf = jax.tree.leaves(params["posterior"]["mean"]["bias"])[0][0]
            return value + weight * (leaf - jax.lax.stop_gradient(leaf)), others

        optimizer = optax.sgd(3e38) if kind == "parameter" else OPTIMIZER
        state = initial_state(optimizer=optimizer)
        after, metrics = jax.jit(make_train_step(loss, optimizer, max_skips=1))(state, rows(data, slice(BATCH)))
        assert after.step == 1
        assert metrics["skipped"] == 1
        chex.assert_trees_all_equal(after.params, state.params)
        chex.assert_tree_all_finite(after.opt_state)


def test_the_moving_average_follows_its_recursion(data):
    """Its decay grows: 1/10, 2/11, 3/12, and then the given one."""
    step = jax.jit(make_train_step(LOSS, OPTIMIZER, ema_decay=0.27))
    state = initial_state(ema=True)
    average = state.params
    for decay in (1 / 10, 2 / 11, 3 / 12, 0.27, 0.27):
        state, _ = step(state, rows(data, slice(BATCH)))
        average = jax.tree.map(lambda a, p, d=decay: d * a + (1 - d) * p, average, state.params)
    chex.assert_trees_all_close(state.ema_params, average, rtol=1e-4, atol=1e-6)
    assert initial_state().ema_params == ()
