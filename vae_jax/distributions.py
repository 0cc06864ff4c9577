"""Probability densities as pytrees: `sample`, `log_prob` in nats, `mean` in data units, and KL divergences.

A density is a frozen dataclass whose parameters are arrays `[*batch, *event]`, so a network can return it,
and `jit`, `vmap`, `grad` and `stop_gradient` pass through it. The last `event_ndims` axes are one
observation: `log_prob` sums over them and keeps every constant. A value and the parameters may differ only by
*leading* axes, `z [K, B, D]` against `loc [B, D]` or `loc [D]`; all axes they share must be equal, so that
neither K = B nor an axis of size one ever broadcasts silently. Arithmetic is done in the dtype of the
parameters: hand over float32, whatever the precision of the network.
"""

import dataclasses
import math
from typing import ClassVar

import chex
import jax
import jax.numpy as jnp

from vae_jax import random

Array = jax.Array
Shape = tuple[int, ...]

LOG_2PI = 1.8378770664093453


def _event_ndims(default: int):
    """Returns a dataclass field for the number of trailing event axes: static, so never traced."""
    return dataclasses.field(default=default, metadata={"static": True})


def _joint_shape(event_ndims: int, *shapes: Shape) -> Shape:
    """Returns the longest of the shapes; raises ValueError unless every other is the end of it."""
    longest = max(shapes, key=len)
    for shape in shapes:
        if len(shape) < event_ndims or shape != longest[len(longest) - len(shape) :]:
            raise ValueError(
                f"shapes may differ only by leading axes before the {event_ndims} event axes, got "
                + " and ".join(map(str, shapes))
            )
    return longest


def _expand(shape: Shape, *arrays: Array) -> list[Array]:
    """Repeats each array along new leading axes, explicitly."""
    return [jnp.broadcast_to(array, shape) for array in arrays]


def _sum_event(values: Array, event_ndims: int) -> Array:
    return jnp.sum(values, axis=tuple(range(-event_ndims, 0)))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Normal:
    """Independent Gaussians N(loc, σ²) with σ = exp(log_scale).

    Attributes:
      loc: `[*batch, *event]`, the means.
      log_scale: the same shape, log σ; each number's log density and gradient are finite for |log σ| ≤ 40 and
        |z - loc| ≤ 40.
      event_ndims: how many trailing axes form one observation.
    """

    loc: Array
    log_scale: Array
    event_ndims: int = _event_ndims(1)

    def sample(self, key: random.Key, sample_shape: Shape = ()) -> Array:
        """Draws z = loc + σ·e with e ~ N(0, I), through which gradients flow.

        Returns `[*sample_shape, *batch, *event]`. Kingma & Welling, Auto-Encoding Variational Bayes, 2014.
        """
        chex.assert_equal_shape([self.loc, self.log_scale])
        shape = (*sample_shape, *self.loc.shape)
        loc, scale = _expand(shape, self.loc, jnp.exp(self.log_scale))
        rows = len(shape) - self.event_ndims - 1  # the axis of the examples
        return loc + scale * random.normal(key, shape, self.loc.dtype, axis=rows)

    def log_prob(self, value: Array) -> Array:
        """Returns Σ −½((z − loc)/σ)² − log σ − ½ log 2π over the event, in nats.

        Raises ValueError where `value` and `loc` differ by more than leading axes.
        """
        chex.assert_equal_shape([self.loc, self.log_scale])
        chex.assert_type(value, float)
        shape = _joint_shape(self.event_ndims, value.shape, self.loc.shape)
        value, loc, log_scale = _expand(shape, value, self.loc, self.log_scale)
        standardised = (value - loc) * jnp.exp(-log_scale)
        return _sum_event(-0.5 * (standardised**2 + LOG_2PI) - log_scale, self.event_ndims)

    def mean(self) -> Array:
        """Returns loc, `[*batch, *event]`."""
        return self.loc


def standard_normal(shape: Shape, event_ndims: int = 1) -> Normal:
    """Returns N(0, I), the prior of a VAE; `shape` is `[*batch, *event]`, most often just `(D,)`."""
    return Normal(jnp.zeros(shape), jnp.zeros(shape), event_ndims)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Deterministic:
    """A point mass at loc: the code of an autoencoder. It has no density, hence no `log_prob`.

    Attributes:
      loc: `[*batch, *event]`.
      event_ndims: how many trailing axes form one observation.
    """

    loc: Array
    event_ndims: int = _event_ndims(1)

    def sample(self, key: Array, sample_shape: Shape = ()) -> Array:
        """Repeats loc: `[*sample_shape, *batch, *event]`."""
        del key
        return jnp.broadcast_to(self.loc, (*sample_shape, *self.loc.shape))

    def mean(self) -> Array:
        """Returns loc, `[*batch, *event]`."""
        return self.loc


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Bernoulli:
    """Independent binary pixels with P(x = 1) = sigmoid(logits).

    Attributes:
      logits: `[*batch, *event]`, log-odds.
      event_ndims: how many trailing axes form one observation, three for images `[H, W, C]`.
    """

    logits: Array
    event_ndims: int = _event_ndims(3)

    def sample(self, key: Array, sample_shape: Shape = ()) -> Array:
        """Draws 0.0 or 1.0, `[*sample_shape, *batch, *event]`; no gradient flows through the draw."""
        (probability,) = _expand((*sample_shape, *self.logits.shape), self.mean())
        return jax.random.bernoulli(key, probability).astype(self.logits.dtype)

    def log_prob(self, value: Array) -> Array:
        """Returns Σ x·l − log(1 + exp(l)) over the event, in nats, each pixel's finite for every finite logit l.

        For x in {0, 1} this is the log probability. For intensities in (0, 1) it is minus the cross entropy,
        the expected log probability of a random binarisation of x: usable as a reconstruction loss, but no
        normalised density over [0, 1], so bounds on log p(x) hold for binary x only.
        Raises ValueError where `value` and `logits` differ by more than leading axes.
        """
        chex.assert_type(value, float)
        shape = _joint_shape(self.event_ndims, value.shape, self.logits.shape)
        value, logits = _expand(shape, value, self.logits)
        pixels = (*shape[: len(shape) - self.event_ndims], -1)
        return _bernoulli_log_prob(value.reshape(pixels), logits.reshape(pixels))

    def mean(self) -> Array:
        """Returns P(x = 1), `[*batch, *event]`."""
        return jax.nn.sigmoid(self.logits)


@jax.custom_jvp
def _bernoulli_log_prob(x: Array, logits: Array) -> Array:
    """Returns Σ x·l − log(1 + exp(l)) over the last axis, the logarithm as max(l, 0) + log(1 + exp(−|l|)).

    Trainings and evaluations spend most of what is not matrix work here. Up to 15 of the factors 1 + exp(−|l|), none
    above 2, are multiplied before one logarithm is taken; with more, XLA would no longer fuse them. The sum is a
    product with ones, because XLA's CPU compiler adds one number at a time otherwise; and the derivative is written
    out, x − sigmoid(l).
    """
    size = x.shape[-1]
    count = next(n for n in range(15, 0, -1) if size % n == 0)
    x, logits = ([array[..., i : i + size // count] for i in range(0, size, size // count)] for array in (x, logits))
    linear = sum(a * l - jnp.maximum(l, 0) for a, l in zip(x, logits, strict=True))
    values = linear - jnp.log(math.prod(1 + jnp.exp(-jnp.abs(l)) for l in logits))  # [..., size / count]
    return jnp.matmul(values, jnp.ones(values.shape[-1:], values.dtype), precision=jax.lax.Precision.HIGHEST)


@_bernoulli_log_prob.defjvp
def _bernoulli_log_prob_jvp(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    (x, logits), (dx, dlogits) = primals, tangents
    slope = (x - jax.nn.sigmoid(logits)) * dlogits + logits * dx
    return _bernoulli_log_prob(x, logits), jnp.sum(slope, axis=-1)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class DiscretizedLogisticMixture:
    """M mixed logistics for 8-bit pixels: a probability for each of the 256 values i/255 of each channel.

    The parameters live in the units y = 2x − 1 of [−1, 1]. Each pixel picks one component m for all its
    channels; then channel c is logistic around loc_mc + Σ_{j<c} a_mcj·y_j, rounded to the grid, the tails
    falling to 0 and 255. Pixels are independent. The scale is exp(log_scale), where log_scale below −7 counts
    as −7, as in the paper. bits/dim = −log_prob / (H·W·C·ln 2).

    Salimans et al., PixelCNN++, 2017.

    Attributes:
      logits: `[*batch, H, W, M]`, unnormalised log weights of the components.
      loc: `[*batch, H, W, M, C]`.
      log_scale: `[*batch, H, W, M, C]`.
      coefficients: `[*batch, H, W, M, C(C−1)/2]`, a_mcj in the order (1,0), (2,0), (2,1), ...; empty if grey.
    """

    logits: Array
    loc: Array
    log_scale: Array
    coefficients: Array
    event_ndims: ClassVar[int] = 3

    @staticmethod
    def num_features(num_components: int, num_channels: int) -> int:
        """Returns F = M(1 + 2C + C(C−1)/2), the features of a pixel: 3M if grey, 10M in colour."""
        return num_components * (1 + 2 * num_channels + num_channels * (num_channels - 1) // 2)

    @classmethod
    def from_features(cls, features: Array, num_components: int, num_channels: int) -> "DiscretizedLogisticMixture":
        """Reads a decoder's output `[*batch, H, W, F]` as a density.

        Coefficients pass through tanh, as in the paper.
        Raises ValueError unless F is `num_features(num_components, num_channels)`.
        """
        expected = cls.num_features(num_components, num_channels)
        if features.ndim < 3 or features.shape[-1] != expected:
            raise ValueError(f"features must be [..., H, W, {expected}], got {features.shape}")
        pixels, m, c = features.shape[:-1], num_components, num_channels
        logits, loc, log_scale, coefficients = jnp.split(features, [m, m + m * c, m + 2 * m * c], axis=-1)
        return cls(
            logits=logits,
            loc=loc.reshape(*pixels, m, c),
            log_scale=log_scale.reshape(*pixels, m, c),
            coefficients=jnp.tanh(coefficients.reshape(*pixels, m, c * (c - 1) // 2)),
        )

    def sample(self, key: Array, sample_shape: Shape = ()) -> Array:
        """Draws images on the grid i/255, `[*sample_shape, *batch, H, W, C]`; without gradient."""
        density = self._repeated((*sample_shape, *self._value_shape()[:-3]))
        key_component, key_noise = jax.random.split(key)
        component = jax.random.categorical(key_component, density.logits)[..., None, None]
        loc, log_scale, coefficients = (
            jnp.take_along_axis(parameter, component, axis=-2)[..., 0, :]  # [..., H, W, C]
            for parameter in (density.loc, density.log_scale, density.coefficients)
        )
        noise = jnp.exp(_clip(log_scale)) * jax.random.logistic(key_noise, loc.shape, loc.dtype)
        bins = []
        for channel in range(loc.shape[-1]):
            centre = _centre(loc, coefficients, [_bin_centre(b) for b in bins])
            bins.append(jnp.clip(jnp.round(127.5 * (centre + noise[..., channel] + 1)), 0, 255))
        return jnp.stack(bins, axis=-1) / 255

    def log_prob(self, value: Array) -> Array:
        """Returns Σ_pixels log Σ_m π_m Π_c P_mc(x_c), in nats; exp of it sums to one over all images.

        `value` is `[..., H, W, C]` on the grid i/255 of [0, 1] and is read at the nearest grid value. The
        probability of a bin (a, b), in units of the scale, is
        sigmoid(b) − sigmoid(a) = sigmoid(b)·sigmoid(−a)·(1 − exp(a − b)):
        three factors whose logarithms are finite and accurate however narrow or far away the bin. The bin of
        0 has a = −∞, that of 255 has b = ∞.
        Raises ValueError where `value` and the parameters differ by more than leading axes.
        """
        chex.assert_type(value, float)
        shape = _joint_shape(self.event_ndims, value.shape, self._value_shape())
        density = self._repeated(shape[:-3])
        value = jnp.broadcast_to(jnp.broadcast_to(value, shape)[..., None, :], density.loc.shape)
        bins = jnp.round(255 * value)  # [..., H, W, M, C]
        y = [_bin_centre(bins[..., channel]) for channel in range(shape[-1])]
        centres = [_centre(density.loc, density.coefficients, y[:channel]) for channel in range(shape[-1])]
        centre = jnp.stack(centres, axis=-1)  # [..., H, W, M, C]
        log_scale = _clip(density.log_scale)
        # Neighbouring bins share an edge to the last bit, so that the probabilities sum to one.
        upper = ((2 * bins - 254) / 255 - centre) * jnp.exp(-log_scale)
        lower = ((2 * bins - 256) / 255 - centre) * jnp.exp(-log_scale)
        log_below = jnp.where(bins == 255, 0.0, jax.nn.log_sigmoid(upper))
        log_above = jnp.where(bins == 0, 0.0, jax.nn.log_sigmoid(-lower))
        log_width = jnp.log(-jnp.expm1(-2 / 255 * jnp.exp(-log_scale)))
        log_width = jnp.where((bins == 0) | (bins == 255), 0.0, log_width)
        log_channels = jnp.sum(log_below + log_above + log_width, axis=-1)  # [..., H, W, M]
        log_pixel = jax.nn.logsumexp(jax.nn.log_softmax(density.logits) + log_channels, axis=-1)
        return _sum_event(log_pixel, 2)

    def mean(self) -> Array:
        """Returns Σ_m π_m·clip(centre of component m), `[*batch, H, W, C]` in [0, 1]: an image to draw.

        It is the mean of the density up to what rounding to the grid and the tails beyond 0 and 255 move.
        """
        self._check_shapes()
        centres = []
        for _ in range(self.loc.shape[-1]):
            centres.append(jnp.clip(_centre(self.loc, self.coefficients, centres), -1, 1))
        weights = jax.nn.softmax(self.logits)
        y = [jnp.sum(weights * centre, axis=-1) for centre in centres]
        return jnp.clip((jnp.stack(y, axis=-1) + 1) / 2, 0, 1)

    def _check_shapes(self):
        channels = self.loc.shape[-1]
        chex.assert_equal_shape([self.loc, self.log_scale])
        chex.assert_shape(self.loc, (*self.logits.shape, channels))
        chex.assert_shape(self.coefficients, (*self.logits.shape, channels * (channels - 1) // 2))

    def _value_shape(self) -> Shape:
        """Returns `(*batch, H, W, C)`."""
        self._check_shapes()
        return (*self.logits.shape[:-1], self.loc.shape[-1])

    def _repeated(self, batch: Shape) -> "DiscretizedLogisticMixture":
        """Repeats the density along new leading axes, until its batch shape is `batch`."""
        height_width = self.logits.shape[-3:-1]

        def repeat(parameter: Array) -> Array:
            own = parameter.shape[self.logits.ndim - 1 :]
            return jnp.broadcast_to(parameter, (*batch, *height_width, *own))

        return jax.tree.map(repeat, self)


def _clip(log_scale: Array) -> Array:
    """Keeps log_scale in [−7, 60]: below as in the paper, above so that no bin's width underflows."""
    return jnp.clip(log_scale, -7.0, 60.0)


def _bin_centre(bins: Array) -> Array:
    """Maps the bins 0, ..., 255 to y in [−1, 1]."""
    return (2 * bins - 255) / 255


def _centre(loc: Array, coefficients: Array, earlier: list[Array]) -> Array:
    """Returns loc_c + Σ_{j<c} a_cj·y_j for channel c = len(earlier), the earlier channels being y_j."""
    channel = len(earlier)
    first = channel * (channel - 1) // 2
    shifts = (coefficients[..., first + j] * y for j, y in enumerate(earlier))
    return sum(shifts, start=loc[..., channel])


def kl_divergence(q: Normal | Bernoulli, p: Normal | Bernoulli) -> Array:
    """Returns KL(q ‖ p) = E_q[log q − log p] in closed form, summed over the event, in nats.

    Normal ‖ Normal:        Σ ½(exp(2d) − 1 − 2d + ((m_q − m_p)/σ_p)²) with d = log σ_q − log σ_p.
    Bernoulli ‖ Bernoulli:  Σ q log(q/p) + (1 − q) log((1 − q)/(1 − p)).

    With s = log σ² the divergence of N(m, σ²) from N(0, I) is ½ Σ exp(s) + m² − 1 − s.
    As with `log_prob`, one of the two may lack leading axes: a posterior `[B, D]` against a prior `[D]`.
    Raises TypeError where there is no closed form, ValueError where the shapes or the event axes do not fit.
    """
    match q, p:
        case Normal(), Normal():
            chex.assert_equal_shape([q.loc, q.log_scale])
            chex.assert_equal_shape([p.loc, p.log_scale])
            shape = _common_shape(q, p, q.loc, p.loc)
            q_loc, q_log_scale, p_loc, p_log_scale = _expand(shape, q.loc, q.log_scale, p.loc, p.log_scale)
            log_ratio = q_log_scale - p_log_scale
            distance = (q_loc - p_loc) * jnp.exp(-p_log_scale)
            return _sum_event(0.5 * (jnp.expm1(2 * log_ratio) - 2 * log_ratio + distance**2), q.event_ndims)
        case Bernoulli(), Bernoulli():
            shape = _common_shape(q, p, q.logits, p.logits)
            q_logits, p_logits = _expand(shape, q.logits, p.logits)

            def half(a: Array, b: Array) -> Array:  # P_q(1) log(P_q(1) / P_p(1)), and with −a, −b that of 0
                return jax.nn.sigmoid(a) * (jax.nn.log_sigmoid(a) - jax.nn.log_sigmoid(b))

            return _sum_event(half(q_logits, p_logits) + half(-q_logits, -p_logits), q.event_ndims)
        case _:
            raise TypeError(f"no closed form for KL({type(q).__name__} ‖ {type(p).__name__})")


def _common_shape(q: Normal | Bernoulli, p: Normal | Bernoulli, q_array: Array, p_array: Array) -> Shape:
    if q.event_ndims != p.event_ndims:
        raise ValueError(f"q and p must have equal event_ndims, got {q.event_ndims} and {p.event_ndims}")
    return _joint_shape(q.event_ndims, q_array.shape, p_array.shape)
