"""Rows of a benchmark: which programs they run, and that they train alike."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vae_jax.bench import plan, variants
from vae_jax.errors import InputError
from vae_jax.inference.bound import sample_terms
from vae_jax.runs.programs import compile_program


def test_rows_that_change_how_but_not_what_train_alike(make_run, static_count):
    images = np.random.default_rng(0).integers(0, 256, (200, 8, 8, 1), np.uint8)
    run = make_run(data__binarization="dynamic", model__likelihood="bernoulli", train__log_every=5)
    names = ["program", "shard-map-2", "pmap-2"]  # tests/runtime/test_sharding.py has jit over several devices
    losses = {}
    for name in names:
        row = variants.make_row(name, run, images)
        state, placed = row.arguments()
        traced = jax.make_jaxpr(row.call, static_argnums=2) if name == "pmap-2" else row.call.trace  # pmap has none
        program = traced(state, placed, row.steps)
        assert ("scan[" in str(getattr(program, "jaxpr", program))) is static_count, name  # the loop over steps
        losses[name] = []
        while len(losses[name]) < 5:
            state, metrics = row.call(state, placed, row.steps)
            loss = np.asarray(metrics["loss"])
            losses[name] += np.ravel(loss[0] if name == "pmap-2" else loss).tolist()
    for name in names:
        np.testing.assert_allclose(losses[name], losses["program"], rtol=2e-5, err_msg=name)
    assert np.abs(np.diff(losses["program"])).min() > 1e-3  # the steps differ by more than the tolerance


def test_an_unsupported_variant_is_refused_with_the_reason(make_run):
    images = np.zeros((200, 8, 8, 1), np.uint8)
    reasons = {
        "devices-16": "at most the 8 devices",
        "shard-map-3": "multiple of the 3 devices",
        "remat": "model.remat=True",
        "no-binarization": "the settings of this variant are those of program",
    }
    for name, words in reasons.items():
        with pytest.raises(InputError, match=words):
            variants.make_row(name, make_run(), images)
    row = variants.make_row("batch-512", make_run(), images)  # larger than the number of images
    assert row.run.data["num_examples"] == row.arguments()[1].shape[0] == 512
    assert row.steps == 1  # more work than the five steps of program
    assert variants.make_row("width-3", make_run(), images).run.config.model.hidden == (24,)
    variants.check_names(list(variants.DEFAULT))


def test_a_row_of_more_work_makes_fewer_steps_in_a_dispatch(make_run):
    images = np.zeros((200, 8, 8, 1), np.uint8)
    base = make_run(train__log_every=10, train__evaluate_every=20, objective__name="sampled-elbo")
    steps = lambda name: variants.make_row(name, base, images).steps  # noqa: E731
    assert (steps("batch-8"), steps("batch-48")) == (10, 3)
    encoder, decoder = 3 * 64 * 8 + 3 * 2 * 8 * 2 - 64 * 8, 3 * (2 * 8 + 8 * 64)
    assert (
        steps("samples-4") == round(10 * (encoder + decoder) / (encoder + 4 * decoder)) == 4
    )  # the encoder runs once per image


def test_the_program_that_is_measured_is_the_one_that_trains(make_run):
    run = make_run()
    assert variants.make_row("program", run, np.zeros((200, 8, 8, 1), np.uint8)).run.config == run.config
    assert variants.program_row("program", run, np.zeros((200, 8, 8, 1), np.uint8)).call is compile_program(run)


@pytest.mark.parametrize("network", ["mlp", "tied", "residual"])
def test_weights_and_densities_of_bfloat16_layers_are_float32(network, make_run):
    settings = {"mlp": {}, "tied": {"model__tied": True}, "residual": {"model__network": "residual"}}[network]
    exact, run = make_run(**settings), make_run(**settings, model__compute_dtype="bfloat16")
    params = jax.jit(lambda key: run.initial_state(key).params)(run.key)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}
    x = jax.random.uniform(jax.random.key(1), (4, 8, 8, 1))
    for method in ("encode", "__call__"):  # the parameters of q(z|x) and of p(x|z)
        density = jax.eval_shape(
            lambda p, m=method: run.training_model.apply({"params": p}, {"x": x}, method=m), params
        )
        assert {leaf.dtype for leaf in jax.tree.leaves(density)} == {jnp.dtype("float32")}
    terms_of = lambda model: jax.jit(lambda p: sample_terms(p, jax.random.key(2), {"x": x}, model=model))  # noqa: E731
    terms = [terms_of(model)(params) for model in (run.training_model, exact.model)]
    for low, high in zip(*((t.log_px_z, t.log_pz, t.log_qz, t.kl) for t in terms), strict=True):
        assert low.dtype == jnp.float32
        np.testing.assert_allclose(low, high, rtol=3e-2, atol=1e-2)
    assert not np.array_equal(terms[0].log_px_z, terms[1].log_px_z)
    assert run.model == exact.model == exact.training_model  # evaluation and sampling use float32
    assert "bf16" in str(jax.make_jaxpr(terms_of(run.training_model))(params))


def test_rematerialized_blocks_have_the_same_gradient_and_parameters(make_run):
    settings = {"model__network": "residual", "model__hidden": (2, 4)}
    stored, remat = make_run(**settings), make_run(**settings, model__remat=True)
    params = jax.jit(lambda key: stored.initial_state(key).params)(stored.key)
    x, key = jax.random.uniform(jax.random.key(1), (4, 8, 8, 1)), jax.random.key(2)
    params = jax.tree.map(lambda leaf: leaf + 0.01, params)  # a new block is the identity

    def gradient(run):
        return jax.jit(jax.grad(lambda p: jnp.sum(sample_terms(p, key, {"x": x}, model=run.training_model).log_px_z)))

    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
        gradient(stored)(params),
        gradient(remat)(params),
    )
    assert jax.tree.structure(jax.eval_shape(remat.initial_state, remat.key).params) == jax.tree.structure(params)
    convolutions = lambda run: str(plan.trace_program(run).jaxpr).count("conv_general_dilated")  # noqa: E731
    assert convolutions(remat) > convolutions(stored)
