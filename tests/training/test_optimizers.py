"""Optimizers and schedules against optax and closed forms."""

import chex
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vae_jax.config.presets import PRESETS
from vae_jax.config.schema import OptimizerConfig
from vae_jax.errors import InputError
from vae_jax.training.optimizers import make_optimizer, make_schedule


class TestOptimizer:
    @pytest.mark.parametrize("name", ["adam", "adamw", "adamax", "rmsprop", "sgd", "lion"])
    def test_each_optimizer_equals_optaxs_of_the_same_name(self, name):
        eps = 0.05  # of the size of the gradients
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

    def test_clipping_keeps_the_structure_of_the_state(self):
        config = OptimizerConfig(schedule="constant")
        clipped = make_optimizer(OptimizerConfig(schedule="constant", clip_norm=1.0), 10)
        params = jnp.zeros(2)
        chex.assert_trees_all_equal(clipped.init(params), make_optimizer(config, 10).init(params))

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
        with pytest.raises(InputError, match=r"^optimizer\.schedule='cosin' must be one of.*did you mean 'cosine'"):
            at([0], schedule="cosin")

    @pytest.mark.parametrize("preset", PRESETS)
    def test_the_optimizer_of_every_preset_can_be_built(self, preset):
        config = PRESETS[preset]
        optimizer = make_optimizer(config.optimizer, config.train.steps)
        optimizer.init({"w": jnp.zeros(3)})
