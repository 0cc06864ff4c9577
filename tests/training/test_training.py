import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vae_jax import kernels, random
from vae_jax.config.presets import PRESETS
from vae_jax.config.schema import DataConfig, ModelConfig, ObjectiveConfig, OptimizerConfig
from vae_jax.data.order import batch_indices
from vae_jax.errors import InputError
from vae_jax.models.build import build_model
from vae_jax.training.loss import make_loss
from vae_jax.training.many_steps import train_steps
from vae_jax.training.optimizers import make_optimizer, make_schedule
from vae_jax.training.state import init_state
from vae_jax.training.step import make_train_step

SHAPE = (6, 6, 1)
BATCH, STEPS = 16, 12
MODEL = build_model(ModelConfig(hidden=(16,), latent_dim=4), SHAPE)
OPTIMIZER = make_optimizer(OptimizerConfig(learning_rate=1e-2, schedule="constant"), STEPS)
LOSS = make_loss(MODEL, ObjectiveConfig(), DataConfig())


@pytest.fixture(scope="module")
def images():
    rng = np.random.default_rng(0)
    bright = rng.integers(0, 2, size=(100, 1, 6, 1)) * 200  # whole columns, so that there is something to learn
    return jnp.asarray(bright + rng.integers(0, 55, size=(100, 6, 6, 1)), jnp.uint8)


def initial(seed=0, **settings):
    return init_state(jax.random.key(seed), model=MODEL, optimizer=OPTIMIZER, **settings)


def program(step=None, max_steps=STEPS):
    step = step or make_train_step(LOSS, OPTIMIZER)
    return jax.jit(functools.partial(train_steps, step=step, batch_size=BATCH, max_steps=max_steps))


def equal(a, b):
    raw = lambda t: jax.tree.map(  # noqa: E731
        lambda leaf: jax.random.key_data(leaf) if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf, t
    )
    chex.assert_trees_all_equal(raw(a), raw(b))


def test_many_steps_in_one_program_are_the_steps_one_by_one(images):
    many, metrics = program()(initial(), images, STEPS)
    state, step = initial(), jax.jit(make_train_step(LOSS, OPTIMIZER))
    for i in range(STEPS):
        key = jax.random.fold_in(state.key, random.DATA_STREAM)
        index = batch_indices(key, state.step, num_examples=100, batch_size=BATCH)
        state, row = step(state, images[index])
        np.testing.assert_allclose(metrics["loss"][i], row["loss"], rtol=1e-5)
    assert many.step == STEPS
    chex.assert_trees_all_close(many.params, state.params, rtol=1e-4, atol=1e-6)


def test_no_step_is_made_of_a_batch_that_is_not_there(images):
    run = program(max_steps=3)
    state, metrics = run(initial(), images, 5)
    assert (int(state.step), metrics["loss"].shape) == (3, (3,))
    equal(state, run(initial(), images, 3)[0])
    with pytest.raises(ValueError, match=r"^num_steps=5 must be at most max_steps \(3\)$"):
        train_steps(initial(), images, 5, step=make_train_step(LOSS, OPTIMIZER), batch_size=BATCH, max_steps=3)


def test_where_dispatches_are_cut_changes_nothing_and_compiles_nothing(images):
    run = program()
    whole, _ = run(initial(), images, STEPS)
    first, _ = run(initial(), images, 5)
    second, metrics = run(first, images, STEPS - 5)
    equal(whole, second)
    assert run._cache_size() == 1
    assert np.isfinite(metrics["loss"][: STEPS - 5]).all()
    assert np.isnan(metrics["loss"][STEPS - 5 :]).all()


def test_the_loss_falls(images):
    _, metrics = program(max_steps=300)(initial(), images, 300)
    assert metrics["loss"][-50:].mean() < 0.8 * metrics["loss"][:5].mean()


def test_every_random_number_follows_from_seed_and_step(images):
    keys = []

    def spy(params, key, batch, step):
        jax.debug.callback(lambda k: keys.append(tuple(np.asarray(k))), jax.random.key_data(key))
        return LOSS(params, key, batch, step)

    program(make_train_step(spy, OPTIMIZER))(initial(3), images, STEPS)
    jax.effects_barrier()
    root = jax.random.fold_in(jax.random.key(3), random.NOISE_STREAM)
    expected = [tuple(np.asarray(jax.random.key_data(jax.random.fold_in(root, i)))) for i in range(STEPS)]
    assert sorted(keys) == sorted(expected)
    assert len(set(keys)) == STEPS


def test_seeds_train_side_by_side_as_they_do_alone(images):
    states = jax.vmap(init_seed)(jnp.arange(3))
    together, _ = jax.vmap(program(), in_axes=(0, None, None))(states, images, STEPS)
    for seed in range(3):
        alone, _ = program()(init_seed(seed), images, STEPS)
        member = jax.tree.map(lambda leaf, s=seed: leaf[s], together.params)
        chex.assert_trees_all_close(member, alone.params, rtol=1e-3, atol=1e-5)


def init_seed(seed):
    return initial(seed)


class TestNotFinite:
    @staticmethod
    def loss_failing_at(*steps):
        def loss(params, key, batch, step):
            value, metrics = LOSS(params, key, batch, step)
            return jnp.where(jnp.isin(step, jnp.asarray(steps)), jnp.nan, 1.0) * value, metrics

        return loss

    def test_stopping_names_the_step(self, images):
        step = make_train_step(self.loss_failing_at(4), OPTIMIZER)
        _, metrics = program(step)(initial(), images, STEPS)
        np.testing.assert_array_equal(np.flatnonzero(metrics["skipped"])[0], 4)

    def test_one_too_many_keeps_the_state_before_the_step_and_names_it(self, images):
        good, _ = program()(initial(), images, 4)
        step = make_train_step(self.loss_failing_at(4, 5), OPTIMIZER, max_skips=1)
        bad, metrics = program(step)(initial(), images, STEPS)
        assert bad.step == 5
        chex.assert_trees_all_equal(bad.params, good.params)
        assert metrics["skipped"][5] == 2

    def test_skipping_passes_over_the_update_and_goes_on(self, images):
        step = make_train_step(self.loss_failing_at(4, 5, 7), OPTIMIZER, max_skips=2)
        state, metrics = program(step)(initial(), images, STEPS)
        assert state.step == STEPS
        np.testing.assert_array_equal(metrics["skipped"], [0, 0, 0, 0, 1, 2, 0, 1, 0, 0, 0, 0])
        chex.assert_tree_all_finite(state.params)
        before, _ = program(step)(initial(), images, 4)
        during, _ = program(step)(initial(), images, 6)
        chex.assert_trees_all_equal(before.params, during.params)
        adam = lambda state: optax.tree.get(state.opt_state, "ScaleByAdamState")  # noqa: E731
        chex.assert_trees_all_equal(adam(before), adam(during))

    def test_the_learning_rate_is_that_of_the_step_whatever_was_skipped(self, images):
        config = OptimizerConfig(name="sgd", learning_rate=1e-3, schedule="cosine", b1=0.0)
        optimizer, schedule = make_optimizer(config, STEPS), make_schedule(config, STEPS)
        step = jax.jit(make_train_step(self.loss_failing_at(3, 4), optimizer, max_skips=2))
        state = init_state(jax.random.key(0), model=MODEL, optimizer=optimizer)
        for i in range(7):
            before = state.params
            state, metrics = step(state, images[:BATCH])
            moved = kernels.global_norm(jax.tree.map(jnp.subtract, state.params, before))
            expected = 0 if i in (3, 4) else schedule(i) * metrics["grad_norm"]
            np.testing.assert_allclose(moved, expected, rtol=1e-3)

    def test_a_step_that_stops_the_run_is_not_counted_by_the_schedule(self, images):
        step = jax.jit(make_train_step(self.loss_failing_at(0, 1), OPTIMIZER, max_skips=1))
        state = initial()
        for _ in range(3):
            state, _ = step(state, images[:BATCH])
        assert state.step == optax.tree.get(state.opt_state, "ScaleByScheduleState").count == 1

    def test_too_many_in_a_row_stop(self, images):
        step = make_train_step(self.loss_failing_at(4, 5, 6), OPTIMIZER, max_skips=2)
        state, _ = program(step)(initial(), images, STEPS)
        assert state.step == 6

    @pytest.mark.parametrize("what", ["gradient", "parameter", "moment"])
    def test_a_finite_loss_is_not_enough(self, images, what):
        weight = {"gradient": jnp.inf, "parameter": 100.0, "moment": 1e25}[what]

        def loss(params, key, batch, step):
            value, metrics = LOSS(params, key, batch, step)
            leaf = params["posterior_mean"]["bias"][0]
            return value + weight * (leaf - jax.lax.stop_gradient(leaf)), metrics

        optimizer = optax.sgd(3e38) if what == "parameter" else OPTIMIZER
        state = init_state(jax.random.key(0), model=MODEL, optimizer=optimizer)
        after, metrics = jax.jit(make_train_step(loss, optimizer, max_skips=1))(state, images[:BATCH])
        assert after.step == 1
        assert metrics["skipped"] == 1
        chex.assert_trees_all_equal(after.params, state.params)
        chex.assert_tree_all_finite(after.opt_state)


def test_the_moving_average_is_its_recursion(images):
    step = jax.jit(make_train_step(LOSS, OPTIMIZER, ema_decay=0.9))
    state = initial(ema=True)
    average = state.params
    for _ in range(5):
        state, _ = step(state, images[:BATCH])
        average = jax.tree.map(lambda a, p: 0.9 * a + 0.1 * p, average, state.params)
    chex.assert_trees_all_close(state.ema_params, average, rtol=1e-4, atol=1e-6)
    assert initial().ema_params == ()


def test_the_norm_is_that_of_all_numbers():
    rng = np.random.default_rng(0)
    tree = {
        "a": rng.normal(size=(3, 2, 5)),
        "b": [rng.normal(size=7), rng.normal(size=())],
        "c": rng.normal(size=(4, 1)),
    }
    expected = np.sqrt(sum((leaf**2).sum() for leaf in jax.tree.leaves(tree)))
    np.testing.assert_allclose(kernels.global_norm(jax.tree.map(jnp.asarray, tree)), expected, rtol=1e-6)
    assert not np.isfinite(kernels.global_norm({"a": jnp.array([1.0, np.nan]), "b": jnp.array([np.inf])}))


class TestOptimizer:
    @pytest.mark.parametrize("name", ["adam", "adamw", "adamax", "rmsprop", "sgd", "lion"])
    def test_each_is_its_optax_namesake(self, name):
        eps = 0.05  # of the gradients' own size
        config = OptimizerConfig(
            name=name, learning_rate=0.1, schedule="constant", b1=0.8, b2=0.95, eps=eps, weight_decay=0.01
        )
        rate = optax.constant_schedule(0.1)
        expected = {
            "adam": optax.adam(rate, 0.8, 0.95, eps),
            "adamw": optax.adamw(rate, 0.8, 0.95, eps, weight_decay=0.01),
            "adamax": optax.adamax(rate, 0.8, 0.95, eps),
            "rmsprop": optax.rmsprop(rate, decay=0.95, eps=eps),
            "sgd": optax.sgd(rate, momentum=0.8),
            "lion": optax.lion(rate, 0.8, 0.95, weight_decay=0.01),
        }[name]
        params, grads = jnp.array([1.0, -2.0]), jnp.array([0.3, 0.7])
        ours, theirs = make_optimizer(config, 10), expected
        states = ours.init(params), theirs.init(params)
        chex.assert_trees_all_equal_structs(*states)
        for i in range(4):
            a, first = ours.update(grads / 2**i, states[0], params)
            b, second = theirs.update(grads / 2**i, states[1], params)
            states = first, second
            np.testing.assert_allclose(a, b, rtol=1e-6)

    def test_clipping_bounds_the_norm(self):
        config = OptimizerConfig(name="sgd", learning_rate=1.0, schedule="constant", b1=0.0, clip_norm=0.5)
        optimizer = make_optimizer(config, 10)
        params = jnp.zeros(2)
        updates, _ = optimizer.update(jnp.array([3.0, 4.0]), optimizer.init(params), params)
        np.testing.assert_allclose(updates, [-0.3, -0.4], rtol=1e-6)

    def test_schedules(self):
        at = lambda steps, **c: [float(make_schedule(OptimizerConfig(learning_rate=1.0, **c), 100)(s)) for s in steps]  # noqa: E731
        np.testing.assert_allclose(at([0, 99], schedule="constant"), [1, 1])
        np.testing.assert_allclose(at([0, 50, 100], schedule="cosine", final_fraction=0.1), [1, 0.55, 0.1], rtol=1e-6)
        np.testing.assert_allclose(at([0, 5, 10, 100], schedule="cosine", warmup_steps=10), [0, 0.5, 1, 0], atol=1e-6)
        staged = {"schedule": "staged", "milestones": (20, 60), "decay": 0.1}
        np.testing.assert_allclose(at([0, 19, 21, 59, 61], **staged), [1, 1, 0.1, 0.1, 0.01], rtol=1e-5)
        np.testing.assert_allclose(at([5, 21, 61], **staged, warmup_steps=10), [0.5, 0.1, 0.01], rtol=1e-5)
        cycle = at(range(101), schedule="one-cycle")
        np.testing.assert_allclose([cycle[0], cycle[30], cycle[65], cycle[100]], [0.04, 1, 0.5, 4e-6], rtol=0.02)
        assert np.argmax(cycle) == 30
        with pytest.raises(InputError, match=r"^optimizer\.schedule: 'cosin' given.*did you mean 'cosine'"):
            at([0], schedule="cosin")

    @pytest.mark.parametrize("preset", PRESETS)
    def test_the_optimizer_of_every_preset_can_be_made(self, preset):
        config = PRESETS[preset]
        optimizer = make_optimizer(config.optimizer, config.train.steps)
        optimizer.init({"w": jnp.zeros(3)})
