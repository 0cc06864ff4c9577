"""KL divergences in closed form."""

from collections.abc import Callable, Mapping
from typing import Any

import chex
import jax
import jax.numpy as jnp

from vae_jax.distributions.base import Array, Distribution, Shape, expand, joint_shape, sum_event
from vae_jax.distributions.bernoulli import Bernoulli
from vae_jax.distributions.categorical import Categorical
from vae_jax.distributions.codes import CategoricalCodes, GumbelCodes, UniformCodes
from vae_jax.distributions.normal import Normal


def kl_divergence(q: Distribution, p: Distribution) -> Array | None:
    """Return KL(q ‖ p) = E_q[log q − log p] in closed form, summed over the event.

    Normal ‖ Normal:            Σ ½(exp(2d) − 1 − 2d + ((m_q − m_p)/σ_p)²) with d = log σ_q − log σ_p.
    Bernoulli ‖ Bernoulli:      Σ q log(q/p) + (1 − q) log((1 − q)/(1 − p)).
    Categorical ‖ Categorical:  Σ q log(q/p), over the classes also.
    GumbelCodes ‖ CategoricalCodes, UniformCodes: the same of integer codes.

    With s = log σ² the divergence of N(m, σ²) from N(0, I) is ½ Σ exp(s) + m² − 1 − s.

    A closed form holds for exactly these types. A subclass may override the density, so it has none.

    Args:
      q: a distribution, for example a posterior with parameters [B, D].
      p: a distribution of the same type, for example a prior with parameters [D]. The shapes of q and p may differ only
        by leading axes.

    Returns:
      The shape of the longer of both without the event axes, in nats. None if there is no closed form for these types;
      the mean of log q − log p over samples of q estimates it.

    Raises:
      ValueError: the shapes of q and p differ by more than leading axes, or the numbers of event axes differ.
    """
    closed_form = _CLOSED_FORMS.get((type(q), type(p)))
    return None if closed_form is None else closed_form(q, p)


def _normal_kl(q: Normal, p: Normal) -> Array:
    chex.assert_equal_shape([q.loc, q.log_scale])
    chex.assert_equal_shape([p.loc, p.log_scale])
    shape = _common_shape(q, p, q.loc, p.loc)
    q_loc, q_log_scale, p_loc, p_log_scale = expand(shape, q.loc, q.log_scale, p.loc, p.log_scale)
    log_ratio = q_log_scale - p_log_scale
    distance = (q_loc - p_loc) * jnp.exp(-p_log_scale)
    return sum_event(0.5 * (jnp.expm1(2 * log_ratio) - 2 * log_ratio + distance**2), q.event_ndims)


def _bernoulli_kl(q: Bernoulli, p: Bernoulli) -> Array:
    q_logits, p_logits = expand(_common_shape(q, p, q.logits, p.logits), q.logits, p.logits)

    def half(a: Array, b: Array) -> Array:  # q(1) log(q(1) / p(1)) of logits a, b; of −a, −b the term of 0
        return jax.nn.sigmoid(a) * (jax.nn.log_sigmoid(a) - jax.nn.log_sigmoid(b))

    return sum_event(half(q_logits, p_logits) + half(-q_logits, -p_logits), q.event_ndims)


def _categorical_kl(q: Categorical, p: Categorical) -> Array:
    q_log, p_log = jax.nn.log_softmax(q.logits), jax.nn.log_softmax(p.logits)
    q_log, p_log = expand(_common_shape(q, p, q_log, p_log), q_log, p_log)
    return sum_event(jnp.exp(q_log) * (q_log - p_log), q.event_ndims)


def _codes_kl(q: GumbelCodes, p: CategoricalCodes) -> Array:
    q_log, p_log = jax.nn.log_softmax(q.logits), jax.nn.log_softmax(p.logits)
    q_log, p_log = expand(joint_shape(2, q_log.shape, p_log.shape), q_log, p_log)
    return sum_event(jnp.exp(q_log) * (q_log - p_log), 2)


def _uniform_codes_kl(q: GumbelCodes, p: UniformCodes) -> Array:
    return _codes_kl(q, CategoricalCodes(jnp.zeros((p.count, p.num_codes), q.logits.dtype)))


_WithKL = Normal | Bernoulli | Categorical


def _common_shape(q: _WithKL, p: _WithKL, q_array: Array, p_array: Array) -> Shape:
    if q.event_ndims != p.event_ndims:
        raise ValueError(f"q.event_ndims={q.event_ndims} must equal p.event_ndims={p.event_ndims}")
    return joint_shape(q.event_ndims, q_array.shape, p_array.shape)


_CLOSED_FORMS: Mapping[tuple[type, type], Callable[[Any, Any], Array]] = {
    (Normal, Normal): _normal_kl,
    (Bernoulli, Bernoulli): _bernoulli_kl,
    (Categorical, Categorical): _categorical_kl,
    (GumbelCodes, CategoricalCodes): _codes_kl,
    (GumbelCodes, UniformCodes): _uniform_codes_kl,
}
