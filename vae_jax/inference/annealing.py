"""Annealed importance sampling of log p(x), and bounds of its error on simulated data.

The path of densities f_t(z) = b(z)^(1-t) (p(x|z) p(z))^t, 0 <= t <= 1, begins at a base b: the prior p(z), or the
posterior q(z|x) of the encoder. See Neal, arXiv physics/9803008; Wu et al., arXiv 1611.04273; Grosse et al., arXiv
1511.02543.
"""

import dataclasses
import functools
import math
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from vae_jax import random
from vae_jax.config import any_of, require
from vae_jax.distributions import Batch, Latent, from_prior, from_values
from vae_jax.errors import InputError
from vae_jax.inference import hamiltonian
from vae_jax.inference.bound import Params, batch_size, decode, encode, sample_terms
from vae_jax.inference.hamiltonian import TARGET_ACCEPTANCE, State
from vae_jax.inference.importance import log_mean_exp
from vae_jax.inference.labels import require_labels
from vae_jax.inference.terms import Terms, log_p, posterior_log_density

_SHARPNESS = 4.0  # of the schedule: t is a sigmoid from -4 to 4, so that steps are small at both ends
_FIRST_STEP = 0.1  # size of a leapfrog step before its adaptation
_WARMUP, _GAIN, _PATH_GAIN = 30, 0.5, 0.25  # transitions before the path, and the gains of the adaptation
_ADAPTATIONS = 100  # transitions of the pilot run at least; a short path has several for each distribution
_JITTER = 0.2  # a step has 0.8 to 1.2 times its size, so that no trajectory ends where it begins (Neal, section 5.4.2)
_PILOT, _FORWARD, _REVERSE, _SIMULATION = range(4)  # streams of the keys of an example

Start = Literal["encoder", "prior"]
_Values = dict[str, Array]  # name of a layer -> z [C, B, *event], or [L, C, B, *event] of L blocks


@dataclasses.dataclass(frozen=True)
class Annealing:
    """Settings of annealed importance sampling.

    Attributes:
      num_distributions: T, the distributions after the base; 1 is importance sampling, without transitions.
      num_chains: C, the chains of each example.
      start: the base of the path: "encoder", q(z|x), or "prior", p(z).
      num_leapfrog: leapfrog steps of a transition.
      num_pilot: chains of the pilot run, which chooses the step sizes.
    """

    num_distributions: int = 1000
    num_chains: int = 16
    start: Start = "encoder"
    num_leapfrog: int = 10
    num_pilot: int = 8

    def __post_init__(self) -> None:
        """Raise InputError if a number is less than 1, or if `start` is no base."""
        require(self.start in get_args(Start), "start", self.start, any_of(get_args(Start)))
        for name in ("num_distributions", "num_chains", "num_leapfrog", "num_pilot"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "1 or more")


class Annealed(NamedTuple):
    """The result of a path for each example.

    Attributes:
      log_px: [B], log 1/C Σ w, a lower bound on log p(x) in expectation; of a reverse path an upper bound.
      error: [B], the standard error of `log_px` from the variance of w over the chains, which underestimates it if few
        chains have most of the weight; NaN of a single chain.
      ess: [B], the effective sample size of the C chains, (Σ w)² / Σ w².
      acceptance: [T-1, B], the mean acceptance probability of each transition.
    """

    log_px: Array
    error: Array
    ess: Array
    acceptance: Array


def schedule(num_distributions: int) -> np.ndarray:
    """Return t_0 = 0 < t_1 < ... < t_T = 1, [T + 1]: a sigmoid, scaled to [0, 1]."""
    sigmoid = 1 / (1 + np.exp(-_SHARPNESS * np.linspace(-1, 1, num_distributions + 1)))
    return ((sigmoid - sigmoid[0]) / (sigmoid[-1] - sigmoid[0])).astype(np.float32)


def annealed_log_likelihood(params: Params, key: Array, batch: Batch, *, model: Any, settings: Annealing) -> Annealed:
    """Return the estimate of log p(x) by annealed importance sampling; its weights w have mean p(x).

    A pilot run with other random numbers adapts the size of the leapfrog steps of each transition and example to an
    acceptance of 0.65. The steps are fixed then, without which the weights would be biased.

    Args:
      params: parameters of the model, or its `Variables`.
      key: a typed key, or a key for each example, [B].
      batch: {"x": [B, ...], ...}.
      model: a `VAE`, or any Linen module with its methods `encode` and `decode`.
      settings: the path and the chains.

    Returns:
      The estimates, [B], in nats.

    Raises:
      InputError: a layer is discrete, or the model classifies examples and the batch has no labels.
      ValueError: a layer has no density.
    """
    path = _Path(params, random.example_keys(key, batch_size(batch)), batch, model, settings)
    return path.forward(path.step_sizes())


def bidirectional_bounds(
    params: Params, key: Array, batch: Batch, *, model: Any, settings: Annealing
) -> tuple[Annealed, Annealed]:
    """Return a lower and an upper bound on log p(x) of simulated x, whose difference bounds the error of the estimate.

    x ~ p(x|z), z ~ p(z): z is an exact sample of p(z|x), from which the reverse path starts. Its weights have mean
    1 / p(x), so -log 1/C Σ w is an upper bound in expectation (Grosse et al., arXiv 1511.02543).

    Args:
      params: parameters of the model, or its `Variables`.
      key: a typed key, or a key for each example, [B].
      batch: {"x": [B, ...], ...}, of which x is replaced; a model can read the other arrays, such as labels.
      model: a `VAE`, or any Linen module with its methods `encode` and `decode`.
      settings: the path and the chains.

    Returns:
      The estimates of the forward and of the reverse path, [B] each, in nats.

    Raises:
      InputError: a layer is discrete, or the model classifies examples and the batch has no labels.
      ValueError: a layer has no density.
    """
    size = batch_size(batch)
    keys = random.example_keys(key, size)
    draw_keys = random.fold_in(keys, _SIMULATION)
    p_x, layers = decode(params, from_prior(random.fold_in(draw_keys, 0), size), None, batch, model=model)
    x = lax.stop_gradient(p_x.sample(random.fold_in(draw_keys, 1)))
    path = _Path(params, keys, {**batch, "x": x}, model, settings)
    exact = {name: _add_chains(latent, settings.num_chains) for name, latent in layers.items()}
    steps = path.step_sizes()
    return path.forward(steps), path.reverse(steps, exact)


def _add_chains(latent: Latent, num_chains: int) -> Array:
    """Return z [C, B, *event], or [L, C, B, *event], from the z of one sample for each example."""
    axis = log_p(latent).ndim - 1
    return jnp.repeat(jnp.expand_dims(latent.z, axis), num_chains, axis=axis)


def _names_of_blocks(params: Params, keys: Array, batch: Batch, model: Any) -> frozenset[str]:
    """Return the names of the layers that are several blocks, [L, C, B, *event]; refuse discrete layers."""

    def densities() -> dict[str, Array]:
        _, layers = decode(params, from_prior(keys, len(keys)), None, batch, model=model)
        for name, latent in layers.items():
            if getattr(latent.prior, "is_discrete", False):
                raise InputError(
                    f"layer {name!r} is discrete, and Hamiltonian Monte Carlo needs continuous codes; use importance "
                    "sampling"
                )
        return {name: log_p(latent) for name, latent in layers.items()}

    return frozenset(name for name, shape in jax.eval_shape(densities).items() if shape.ndim == 2)


class _Path:
    """The path of one batch: its densities, its start, and its two directions."""

    def __init__(self, params: Params, keys: Array, batch: Batch, model: Any, settings: Annealing):
        require_labels(batch, model)
        self.params, self.keys, self.batch, self.model, self.settings = params, keys, batch, model, settings
        self.times = schedule(settings.num_distributions)
        self.evidence = encode(params, batch, model=model) if settings.start == "encoder" else None
        self.blocks = _names_of_blocks(params, keys, batch, model)
        self.shapes = jax.eval_shape(lambda: self._first_values(keys, 1))

    def _first_values(self, keys: Array, num_chains: int) -> _Values:
        """Return samples of the base."""
        size = keys.shape[0]
        if self.settings.start == "encoder":
            drawn = sample_terms(
                self.params, keys, self.batch, model=self.model, num_samples=num_chains, evidence=self.evidence
            )
            return {latent.name: latent.z for latent in drawn.latents}
        every = random.fold_in(keys[None], jnp.arange(num_chains)[:, None]).reshape(-1)  # [C·B]
        tiled = {name: jnp.concatenate([array] * num_chains) for name, array in self.batch.items()}
        _, layers = decode(self.params, from_prior(every, len(every)), None, tiled, model=self.model)

        def split(latent: Latent) -> Array:
            lead = log_p(latent).ndim - 1
            return latent.z.reshape(*latent.z.shape[:lead], num_chains, size, *latent.z.shape[lead + 1 :])

        return {name: split(latent) for name, latent in layers.items()}

    def _flatten(self, values: Mapping[str, Array]) -> Array:
        """Return the codes of all layers as [C, B, D]."""
        parts = []
        for name in sorted(self.shapes):
            z = values[name]
            z = jnp.moveaxis(z, 0, 2) if self._is_blocks(name) else z
            parts.append(z.reshape(*z.shape[:2], -1))
        return jnp.concatenate(parts, axis=-1)

    def _unflatten(self, flat: Array) -> _Values:
        values, start, chains = {}, 0, flat.shape[0]
        for name in sorted(self.shapes):
            shape = self.shapes[name].shape
            size = int(np.prod(shape)) // self.keys.shape[0]
            part = flat[..., start : start + size]
            if self._is_blocks(name):
                z = jnp.moveaxis(part.reshape(*part.shape[:2], shape[0], *shape[3:]), 2, 0)
            else:
                z = part.reshape(chains, *shape[1:])
            values[name], start = z, start + size
        return values

    def _is_blocks(self, name: str) -> bool:
        return name in self.blocks

    def _log_densities(self, flat: Array) -> tuple[Array, Array]:
        """Return log b(z) and log p(x|z) p(z), [C, B] each."""
        with_posterior = self.settings.start == "encoder"
        draw = from_values(self._unflatten(flat), with_posterior=with_posterior)
        p_x, layers = decode(self.params, draw, self.evidence, self.batch, model=self.model)
        terms = Terms(p_x.log_prob(self.batch["x"]), tuple(layers.values()))
        base = posterior_log_density(terms) if with_posterior else terms.log_pz
        return base, terms.log_px_z + terms.log_pz

    def _ratio(self, flat: Array) -> Array:
        base, joint = self._log_densities(flat)
        return joint - base

    def _start(self, keys: Array, num_chains: int) -> State:
        z = self._flatten(self._first_values(random.fold_in(keys, 0), num_chains))
        return State(z, self._ratio(z))

    def _move(self, state: State, keys: Array, number: Array, time: Array, step_size: Array) -> tuple[State, Array]:
        """Return the chains after transition `number`, and the mean acceptance of each example, [B]."""

        def log_density(z: Array) -> tuple[Array, Array]:
            base, joint = self._log_densities(z)
            return (1 - time) * base + time * joint, joint - base

        chains = random.fold_in(random.fold_in(keys, 1)[None], jnp.arange(state.z.shape[0])[:, None])  # [C, B]
        chains = random.fold_in(chains, number)
        draw = functools.partial(jax.random.uniform, dtype=state.z.dtype)
        jitter = 2 * random.drawn(draw, random.fold_in(chains, 2), chains.shape) - 1
        step_size = step_size[None] * (1 + _JITTER * jitter)
        state, probability = hamiltonian.transition(
            log_density, state, chains, step_size=step_size, num_leapfrog=self.settings.num_leapfrog
        )
        return state, jnp.mean(probability, axis=0).astype(state.z.dtype)  # densities can have more digits

    def step_sizes(self) -> Array:
        """Return the step sizes of the transitions 1, ..., T - 1, [T - 1, B], that a pilot run adapts."""
        keys = random.fold_in(self.keys, _PILOT)

        def adapt(carry: tuple[State, Array], item: tuple[Array, ...]) -> tuple[tuple[State, Array], Array]:
            (state, log_step), (number, time, gain) = carry, item
            state, acceptance = self._move(state, keys, number, time, jnp.exp(log_step))
            return (state, log_step + gain * (acceptance - TARGET_ACCEPTANCE)), log_step

        count = self.settings.num_distributions - 1
        if not count:
            return jnp.zeros((0, len(self.keys)))
        each = math.ceil(_ADAPTATIONS / count)  # transitions for each distribution
        times = np.concatenate([np.full(_WARMUP, self.times[1]), np.repeat(self.times[1:-1], each)])
        gains = np.where(np.arange(len(times)) < _WARMUP, _GAIN, _PATH_GAIN).astype(np.float32)
        first = self._start(keys, self.settings.num_pilot), jnp.full(len(self.keys), np.log(_FIRST_STEP), jnp.float32)
        _, log_steps = lax.scan(adapt, first, (jnp.arange(len(times)), jnp.asarray(times), jnp.asarray(gains)))
        by_distribution = log_steps[_WARMUP:].reshape(count, each, -1)
        return jnp.exp(jnp.mean(by_distribution[:, each // 2 :], axis=1))

    def forward(self, steps: Array) -> Annealed:
        """Return the estimate from samples of the base."""
        state = self._start(random.fold_in(self.keys, _FORWARD), self.settings.num_chains)
        return self._weigh(state, steps, _FORWARD, self.times)

    def reverse(self, steps: Array, exact: _Values) -> Annealed:
        """Return the estimate from exact samples of p(z|x)."""
        z = self._flatten(exact)
        found = self._weigh(State(z, self._ratio(z)), steps[::-1], _REVERSE, self.times[::-1])
        return found._replace(log_px=-found.log_px)

    def _weigh(self, state: State, steps: Array, stream: int, times: np.ndarray) -> Annealed:
        """Return the log of the mean weight of a path along some times."""
        keys, differences = random.fold_in(self.keys, stream), np.diff(times)

        def move(carry: tuple[State, Array], item: tuple[Array, ...]) -> tuple[tuple[State, Array], Array]:
            (state, log_w), (number, time, difference, step) = carry, item
            state, acceptance = self._move(state, keys, number, time, step)
            return (state, log_w + difference * state.aux), acceptance

        log_w, acceptance = differences[0] * state.aux, jnp.zeros((0, len(self.keys)))
        if len(steps):
            items = jnp.arange(len(steps)), jnp.asarray(times[1:-1]), jnp.asarray(differences[1:]), steps
            (_, log_w), acceptance = lax.scan(move, (state, log_w), items)
        w = jnp.exp(log_w - jnp.max(log_w, axis=0)[None])  # [C, B]
        count, mean = w.shape[0], jnp.mean(w, axis=0)
        error = jnp.std(w, axis=0) / (mean * np.sqrt(count - 1)) if count > 1 else jnp.full_like(mean, jnp.nan)
        ess = jnp.sum(w, axis=0) ** 2 / jnp.sum(w * w, axis=0)
        return Annealed(log_mean_exp(log_w), error, ess, acceptance)
