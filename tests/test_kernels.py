"""Kernels: each equals the function of JAX or optax that it replaces, its gradient included."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vae_jax import kernels


@pytest.mark.parametrize(
    ("key", "counter", "expected"),
    [
        ((0, 0), (0, 0), (0x6B200159, 0x99BA4EFE)),
        ((0xFFFFFFFF, 0xFFFFFFFF), (0xFFFFFFFF, 0xFFFFFFFF), (0x1CB996FC, 0xBB002BE7)),
        ((0x13198A2E, 0x03707344), (0x243F6A88, 0x85A308D3), (0xC4923A9C, 0x483DF7A0)),
    ],
)
def test_threefry_equals_the_published_test_vectors(key, counter, expected):
    """The known answers of the Random123 library, 20 rounds."""
    words = [jnp.uint32(word) for word in (*key, *counter)]
    assert tuple(int(word) for word in kernels.threefry2x32(*words)) == expected


def test_threefry_encrypts_each_counter_separately():
    counters = jnp.arange(12, dtype=jnp.uint32).reshape(3, 4)
    key0, key1 = jnp.uint32(7), jnp.uint32(9)
    x0, x1 = kernels.threefry2x32(key0, key1, jnp.zeros_like(counters), counters)
    one = kernels.threefry2x32(key0, key1, jnp.uint32(0), jnp.uint32(6))
    assert (x0[1, 2], x1[1, 2]) == one
    assert len(np.unique(np.stack([x0, x1]))) == 24


def test_compute_once_returns_the_values_unchanged():
    integers = jnp.array([0, 1, 2**22, 2**23 - 1], jnp.uint32)
    np.testing.assert_array_equal(kernels.compute_once_uint23(integers), integers)
    binary = jnp.array([0.0, 1.0])
    np.testing.assert_array_equal(kernels.compute_once_binary(binary), binary)


def test_compute_once_is_an_operation_that_the_compiler_keeps():
    integers, floats = jnp.arange(4, dtype=jnp.uint32), jnp.ones(4)
    assert "remainder" in jax.jit(kernels.compute_once_uint23).lower(integers).compile().as_text()
    assert "sqrt" in jax.jit(kernels.compute_once_binary).lower(floats).compile().as_text()


def bernoulli_in_float64(x, logits):
    x, logits = np.asarray(x, np.float64), np.asarray(logits, np.float64)
    return (x * logits - np.logaddexp(0, logits)).sum(-1)


@pytest.mark.parametrize("size", [1, 13, 15, 16, 17, 784])  # products of 1, 13, 15, 8, 1 and 14 factors
def test_bernoulli_log_prob_equals_float64(size):
    logits = 5 * jax.random.normal(jax.random.key(0), (3, 2, size))
    x = jax.random.uniform(jax.random.key(1), logits.shape)
    ours = kernels.bernoulli_log_prob(x, logits)
    np.testing.assert_allclose(ours, bernoulli_in_float64(x, logits), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("logit", [1e4, 88.0, -90.0, -1e4])
def test_bernoulli_log_prob_and_its_gradient_are_finite_for_extreme_logits(logit):
    x, logits = jnp.array([0.0, 1.0] * 15), jnp.full(30, logit)
    value, gradients = jax.value_and_grad(kernels.bernoulli_log_prob, argnums=(0, 1))(x, logits)
    np.testing.assert_allclose(value, bernoulli_in_float64(x, logits), rtol=1e-6)
    chex.assert_tree_all_finite(gradients)


def test_the_gradient_of_bernoulli_log_prob_is_that_of_the_formula():
    logits = jax.random.normal(jax.random.key(0), (2, 30))
    x = jax.random.uniform(jax.random.key(1), logits.shape)
    formula = lambda x, logits: jnp.sum(x * logits - jax.nn.softplus(logits), axis=-1)  # noqa: E731
    gradients = [
        jax.grad(lambda *arguments, f=f: jnp.sum(f(*arguments) ** 2), argnums=(0, 1))(x, logits)
        for f in (kernels.bernoulli_log_prob, formula)
    ]
    chex.assert_trees_all_close(*gradients, rtol=1e-4)


class TestConvolve:
    x = jax.random.normal(jax.random.key(0), (3, 5, 4, 2))
    kernel = jax.random.normal(jax.random.key(1), (3, 3, 2, 6))

    def test_against_a_sum_over_shifts(self):
        padded = np.pad(self.x, ((0, 0), (1, 1), (1, 1), (0, 0)))
        expected = sum(
            np.einsum("bhwc,cd->bhwd", padded[:, i : i + 5, j : j + 4], self.kernel[i, j])
            for i in range(3)
            for j in range(3)
        )
        np.testing.assert_allclose(kernels.convolve(self.x, self.kernel), expected, atol=1e-5)

    def test_both_forms_of_the_gradient_are_the_gradient(self):
        grad = jax.random.normal(jax.random.key(2), (3, 5, 4, 6))
        with jax.enable_x64(True):
            arguments = [jnp.asarray(a, jnp.float64) for a in (self.x, self.kernel, grad)]
            ours = kernels._same_form_gradients(*arguments)
            transposed = kernels._transposed_gradients(*arguments)
            for a, b in zip(ours, transposed, strict=True):
                np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-10)

            def dotted(x):
                return jnp.vdot(kernels.convolve(x, arguments[1]), arguments[2])

            step = 1e-6 * arguments[0]
            slope = (dotted(arguments[0] + step) - dotted(arguments[0] - step)) / 2e-6
            np.testing.assert_allclose(jnp.vdot(ours[0], arguments[0]), slope, rtol=1e-7)

    def test_per_example_gradients(self):
        def loss(kernel, x):
            return jnp.sum(kernels.convolve(x[None], kernel) ** 2)

        rows = jax.vmap(jax.grad(loss), in_axes=(None, 0))(self.kernel, self.x)
        batch = jax.grad(lambda kernel: jnp.sum(kernels.convolve(self.x, kernel) ** 2))(self.kernel)
        np.testing.assert_allclose(rows.sum(axis=0), batch, rtol=1e-4, atol=1e-4)


PARAMS = {"w": jnp.array([[1.0, -2.0], [0.5, 3.0]]), "b": jnp.array(0.1)}


class TestScaleByAdam:
    def updates(self, transformation, steps=5):
        """The updates of several steps and the last state; the gradients change in size and sign."""
        state, updates = transformation.init(PARAMS), []
        for i in range(steps):
            grads = jax.tree.map(lambda p, i=i: p * (-0.3) ** i, PARAMS)
            update, state = transformation.update(grads, state, PARAMS)
            updates.append(update)
        return updates, state

    @pytest.mark.parametrize(("b1", "b2", "eps"), [(0.9, 0.999, 1e-8), (0.5, 0.9, 0.1), (0.0, 0.99, 1e-3)])
    def test_updates_and_state_equal_those_of_optax(self, b1, b2, eps):
        (ours, state), (theirs, expected) = (
            self.updates(f(b1, b2, eps)) for f in (kernels.scale_by_adam, optax.scale_by_adam)
        )
        chex.assert_trees_all_close(ours, theirs, rtol=1e-5)
        assert type(state) is type(expected)
        chex.assert_trees_all_close(state, expected, rtol=1e-5)
        assert state.count == 5

    def test_the_decays_may_be_traced_so_that_they_differ_between_models(self):
        decays = jnp.array([0.5, 0.9])
        together, _ = jax.vmap(lambda b1: self.updates(kernels.scale_by_adam(b1, 0.999, 1e-8)))(decays)
        for i, b1 in enumerate((0.5, 0.9)):
            alone, _ = self.updates(kernels.scale_by_adam(b1, 0.999, 1e-8))
            chex.assert_trees_all_close(jax.tree.map(lambda leaf, i=i: leaf[i], together), alone, rtol=1e-5)


def test_global_norm_is_the_norm_of_all_numbers():
    rng = np.random.default_rng(0)
    tree = {
        "a": rng.normal(size=(3, 2, 5)),
        "b": [rng.normal(size=7), rng.normal(size=())],
        "c": rng.normal(size=(4, 1)),
    }
    expected = np.sqrt(sum((leaf**2).sum() for leaf in jax.tree.leaves(tree)))
    np.testing.assert_allclose(kernels.global_norm(jax.tree.map(jnp.asarray, tree)), expected, rtol=1e-6)
    assert not np.isfinite(kernels.global_norm({"a": jnp.array([1.0, np.nan]), "b": jnp.array([np.inf])}))
