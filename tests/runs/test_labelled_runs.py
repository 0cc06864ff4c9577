"""Training with few labels: draws of the labels in one program, eight devices, and data that are refused."""

import functools
import types

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_experiments import image_experiment, images

from vae_jax.data import Records, from_arrays
from vae_jax.errors import InputError
from vae_jax.runs.experiment.experiment import at_numbers
from vae_jax.runs.experiment.labels import check_conditions, labelled_examples
from vae_jax.runs.experiment.programs import compile_program, place_initial_state
from vae_jax.runtime import Placement, sharding

M2 = {"model": "m2", "model__num_classes": 2, "model__embedding": 3, "data__labelled": 8, "train__steps": 2,
      "train__log_every": 2, "train__save_every": 2}  # fmt: skip


@functools.cache
def experiment(**settings):
    return image_experiment(images(), **M2, **settings)


@pytest.mark.thorough
def test_draws_of_the_labels_and_seeds_in_one_program_equal_separate_runs():
    template = experiment()

    @jax.jit
    @jax.vmap
    def train(numbers):
        member = at_numbers(template, numbers)
        return member.train(member.key)[0].params

    together = train({"data.labelled_draw": jnp.array([0, 1, 1]), "seed": jnp.array([0, 0, 1], jnp.uint32)})
    for i, draw, seed in ((0, 0, 0), (2, 1, 1)):
        alone = experiment(data__labelled_draw=draw, seed=seed)
        state, _ = jax.jit(alone.train)(alone.key)
        member = jax.tree.map(lambda leaf, i=i: leaf[i], together)
        chex.assert_trees_all_close(member, state.params, rtol=1e-3, atol=1e-5)
    first, second = (np.asarray(jax.tree.leaves(together)[0][i]) for i in (0, 1))
    assert np.abs(first - second).max() > 1e-4  # the draw of the labels has an effect


def test_the_examples_of_a_step_begin_with_labelled_ones():
    made = experiment(train__labelled_share=0.25)
    chosen = labelled_examples(made.labelled, made.training_data)
    assert chosen.shape == (2, 4)
    for step in range(2):
        rows = made.examples(step)
        assert len(rows) == 16
        assert set(rows[:4]) <= set(chosen.reshape(-1))
        assert np.bincount(made.training_data.arrays["y"][rows[:4]]).tolist() == [2, 2]


def test_eight_devices_have_the_numbers_of_one():
    made = experiment()
    states = []
    for devices in (1, 8):
        placement = Placement(sharding.make_mesh(devices))
        data = jax.device_put(made.training_data.read_all(), placement.replicated)
        state, metrics = compile_program(made, placement)(place_initial_state(made, placement), data, 2)
        states.append(jax.device_get((state.params, metrics)))
    assert np.isfinite(states[0][1]["loss"]).all()
    chex.assert_trees_all_close(*states, rtol=1e-3, atol=1e-4)


@pytest.mark.fault
@pytest.mark.parametrize(
    ("y", "mask", "message"),
    [
        (
            np.arange(60) % 2,
            np.arange(60) < 8,
            r"data\.labelled=8 must be at most \d: a class of data\.name=arrays has",
        ),
        (np.arange(60) % 2, np.ones((60, 8, 8), bool), r"data\.labelled=8 must be 0 for examples with a mask of the"),
        (None, None, r"data\.name=arrays has no labels, which the model reads"),
        (np.arange(60) % 3, None, r"model\.num_classes=2 must be greater than the largest label"),
    ],
)
def test_data_with_other_or_too_few_labels_are_refused(y, mask, message):
    x = np.random.default_rng(0).integers(0, 256, (60, 8, 8), dtype=np.uint8)
    with pytest.raises(InputError, match=f"^{message}"):
        image_experiment(from_arrays(x, y, mask=mask, holdout=0.3), **M2)


def test_the_labels_of_a_stored_run_are_not_read():
    """A run is opened with the description of its examples, whose labels were checked before the training."""
    made = experiment()
    described = types.SimpleNamespace(spec=made.training_data.spec)
    check_conditions(made.model, described, "arrays", made.labelled)


class Streamed(Records):
    """Records with labels that no file contains."""

    spec = property(lambda self: experiment().training_data.spec)

    def __init__(self):
        pass


@pytest.mark.fault
def test_labels_that_are_streamed_cannot_be_chosen():
    made = experiment()
    with pytest.raises(InputError, match=r"^data\.labelled=8 needs the labels in memory; use data\.streaming=never$"):
        check_conditions(made.model, Streamed(), "arrays", made.labelled)
