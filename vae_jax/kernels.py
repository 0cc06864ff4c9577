"""Operations that are written by hand because XLA compiles the usual form to slower code.

Each computes what a function of JAX or optax computes. Its docstring states the reason, the measured gain, and when to
delete it. Times are of preset `mnist` or `mnist-400` on two CPU cores unless stated otherwise; docs/measurements.md
describes the measurements.
"""

import functools
import math
import operator
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array, lax

_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
_PARITY = 0x1BD11BDA


@jax.jit
def threefry2x32(key0: Array, key1: Array, x0: Array, x1: Array) -> tuple[Array, Array]:
    """Encrypt the counters (x0, x1) with the key (key0, key1) by Threefry-2x32, 20 rounds.

    The bits are those of jax.random (Salmon et al., Parallel random numbers: as easy as 1, 2, 3, 2011).

    Reason: jax.random keeps the rounds in a loop on the CPU, and each iteration goes through memory. Here the rounds
    are unrolled and become one loop over registers. The function is jitted, so that its 150 operations are traced once
    for each shape, and not wherever a key is folded.
    Gain: 113 against 466 microseconds for the bits of a batch of 128 MNIST images.
    Delete when: jax.random.bits is as fast on the CPU.

    Args:
      key0: uint32 [], first half of the key.
      key1: uint32 [], second half of the key.
      x0: uint32 [...], high words of the counters.
      x1: uint32 [...], low words of the counters.

    Returns:
      Two arrays of random bits, uint32 [...].
    """
    keys = (key0, key1, key0 ^ key1 ^ jnp.uint32(_PARITY))
    x0, x1 = x0 + keys[0], x1 + keys[1]
    for i in range(5):
        for rotation in _ROTATIONS[i % 2]:
            x0 = x0 + x1
            x1 = x0 ^ ((x1 << rotation) | (x1 >> (32 - rotation)))
        x0, x1 = x0 + keys[(i + 1) % 3], x1 + keys[(i + 2) % 3] + jnp.uint32(i + 1)
    return x0, x1


def compute_once_uint23(values: Array) -> Array:
    """Return uint32 values below 2^23 unchanged, as an operation that XLA does not duplicate.

    Reason: XLA fuses a cheap producer into each of its consumers, and considers the hundred integer operations of
    Threefry cheap, so the bits were computed several times in a step. `lax.optimization_barrier` is removed before
    fusion on the CPU. A remainder counts as expensive and is never duplicated.
    Gain: with `compute_once_binary`, a step with dynamic binarisation takes 1.02 to 1.06 of the time of one without,
    against 1.22 to 1.29.
    Delete when: XLA's CPU compiler keeps optimization barriers, or no longer duplicates such producers.

    Args:
      values: uint32 [...], each less than 2^23.

    Returns:
      The same values.
    """
    return lax.rem(values, jnp.uint32(2**23 + 1))


def compute_once_binary(values: Array) -> Array:
    """Return an array of 0.0 and 1.0 unchanged, as an operation that XLA does not duplicate: its square root.

    Reason, gain and when to delete: see `compute_once_uint23`. Without it a training step drew the pixels four times.

    Args:
      values: floats [...], each 0 or 1.

    Returns:
      The same values.
    """
    return jnp.sqrt(values)


@jax.custom_jvp
def bernoulli_log_prob(x: Array, logits: Array) -> Array:
    """Return Σ x·l − log(1 + exp(l)) over the last axis, with log(1 + exp(l)) = max(l, 0) + log(1 + exp(−|l|)).

    Reason: apart from matrix products, most of the time of a training or an evaluation is spent here. Up to 15 of the
    factors 1 + exp(−|l|), each at most 2, are multiplied before one logarithm is taken; with 16 XLA no longer fuses
    them. The sum is a product with ones, because XLA's CPU compiler otherwise adds one number at a time. The derivative
    is explicit: x − sigmoid(l).
    Gain: 1.8 to 2.1 against 3.8 ms for 4,000 images of 784 pixels.
    Delete when: XLA vectorizes logarithms and reductions on the CPU to the same speed.

    Args:
      x: floats [..., P] in [0, 1].
      logits: floats [..., P], log-odds l.

    Returns:
      [...], in nats.
    """
    size = x.shape[-1]
    count = next(n for n in range(15, 0, -1) if size % n == 0)
    xs = _blocks(x, size // count)
    ls = _blocks(logits, size // count)
    linear = functools.reduce(operator.add, (a * l - jnp.maximum(l, 0) for a, l in zip(xs, ls, strict=True)))
    values = linear - jnp.log(math.prod(1 + jnp.exp(-jnp.abs(l)) for l in ls))  # [..., P / count]
    return jnp.matmul(values, jnp.ones(values.shape[-1:], values.dtype), precision=lax.Precision.HIGHEST)


def _blocks(array: Array, length: int) -> list[Array]:
    return [array[..., i : i + length] for i in range(0, array.shape[-1], length)]


@bernoulli_log_prob.defjvp
def _bernoulli_log_prob_jvp(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    (x, logits), (dx, dlogits) = primals, tangents
    slope = (x - jax.nn.sigmoid(logits)) * dlogits + logits * dx
    return bernoulli_log_prob(x, logits), jnp.sum(slope, axis=-1)


def _forward_convolution(x: Array, kernel: Array) -> Array:
    return lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


@jax.custom_vjp
def convolve(x: Array, kernel: Array) -> Array:
    """Return the convolution with stride 1 and zero padding.

    Reason: XLA's CPU compiler has a fast kernel for this form of a convolution only, and inside a loop it does not
    rearrange other forms. The gradients are therefore written as convolutions of the same form.
    Gain: a factor of 45 for the gradients inside a loop.
    Delete when: the gradients of `lax.conv_general_dilated` are as fast inside a loop on the CPU.

    Args:
      x: [B, H, W, C].
      kernel: [k, k, C, C'] with odd k.

    Returns:
      [B, H, W, C'].
    """
    return _forward_convolution(x, kernel)


def _convolve_forward(x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    return convolve(x, kernel), (x, kernel)


def _convolve_backward(saved: tuple[Array, Array], grad: Array) -> tuple[Array, Array]:
    return lax.platform_dependent(*saved, grad, cpu=_same_form_gradients, default=_transposed_gradients)


def _same_form_gradients(x: Array, kernel: Array, grad: Array) -> tuple[Array, Array]:
    margin = kernel.shape[0] // 2
    grad_x = convolve(grad, jnp.flip(kernel, (0, 1)).swapaxes(2, 3))
    # Channels take the role of the batch: [C, H, W, B] * [H, W, B, C'] -> [C, k, k, C'].
    grad_kernel = lax.conv_general_dilated(
        x.transpose(3, 1, 2, 0),
        grad.transpose(1, 2, 0, 3),
        (1, 1),
        [(margin, margin)] * 2,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    return grad_x, grad_kernel.transpose(1, 2, 0, 3)


def _transposed_gradients(x: Array, kernel: Array, grad: Array) -> tuple[Array, Array]:
    _, pullback = jax.vjp(_forward_convolution, x, kernel)
    return pullback(grad)


convolve.defvjp(_convolve_forward, _convolve_backward)


def scale_by_adam(b1: Array | float, b2: Array | float, eps: Array | float) -> optax.GradientTransformation:
    """Return optax.scale_by_adam with one square root and one division for each parameter.

    m̂ / (sqrt(v̂) + eps) with m̂ = m / (1 − b1^t) and v̂ = v / (1 − b2^t) equals c·m / (sqrt(1 − b2^t)·eps + sqrt(v)) with
    one number c = sqrt(1 − b2^t) / (1 − b1^t) for all parameters (Kingma & Ba, arXiv 1412.6980, section 2).

    Reason: optax divides each parameter three times.
    Gain: with optax's form a step of 20 images takes 1.11 of the time.
    Delete when: optax uses this form.

    Args:
      b1: decay of the first moment.
      b2: decay of the second moment.
      eps: added to the root of the second moment.

    Returns:
      A gradient transformation with the state of optax.scale_by_adam.
    """

    def init(params: optax.Params) -> optax.ScaleByAdamState:
        return optax.ScaleByAdamState(jnp.zeros((), jnp.int32), *(optax.tree.zeros_like(params) for _ in range(2)))

    def update(
        updates: optax.Updates, state: Any, params: optax.Params | None = None
    ) -> tuple[optax.Updates, optax.ScaleByAdamState]:
        del params
        mu = jax.tree.map(lambda m, g: b1 * m + (1 - b1) * g, state.mu, updates)
        nu = jax.tree.map(lambda v, g: b2 * v + (1 - b2) * g * g, state.nu, updates)
        count = optax.safe_increment(state.count)
        root = jnp.sqrt(1 - b2**count)
        scale, floor = root / (1 - b1**count), root * eps
        scaled = jax.tree.map(lambda m, v: scale * m / (floor + jnp.sqrt(v)), mu, nu)
        return scaled, optax.ScaleByAdamState(count, mu, nu)

    return optax.GradientTransformation(init, update)


def global_norm(tree: Any) -> Array:
    """Return the Euclidean norm of all numbers of a pytree, [].

    Reason: for a sum over all numbers of an array XLA's CPU compiler writes the squares to memory and adds them in
    blocks, which takes longer than the matrix products of a layer. The sum is a product with ones.
    Gain: with `optax.tree.norm` a step of 20 images takes 1.20 of the time.
    Delete when: `optax.tree.norm` is as fast on the CPU.

    Args:
      tree: a pytree of arrays.

    Returns:
      A scalar.
    """

    def squares(leaf: Array) -> Array:
        rows = jnp.square(leaf.reshape(-1, *leaf.shape[-1:]))
        return jnp.sum(jnp.matmul(rows, jnp.ones(rows.shape[1:]), precision="highest")) if leaf.ndim else rows.sum()

    return jnp.sqrt(functools.reduce(operator.add, map(squares, jax.tree.leaves(tree))))
