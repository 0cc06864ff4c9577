"""Rows of a benchmark: which programs they run, and that they train alike."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vae_jax.bench import plan, variants
from vae_jax.config import Config, TrainConfig, override
from vae_jax.data import from_arrays
from vae_jax.distributions import Normal, from_means, standard_normal
from vae_jax.errors import InputError
from vae_jax.inference import sample_terms, sampled_elbo
from vae_jax.runs import Experiment, build_experiment
from vae_jax.runs.experiment.programs import compile_program
from vae_jax.runtime import Placement, sharding


def test_rows_that_change_how_but_not_what_train_alike(make_experiment, static_count):
    experiment = make_experiment(preprocess="dynamic-binarization", likelihood="bernoulli", train__log_every=5)
    names = ["program", "shard-map-2", "pmap-2"]  # tests/runtime/test_sharding.py has jit over several devices
    losses = {}
    for name in names:
        row = variants.make_row(name, *experiment)
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


def test_an_unsupported_variant_is_refused_with_the_reason(make_experiment):
    reasons = {
        "devices-16": "at most the 8 devices",
        "shard-map-3": "multiple of the 3 devices",
        "remat": "network.remat has no effect with network=mlp",
        "microbatches-3": "train.microbatches=3 must be a divisor of train.batch_size=16",
        "no-binarization": "the settings of this variant are those of program",
    }
    for name, words in reasons.items():
        with pytest.raises(InputError, match=words):
            variants.make_row(name, *make_experiment())
    row = variants.make_row("batch-512", *make_experiment())  # larger than the number of examples
    assert len(row.experiment.training_data) == row.arguments()[1]["x"].shape[0] == 512
    assert row.steps == 1  # more work than the five steps of program
    assert variants.make_row("width-3", *make_experiment()).experiment.config.network.hidden == (24,)
    variants.check_names(list(variants.DEFAULT))


def test_a_row_of_more_work_makes_fewer_steps_in_a_dispatch(make_experiment):
    base = make_experiment(train__log_every=10, train__evaluate_every=20, objective="sampled-elbo")
    steps = lambda name: variants.make_row(name, *base).steps  # noqa: E731
    assert (steps("batch-8"), steps("batch-48")) == (10, 3)
    encoder, decoder = 3 * 64 * 8 + 3 * 2 * 8 * 2 - 64 * 8, 3 * (2 * 8 + 8 * 64)
    assert (
        steps("samples-4") == round(10 * (encoder + decoder) / (encoder + 4 * decoder)) == 4
    )  # the encoder runs once per example


@pytest.mark.thorough
def test_an_experiment_that_is_made_by_hand_has_the_variants_that_need_no_config(make_experiment):
    """The others are refused. Labels are placed with the examples, and the statistics of a model are averaged."""
    x = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)
    experiment = Experiment(
        Centred(), from_arrays(x, np.arange(40), holdout=0), sampled_elbo, optax.adam(1e-2),
        training=TrainConfig(steps=4, batch_size=8, log_every=2, save_every=2, evaluate_every=0),
    )  # fmt: skip
    placement = Placement(sharding.make_mesh(1))
    states = {}
    for name in ("program", "devices-2", "shard-map-2", "pmap-2", "microbatches-2", "samples-3"):
        row = variants.make_row(name, experiment, placement)
        state, data = row.arguments()
        assert set(data) == {"x", "y"}
        states[name], metrics = row.call(state, data, row.steps)
        assert np.isfinite(jax.device_get(metrics["loss"])).all()
        if name == "samples-3":
            assert row.experiment.num_samples == 3
    for name in ("devices-2", "shard-map-2", "pmap-2", "microbatches-2"):
        mean = states[name].statistics["averages"]["mean"]
        expected = states["program"].statistics["averages"]["mean"]
        np.testing.assert_allclose(mean[0] if name == "pmap-2" else mean, expected, rtol=1e-5, err_msg=name)
    refusal = "cannot be changed in an experiment that is made by hand; build it from a config"
    for name in ("bfloat16", "width-2", "no-binarization", "remat"):
        with pytest.raises(InputError, match=refusal):
            variants.make_row(name, experiment, placement)


class Centred(nn.Module):
    """A linear VAE of vectors that subtracts a moving average of the mean of x."""

    @nn.compact
    def encode(self, batch):
        mean = self.variable("averages", "mean", jnp.zeros, (3,))
        if not self.is_initializing() and self.is_mutable_collection("averages"):
            mean.value = 0.9 * mean.value + 0.1 * jnp.mean(batch["x"], axis=0)
        return Normal(*jnp.split(nn.Dense(4)(batch["x"] - mean.value[None]), 2, axis=-1))

    @nn.compact
    def decode(self, draw, evidence=None, batch=None):
        z = draw("z", standard_normal((2,)), None if evidence is None else lambda: evidence)
        mean = nn.Dense(3, name="output")(z.z)
        return Normal(mean, jnp.zeros_like(mean)), (z,)


def test_the_program_that_is_measured_is_the_one_that_trains(make_experiment):
    experiment, placement = make_experiment()
    row = variants.make_row("program", experiment, placement)
    assert row.experiment is experiment
    assert row.call is compile_program(experiment, placement)


def test_variants_of_layers_change_the_settings_of_a_ladder():
    settings = {"model": "ladder-mlp", "model__blocks": (2,), "model__channels": (6,), "model__bottleneck": (4,),
                "train__batch_size": 8, "train__log_every": 5, "train__evaluate_every": 0}  # fmt: skip
    x = np.random.default_rng(0).integers(0, 256, (40, 3, 3, 1), np.uint8)
    base = build_experiment(override(Config(), **settings), source=from_arrays(x, holdout=0))
    placement = Placement(sharding.make_mesh(1))
    model = lambda name: variants.make_row(name, base, placement).experiment.config.model  # noqa: E731
    assert (model("bfloat16").compute_dtype, model("remat").remat) == ("bfloat16", True)
    assert variants._wider(base, 3) == {"model.channels": (18,), "model.bottleneck": (12,)}


@pytest.mark.parametrize("network", ["mlp", "tied", "residual"])
def test_weights_and_densities_of_bfloat16_layers_are_float32(network, make_experiment):
    settings = {"mlp": {}, "tied": {"network__tied": True}, "residual": {"network": "residual"}}[network]
    exact, _ = make_experiment(**settings)
    low, placement = make_experiment(**settings, network__compute_dtype="bfloat16")
    assert plan.step_costs(low, placement).dtype == "bfloat16"
    params = jax.jit(lambda key: low.initial_state(key).params)(low.key)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}
    x = jax.random.uniform(jax.random.key(1), (4, 8, 8, 1))
    draw, model = from_means(), low.training_model
    q = jax.eval_shape(lambda p: model.apply({"params": p}, {"x": x}, method="encode"), params)
    p_x = jax.eval_shape(lambda p, q: model.apply({"params": p}, draw, q, method="decode")[0], params, q)
    for density in (q, p_x):
        assert {leaf.dtype for leaf in jax.tree.leaves(density)} == {jnp.dtype("float32")}
    terms_of = lambda model: jax.jit(lambda p: sample_terms(p, jax.random.key(2), {"x": x}, model=model))  # noqa: E731
    terms = [terms_of(model)(params) for model in (low.training_model, exact.model)]
    for rounded, high in zip(*((t.log_px_z, t.log_pz, t.log_qz, t.kl) for t in terms), strict=True):
        assert rounded.dtype == jnp.float32
        np.testing.assert_allclose(rounded, high, rtol=3e-2, atol=1e-2)
    assert not np.array_equal(terms[0].log_px_z, terms[1].log_px_z)
    assert low.model == exact.model == exact.training_model  # evaluation and sampling use float32
    assert "bf16" in str(jax.make_jaxpr(terms_of(low.training_model))(params))


def test_rematerialized_blocks_have_the_same_gradient_and_parameters(make_experiment):
    settings = {"network": "residual", "network__hidden": (2, 4)}
    stored, placement = make_experiment(**settings)
    remat, _ = make_experiment(**settings, network__remat=True)
    params = jax.jit(lambda key: stored.initial_state(key).params)(stored.key)
    x, key = jax.random.uniform(jax.random.key(1), (4, 8, 8, 1)), jax.random.key(2)
    params = jax.tree.map(lambda leaf: leaf + 0.01, params)  # a new block is the identity

    def gradient(experiment):
        terms = lambda p: sample_terms(p, key, {"x": x}, model=experiment.training_model)  # noqa: E731
        return jax.jit(jax.grad(lambda p: jnp.sum(terms(p).log_px_z)))

    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
        gradient(stored)(params),
        gradient(remat)(params),
    )
    assert jax.tree.structure(jax.eval_shape(remat.initial_state, remat.key).params) == jax.tree.structure(params)
    convolutions = lambda e: str(plan.trace_program(e, placement).jaxpr).count("conv_general_dilated")  # noqa: E731
    assert convolutions(remat) > convolutions(stored)
