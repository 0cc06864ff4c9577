"""Optimizers and schedules against optax and closed forms."""

import dataclasses
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vae_jax.config import PRESETS, Config, apply_overrides, choice, choices, register, replace_unvalidated, setting
from vae_jax.errors import InputError
from vae_jax.training.optimizers import (
    AdamConfig,
    ConstantConfig,
    OptimizerConfig,
    ScheduleConfig,
    SGDConfig,
    make_optimizer,
    make_schedule,
)

RATE = optax.constant_schedule(0.1)
GIVEN = {"b1": 0.8, "b2": 0.95, "eps": 0.05, "weight_decay": 0.01}  # eps is of the size of the gradients
EXPECTED = {
    "adam": optax.adam(RATE, 0.8, 0.95, 0.05),
    "adamw": optax.adamw(RATE, 0.8, 0.95, 0.05, weight_decay=0.01),
    "adamax": optax.adamax(RATE, 0.8, 0.95, 0.05),
    "rmsprop": optax.rmsprop(RATE, decay=0.95, eps=0.05),
    "sgd": optax.sgd(RATE, momentum=0.8),
    "lion": optax.lion(RATE, 0.8, 0.95, weight_decay=0.01),
}


def settings_of(name):
    """Return those of `GIVEN` that the optimizer has."""
    fields = {field.name for field in dataclasses.fields(choices("optimizer")[name])}
    return {key: value for key, value in GIVEN.items() if key in fields}


def at(steps, name, num_steps=100, **fields):
    """Return the values of a schedule with the maximum 1 at some steps."""
    schedule = choice("schedule", name, **fields).build(1.0, num_steps)
    return [float(schedule(step)) for step in steps]


class TestOptimizer:
    @pytest.mark.parametrize("name", EXPECTED)
    def test_each_optimizer_equals_optaxs_of_the_same_name(self, name):
        params, grads = jnp.array([1.0, -2.0]), jnp.array([0.3, 0.7])
        ours, theirs = choice("optimizer", name, **settings_of(name)).build(RATE), EXPECTED[name]
        states = ours.init(params), theirs.init(params)
        chex.assert_trees_all_equal_structs(*states)
        for i in range(4):
            a, first = ours.update(grads / 2**i, states[0], params)
            b, second = theirs.update(grads / 2**i, states[1], params)
            states = first, second
            np.testing.assert_allclose(a, b, rtol=1e-6)

    def test_all_optimizers_are_tested(self):
        assert set(choices("optimizer")) == set(EXPECTED)

    @pytest.mark.parametrize("name", EXPECTED)
    def test_each_setting_has_an_effect(self, name):
        params, grads = jnp.array([1.0, -2.0]), jax.random.normal(jax.random.key(0), (20, 2))

        @functools.partial(jax.jit, static_argnums=0)
        def all_updates(config):
            optimizer = config.build(RATE)
            step = lambda state, gradient: optimizer.update(gradient, state, params)[::-1]  # noqa: E731
            return jax.lax.scan(step, optimizer.init(params), grads)[1]

        config = choices("optimizer")[name]
        reference = all_updates(config())
        for field, value in settings_of(name).items():
            assert not np.allclose(all_updates(config(**{field: value})), reference, rtol=1e-4), field

    @pytest.mark.parametrize("name", EXPECTED)
    def test_numbers_may_be_known_only_inside_a_program(self, name):
        """A sweep trains models that differ in these numbers in one program."""
        params, grads = jnp.array([1.0, -2.0]), jnp.array([0.3, 0.7])
        config = apply_overrides(Config(), {"optimizer": name, "train.steps": 10})
        fields = {"learning_rate": 0.1, **settings_of(name)}
        numbers = {f"optimizer.{field}": value for field, value in fields.items()}

        @jax.jit
        def update(numbers):
            optimizer = make_optimizer(replace_unvalidated(config, numbers))
            return optimizer.update(grads, optimizer.init(params), params)[0]

        with jax.disable_jit():
            expected = update(numbers)
        np.testing.assert_allclose(update(numbers), expected, rtol=1e-4)

    def test_clipping_bounds_the_norm(self):
        optimizer = SGDConfig(b1=0.0, clip_norm=0.5).build(optax.constant_schedule(1.0))
        params = jnp.zeros(2)
        updates, _ = optimizer.update(jnp.array([3.0, 4.0]), optimizer.init(params), params)
        np.testing.assert_allclose(updates, [-0.3, -0.4], rtol=1e-6)

    def test_clipping_keeps_the_structure_of_the_state(self):
        params = jnp.zeros(2)
        plain, clipped = (AdamConfig(clip_norm=norm).build(RATE) for norm in (0.0, 1.0))
        chex.assert_trees_all_equal(clipped.init(params), plain.init(params))

    @pytest.mark.parametrize("preset", PRESETS)
    def test_the_optimizer_of_every_preset_can_be_built(self, preset):
        make_optimizer(PRESETS[preset]).init({"w": jnp.zeros(3)})

    def test_a_user_defined_optimizer_has_settings_and_clipping(self):
        name, known = "test-signs", choices("optimizer")
        try:

            @register("optimizer", name)
            @dataclasses.dataclass(frozen=True)
            class SignsConfig(OptimizerConfig):
                factor: float = setting(2.0, "Factor.", above=0)

                def transformation(self, schedule):
                    return optax.chain(optax.scale(self.factor), optax.scale_by_learning_rate(schedule))

            given = {"optimizer": name, "optimizer.clip_norm": 1.0, "optimizer.learning_rate": 0.1}
            optimizer = make_optimizer(apply_overrides(Config(), given | {"schedule": "constant"}))
            updates, _ = optimizer.update(jnp.array([3.0, 4.0]), optimizer.init(jnp.zeros(2)))
            np.testing.assert_allclose(updates, [-0.12, -0.16], rtol=1e-6)
        finally:
            known.pop(name, None)

    def test_a_choice_without_its_method_is_refused(self):
        with pytest.raises(NotImplementedError, match=r"^OptimizerConfig has no method `transformation`"):
            OptimizerConfig().build(RATE)
        with pytest.raises(NotImplementedError, match=r"^ScheduleConfig has no method `build`"):
            ScheduleConfig().build(0.1, 10)


class TestSchedule:
    def test_values(self):
        np.testing.assert_allclose(at([0, 99], "constant"), [1, 1])
        np.testing.assert_allclose(at([0, 5, 10, 99], "constant", warmup_steps=10), [0, 0.5, 1, 1])
        np.testing.assert_allclose(at([0, 50, 100], "cosine", final_fraction=0.1), [1, 0.55, 0.1], rtol=1e-6)
        np.testing.assert_allclose(at([0, 5, 10, 100], "cosine", warmup_steps=10), [0, 0.5, 1, 0], atol=1e-6)
        staged = {"milestones": (20, 60), "decay": 0.1}
        np.testing.assert_allclose(at([0, 19, 21, 59, 61], "staged", **staged), [1, 1, 0.1, 0.1, 0.01], rtol=1e-5)
        np.testing.assert_allclose(at([5, 21, 61], "staged", **staged, warmup_steps=10), [0.5, 0.1, 0.01], rtol=1e-5)
        cycle = at(range(101), "one-cycle")
        np.testing.assert_allclose([cycle[0], cycle[30], cycle[65], cycle[100]], [0.04, 1, 0.5, 4e-6], rtol=0.02)
        assert np.argmax(cycle) == 30

    @pytest.mark.parametrize("name", ["constant", "cosine", "one-cycle", "staged"])
    def test_a_schedule_that_spans_the_steps_depends_on_their_number(self, name):
        settings = {"milestones": (5, 20)} if name == "staged" else {}
        short, long = (at(range(40), name, num_steps, **settings) for num_steps in (40, 80))
        assert (short != long) == choices("schedule")[name].spans_steps

    def test_the_config_gives_the_learning_rate_and_the_number_of_steps(self):
        given = {"optimizer.learning_rate": 0.5, "train.steps": 200, "schedule.final_fraction": 0.2}
        schedule = make_schedule(apply_overrides(Config(), given))
        np.testing.assert_allclose([schedule(0), schedule(100), schedule(200)], [0.5, 0.3, 0.1], rtol=1e-6)
        assert ConstantConfig().build(0.5, 10)(3) == 0.5

    def test_a_setting_of_another_schedule_is_refused(self):
        with pytest.raises(InputError, match=r"^schedule\.milestones has no effect with schedule=cosine; remove it"):
            apply_overrides(Config(), {"schedule.milestones": (3,)})
        with pytest.raises(InputError, match=r"^schedule='cosin' must be one of.*did you mean 'cosine'"):
            apply_overrides(Config(), {"schedule": "cosin"})
