"""The codebook in the training state: devices, skipped steps, averages of the weights, and seeds, restarts included."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from code_models import code_experiment

from vae_jax.runs.experiment import programs
from vae_jax.runtime import Placement, sharding
from vae_jax.training import make_train_step, train_steps

CODES, STEPS = 12, 3
VQ = {
    "posterior": "vq",
    "posterior__codebook_size": CODES,
    "posterior__code_dim": 3,
    "posterior__restart_below": 0.95,  # codes restart at every step
    "posterior__kmeans_steps": 2,
    "posterior__decay": 0.5,
    "model__places": 4,
}


@pytest.fixture(scope="module")
def experiment():
    return code_experiment(**VQ)


def batch_of(experiment):
    return {name: jnp.asarray(array[:16]) for name, array in experiment.training_data.read_all().items()}


def codebook_of(state):
    return jax.device_get(state.statistics["codebook"]["posterior"])


def trained(experiment, mesh=None, steps=STEPS, **settings):
    """Return the states after each step on one batch."""
    state, batch = experiment.initial_state(experiment.key), batch_of(experiment)
    where = None
    if mesh is not None:
        where = sharding.replicated(mesh)
        state, batch = jax.device_put(state, where), jax.device_put(batch, sharding.batch_sharding(mesh))
    step = jax.jit(make_train_step(experiment.loss(), experiment.optimizer, **settings), out_shardings=where)
    states = []
    for _ in range(steps):
        state, _ = step(state, batch)
        states.append(state)
    return states


def test_one_and_eight_devices_have_the_same_codebook(experiment):
    one, eight = (trained(experiment, sharding.make_mesh(devices))[-1] for devices in (1, 8))
    chex.assert_trees_all_close(codebook_of(one), codebook_of(eight), atol=1e-5)
    usage = codebook_of(one)["usage"]
    assert np.sum(np.abs(usage - 1 / CODES) < 1e-7) >= 2  # restarted at the last step
    assert np.sum(usage > 1 / CODES + 1e-3) >= 1  # and others are in use


def test_neither_the_optimizer_nor_the_average_of_the_weights_has_a_codebook_that_follows_averages(experiment):
    paths = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(experiment.abstract_state)]
    assert [path for path in paths if "vectors" in path] == []
    assert [path for path in paths if "offset" in path] == [".statistics['codebook']['posterior']['offset']"]


@pytest.mark.thorough
def test_members_of_a_sweep_have_the_codebook_that_they_have_alone(experiment):
    data = experiment.training_data.read_all()
    arrays = {name: jnp.asarray(array) for name, array in data.items()}
    step = make_train_step(experiment.loss(), experiment.optimizer)

    def run(seed):
        state = experiment.initial_state(jax.random.key(seed))
        return train_steps(state, arrays, 2, step=step, batch_size=16, max_steps=2)[0].statistics

    together = jax.jit(jax.vmap(run))(jnp.arange(2))
    alone = jax.jit(run)(jnp.asarray(1))
    chex.assert_trees_all_close(jax.tree.map(lambda leaf: leaf[1], together), alone, atol=1e-5)
    offset = together["codebook"]["posterior"]["offset"]
    assert np.abs(offset[0] - offset[1]).max() > 1e-3


def test_a_batch_is_not_divided(experiment):
    many = code_experiment(**VQ, train__batch_size=16)
    placement = Placement(sharding.make_mesh(1))
    assert programs.num_microbatches(many, placement) == 1
    monte_carlo = code_experiment()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(programs.defaults, "SAMPLES_PER_MICROBATCH", 8)
        assert programs.num_microbatches(many, placement) == 1
        assert programs.num_microbatches(monte_carlo, placement) == 2
