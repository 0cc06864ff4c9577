"""The step and the training program of a run: the moving average, compilation, donation, and profiles."""

import dataclasses

import jax
import numpy as np
import pytest
from compilations import compilations
from training_runs import fit

from vae_jax.config import override
from vae_jax.data import load_images, mean_image
from vae_jax.runs import build_step, compile_program, prepare_run, profile_to
from vae_jax.training import make_loss, make_train_step


def test_the_moving_average_of_the_weights_is_the_recursion(small, tmp_path):
    config = small(train__steps=5, train__save_every=5, train__ema_decay=0.75)
    run, outcome = fit(config, tmp_path / "run")
    images = load_images(config, "train")

    # Reference: one dispatch per step, and m <- 0.75 m + 0.25 w, starting at the initial weights.
    single = dataclasses.replace(run, config=override(config, train__log_every=1, train__save_every=1))
    program = compile_program(single)
    state = jax.jit(run.initial_state)(run.key, mean_image(images, binarization="none"))
    mean = jax.tree.map(lambda w: np.asarray(w, np.float64), state.params)
    for _ in range(5):
        state, _ = program(state, images, 1)
        mean = jax.tree.map(lambda m, w: 0.75 * m + 0.25 * np.asarray(w, np.float64), mean, state.params)
    trees = (mean, outcome.state.ema_params, outcome.state.params)
    for expected, average, weights in zip(*map(jax.tree.leaves, trees), strict=True):
        np.testing.assert_allclose(average, expected, rtol=1e-5, atol=1e-7)
        assert average.size < 8 or not np.allclose(average, weights, rtol=1e-3)


def test_a_step_without_a_moving_average_stores_none(small, tmp_path):
    run, images = prepare_run(small(), tmp_path / "run")
    state = run.initial_state(run.key)
    assert state.ema_params == ()
    custom = make_train_step(make_loss(run.model, run.config.objective, run.config.data), run.optimizer)
    for step in (custom, build_step(run)):
        shapes, _ = jax.eval_shape(step, state, images[:16])
        assert shapes.ema_params == ()


def test_one_program_serves_every_number_of_steps_on_a_cpu(small, tmp_path):
    run, images = prepare_run(small(), tmp_path / "run")
    program = compile_program(run)
    assert compile_program(run) is program
    state = jax.jit(run.initial_state, out_shardings=run.state_shardings)(run.key)
    with compilations("train_steps") as compiled:
        state, metrics = program(state, images, 5)
        state, _ = program(state, images, 2)
    assert int(state.step) == 7
    assert metrics["loss"].shape == (5,)
    assert len(compiled) == 1


@pytest.mark.parametrize("donate", [True, False])
def test_the_state_is_donated_unless_asked_otherwise(small, tmp_path, donate):
    run, images = prepare_run(small(), tmp_path / "run")
    state = jax.jit(run.initial_state, out_shardings=run.state_shardings)(run.key)
    compile_program(run, donate=donate)(state, images, 1)
    assert any(leaf.is_deleted() for leaf in jax.tree.leaves(state.params)) == donate


def test_a_profile_is_written_only_into_a_folder(tmp_path):
    with profile_to(None):
        pass
    with profile_to(tmp_path):
        jax.block_until_ready(jax.numpy.ones(3) + 1)
    assert len(list(tmp_path.rglob("*.xplane.pb"))) == 1
    assert len(list(tmp_path.rglob("perfetto_trace.json.gz"))) == 1
