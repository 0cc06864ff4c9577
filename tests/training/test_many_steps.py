"""Many steps in one program: the same numbers as single steps, for any dispatches, with one compilation."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_training import BATCH, LOSS, OPTIMIZER, STEPS, assert_states_equal, divided, initial_state, program, rows

from vae_jax import random
from vae_jax.data.labelled import LabelledRows
from vae_jax.data.order import batch_indices
from vae_jax.training.many_steps import train_steps
from vae_jax.training.step import make_train_step


def test_many_steps_in_one_program_equal_single_steps(data):
    many, metrics = program()(initial_state(), data, STEPS)
    state, step = initial_state(), jax.jit(make_train_step(LOSS, OPTIMIZER))
    for i in range(STEPS):
        key = jax.random.fold_in(state.key, random.DATA_STREAM)
        index = batch_indices(key, state.step, num_examples=100, batch_size=BATCH)
        state, row = step(state, rows(data, index))
        np.testing.assert_allclose(metrics["loss"][i], row["loss"], rtol=1e-5)
    assert many.step == STEPS
    chex.assert_trees_all_close(many.params, state.params, rtol=1e-4, atol=1e-6)


def test_the_number_of_steps_is_limited_to_the_number_of_batches(data):
    run = program(max_steps=3)
    state, metrics = run(initial_state(), data, 5)
    assert (int(state.step), metrics["loss"].shape) == (3, (3,))
    assert_states_equal(state, run(initial_state(), data, 3)[0])
    with pytest.raises(ValueError, match=r"^num_steps=5 must be at most max_steps=3; "):
        train_steps(initial_state(), data, 5, step=make_train_step(LOSS, OPTIMIZER), batch_size=BATCH, max_steps=3)


def test_the_lengths_of_dispatches_change_no_bit_and_compile_nothing(data):
    run = program.__wrapped__()  # compiled for this test alone
    uninterrupted, _ = run(initial_state(), data, STEPS)
    first, _ = run(initial_state(), data, 5)
    second, metrics = run(first, data, STEPS - 5)
    assert_states_equal(uninterrupted, second)
    assert run._cache_size() == 1
    assert np.isfinite(metrics["loss"][: STEPS - 5]).all()
    assert np.isnan(metrics["loss"][STEPS - 5 :]).all()


def test_the_loss_falls(data):
    _, metrics = program(max_steps=300)(initial_state(), data, 300)
    assert metrics["loss"][-50:].mean() < 0.8 * metrics["loss"][:5].mean()


def test_seeds_under_vmap_train_as_they_do_alone(data):
    states = jax.vmap(initial_state)(jnp.arange(3))
    together, _ = jax.vmap(program(), in_axes=(0, None, None))(states, data, STEPS)
    for seed in range(3):
        alone, _ = program()(initial_state(seed), data, STEPS)
        member = jax.tree.map(lambda leaf, s=seed: leaf[s], together.params)
        chex.assert_trees_all_close(member, alone.params, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("microbatches", [1, 4])
def test_streamed_batches_are_those_of_the_order_of_the_data_set(data, microbatches):
    """Every array of a batch has the rows of the same examples, also the arrays that the model does not read."""
    seen = []

    def loss(params, statistics, keys, batch, step):
        jax.debug.callback(lambda y: seen.append(np.asarray(y)), batch["y"])
        return LOSS(params, statistics, keys, {"x": batch["x"]}, step)

    labelled = data | {"y": jnp.arange(100)}
    step = make_train_step(loss, OPTIMIZER, microbatches=microbatches)
    key = jax.random.fold_in(initial_state().key, random.DATA_STREAM)
    order = [batch_indices(key, jnp.asarray(i), num_examples=100, batch_size=BATCH) for i in range(3)]
    batches = [rows(labelled, index) for index in order]
    if microbatches > 1:
        batches = [divided(batch, microbatches) for batch in batches]
    stream = jax.tree.map(lambda *parts: jnp.stack(parts), *batches)
    run = functools.partial(program, step, max_steps=3, microbatches=microbatches)
    resident, _ = run()(initial_state(), labelled, 3)
    streamed, _ = run(streamed=True)(initial_state(), stream, 3)
    assert_states_equal(resident, streamed)
    jax.effects_barrier()
    found = sorted(np.concatenate([y.reshape(-1) for y in seen]).tolist())
    assert found == sorted(2 * np.concatenate(order).tolist())


def test_data_that_are_no_mapping_or_have_unequal_lengths_are_refused(data):
    with pytest.raises(ValueError, match=r'^batch is not a mapping with data "x"'):
        program()(initial_state(), data["x"], 1)
    with pytest.raises(ValueError, match=r"^batch has arrays of \{'x': 100, 'y': 99\} examples"):
        program()(initial_state(), data | {"y": jnp.zeros(99)}, 1)


@pytest.mark.fault
def test_the_explicit_axes_of_a_mesh_work_under_vmap(data):
    """The axes of `jax.make_mesh` are explicit, so JAX infers no sharding of a gather whose positions are sharded."""
    mesh = jax.make_mesh((2,), ("seeds",))
    placed = jax.device_put(data, jax.NamedSharding(mesh, jax.P()))
    states = jax.device_put(jax.vmap(initial_state)(jnp.arange(2)), jax.NamedSharding(mesh, jax.P("seeds")))
    with jax.set_mesh(mesh):
        together, _ = jax.jit(jax.vmap(program(), in_axes=(0, None, None)))(states, placed, STEPS)
    assert len(together.step.sharding.device_set) == 2
    for seed in range(2):
        alone, _ = program()(initial_state(seed), data, STEPS)
        member = jax.tree.map(lambda leaf, s=seed: leaf[s], jax.device_get(together.params))
        chex.assert_trees_all_close(member, jax.device_get(alone.params), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("microbatches", [1, 2])
def test_the_first_rows_of_a_batch_are_labelled_and_the_mask_of_the_data_is_not_read_in_training(microbatches):
    labelled, count = LabelledRows(12, 3, share=0.25), 60
    data = {"x": jnp.arange(count), "y": jnp.arange(count) % 3, "mask": jnp.arange(count) < 30}

    def step(state, batch):
        shown = {name: jnp.reshape(array, -1) for name, array in batch.items()}
        metrics = {f"{name}_{i}": array[i] for name, array in shown.items() for i in range(8)}
        return state._replace(step=state.step + 1), metrics

    run = jax.jit(functools.partial(train_steps, step=step, batch_size=8, max_steps=3, labelled=labelled,
                                    microbatches=microbatches))  # fmt: skip
    _, metrics = run(initial_state(), data, 3)
    rows = {name: np.stack([metrics[f"{name}_{i}"] for i in range(8)], axis=1).astype(int) for name in data}
    np.testing.assert_array_equal(rows["mask"], np.tile([1, 1, 0, 0, 0, 0, 0, 0], (3, 1)))
    np.testing.assert_array_equal(rows["y"], rows["x"] % 3)
    chosen = jax.jit(labelled.choose)(data["y"], data["mask"])
    assert set(rows["x"][:, :2].reshape(-1)) <= set(np.asarray(chosen).reshape(-1))
    assert rows["y"][:, :2].reshape(-1).tolist() == [0, 1, 2, 0, 1, 2]
    resumed, other = run(run(initial_state(), data, 1)[0], data, 2)
    assert int(resumed.step) == 3
    np.testing.assert_array_equal([other[f"x_{i}"][:2] for i in range(8)], rows["x"][1:].T)
