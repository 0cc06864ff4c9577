"""The initial state: parameters from the key, the output bias, and the moving average."""

import jax
import jax.numpy as jnp
import numpy as np
from small_training import SHAPE, initial_state


def test_the_state_starts_at_step_zero_with_parameters_of_the_key():
    state, again, other = initial_state(0), initial_state(0), initial_state(1)
    assert (int(state.step), int(state.skipped)) == (0, 0)
    assert state.key == jax.random.key(0)
    jax.tree.map(np.testing.assert_array_equal, state.params, again.params)
    assert np.all(state.params["posterior_mean"]["kernel"] != other.params["posterior_mean"]["kernel"])


def test_the_output_bias_starts_at_the_mean_image():
    state = initial_state(mean_image=jnp.full(SHAPE, 0.3))
    np.testing.assert_allclose(state.params["output_bias"], np.log(0.3 / 0.7), rtol=1e-5)
    assert np.all(initial_state().params["output_bias"] == 0)


def test_the_moving_average_is_a_copy_that_can_be_donated_with_the_parameters():
    state = initial_state(ema=True)
    jax.tree.map(np.testing.assert_array_equal, state.ema_params, state.params)
    for average, leaf in zip(jax.tree.leaves(state.ema_params), jax.tree.leaves(state.params), strict=True):
        assert average.unsafe_buffer_pointer() != leaf.unsafe_buffer_pointer()
    assert initial_state().ema_params == ()
