"""Many steps in one program: the same numbers as single steps, for any dispatches, with one compilation."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_training import BATCH, LOSS, OPTIMIZER, STEPS, assert_states_equal, initial_state, program

from vae_jax import random
from vae_jax.data.order import batch_indices
from vae_jax.training.many_steps import train_steps
from vae_jax.training.step import make_train_step


def test_many_steps_in_one_program_equal_single_steps(images):
    many, metrics = program()(initial_state(), images, STEPS)
    state, step = initial_state(), jax.jit(make_train_step(LOSS, OPTIMIZER))
    for i in range(STEPS):
        key = jax.random.fold_in(state.key, random.DATA_STREAM)
        index = batch_indices(key, state.step, num_examples=100, batch_size=BATCH)
        state, row = step(state, images[index])
        np.testing.assert_allclose(metrics["loss"][i], row["loss"], rtol=1e-5)
    assert many.step == STEPS
    chex.assert_trees_all_close(many.params, state.params, rtol=1e-4, atol=1e-6)


def test_the_number_of_steps_is_limited_to_the_number_of_batches(images):
    run = program(max_steps=3)
    state, metrics = run(initial_state(), images, 5)
    assert (int(state.step), metrics["loss"].shape) == (3, (3,))
    assert_states_equal(state, run(initial_state(), images, 3)[0])
    with pytest.raises(ValueError, match=r"^num_steps=5 must be at most max_steps=3; "):
        train_steps(initial_state(), images, 5, step=make_train_step(LOSS, OPTIMIZER), batch_size=BATCH, max_steps=3)


def test_the_lengths_of_dispatches_change_no_bit_and_compile_nothing(images):
    run = program()
    uninterrupted, _ = run(initial_state(), images, STEPS)
    first, _ = run(initial_state(), images, 5)
    second, metrics = run(first, images, STEPS - 5)
    assert_states_equal(uninterrupted, second)
    assert run._cache_size() == 1
    assert np.isfinite(metrics["loss"][: STEPS - 5]).all()
    assert np.isnan(metrics["loss"][STEPS - 5 :]).all()


def test_the_loss_falls(images):
    _, metrics = program(max_steps=300)(initial_state(), images, 300)
    assert metrics["loss"][-50:].mean() < 0.8 * metrics["loss"][:5].mean()


def test_seeds_under_vmap_train_as_they_do_alone(images):
    states = jax.vmap(initial_state)(jnp.arange(3))
    together, _ = jax.vmap(program(), in_axes=(0, None, None))(states, images, STEPS)
    for seed in range(3):
        alone, _ = program()(initial_state(seed), images, STEPS)
        member = jax.tree.map(lambda leaf, s=seed: leaf[s], together.params)
        chex.assert_trees_all_close(member, alone.params, rtol=1e-3, atol=1e-5)
