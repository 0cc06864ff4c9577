"""The initial state: parameters from the key, their initialization, statistics, and the moving average."""

import jax
import jax.numpy as jnp
import numpy as np
from averaging_model import SIZE, AveragingModel
from small_training import SHAPE, initial_state

from vae_jax.models.likelihoods import BernoulliConfig
from vae_jax.models.vae import with_output_bias

VECTOR = {"x": jnp.zeros((1, SIZE))}


def test_the_state_starts_at_step_zero_with_parameters_of_the_key():
    state, again, other = initial_state(0), initial_state(0), initial_state(1)
    assert (int(state.step), int(state.skipped)) == (0, 0)
    assert state.key == jax.random.key(0)
    jax.tree.map(np.testing.assert_array_equal, state.params, again.params)
    for leaf, same, new in zip(*(jax.tree.leaves(s.params["encoder"]) for s in (state, again, other)), strict=True):
        np.testing.assert_array_equal(leaf, same)
        assert not leaf.any() or np.all(leaf != new)
    assert state.statistics == {}


def test_the_parameters_are_initialized_before_the_optimizer_and_the_moving_average():
    def initialize(params):
        return with_output_bias(params, jnp.full(SHAPE, 0.3), likelihood=BernoulliConfig())

    state = initial_state(initialize=initialize, ema=True)
    for params in (state.params, state.ema_params):
        np.testing.assert_allclose(params["output_bias"], np.log(0.3 / 0.7), rtol=1e-5)
    assert np.all(initial_state().params["output_bias"] == 0)


def test_the_moving_average_is_a_copy_that_can_be_donated_with_the_parameters():
    state = initial_state.__wrapped__(ema=True)  # as it is without jit
    jax.tree.map(np.testing.assert_array_equal, state.ema_params, state.params)
    for average, leaf in zip(jax.tree.leaves(state.ema_params), jax.tree.leaves(state.params), strict=True):
        assert average.unsafe_buffer_pointer() != leaf.unsafe_buffer_pointer()
    assert initial_state().ema_params == ()


def test_collections_other_than_the_parameters_are_statistics():
    state = initial_state(model=AveragingModel(), batch=VECTOR, ema=True)
    assert set(state.statistics) == {"statistics", "batch_stats"}
    np.testing.assert_array_equal(state.statistics["statistics"]["mean"], np.zeros(SIZE))
    assert jax.tree.structure(state.ema_params) == jax.tree.structure(state.params)
    assert "mean" not in state.params
