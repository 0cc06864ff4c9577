"""Where a model meets an objective: samples the posterior, names the log densities, and makes the loss of them."""

import functools
from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp
from jax import Array, lax

from vae_jax import random
from vae_jax.chains import MarkovChain
from vae_jax.config import OBJECTIVE_SETTINGS, DataConfig, ObjectiveConfig
from vae_jax.data.batches import read_images
from vae_jax.distributions import Deterministic, Normal, kl_divergence
from vae_jax.estimators import ESTIMATORS, Estimator, pathwise
from vae_jax.objectives import OBJECTIVES, Codes, Objective, Pair, Terms, bind, log_weights
from vae_jax.settings import require_choices

Params = Any  # a pytree of arrays
Metrics = dict[str, Array]
Loss = Callable[[Params, random.Key, Array, Array], tuple[Array, Metrics]]


def sample_terms(
    params: Params, key: random.Key, x: Array, *, model: Any, num_samples: int = 1, estimator: Estimator = pathwise
) -> Terms:
    """The log densities of K = `num_samples` codes z ~ q(z|x) for images x [B, H, W, C], in nats, each [K, B].

    z = m + σ e with e ~ N(0, I) drawn from `key`, so gradients flow through m and σ; which of them, `estimator` says
    (`functools.partial(doubly_reparameterized, objective=iwae)` where it depends on the objective). `model` is a `VAE`,
    or any Linen module with its `encode`, `prior` and `decode`.
    """
    return _sample_terms(params, params, key, x, model=model, num_samples=num_samples, estimator=estimator)


def _sample_terms(
    encoder_params: Params,
    decoder_params: Params,
    key: random.Key,
    x: Array,
    *,
    model: Any,
    num_samples: int,
    estimator: Estimator,
) -> Terms:
    """`sample_terms` where the posterior has parameters of its own, equal in value to those of p(x|z) and p(z)."""
    chex.assert_rank(x, 4)
    variables = {"params": decoder_params}
    p = model.apply(variables, method="prior")

    def densities(z: Array, q: Any) -> Terms:
        with jax.named_scope("decoder"):
            p_x = model.apply(variables, z, method="decode")
        with jax.named_scope("likelihood"):
            log_px_z = p_x.log_prob(x)
        if isinstance(q, Deterministic):
            return Terms(log_px_z, p.log_prob(z), log_qz=None, kl=None)
        if isinstance(q, MarkovChain):  # its layers' divergences have no closed form
            log_pz, log_qz = p.log_probs(z), q.log_probs(z)  # [L, K, B]
            kl = jnp.mean(log_qz - log_pz, axis=1)
            return Terms(log_px_z, jnp.sum(log_pz, axis=0), jnp.sum(log_qz, axis=0), kl, Codes(z, q, p))
        kl = kl_divergence(q, p)[None] if isinstance(q, Normal) and isinstance(p, Normal) else None
        return Terms(log_px_z, p.log_prob(z), q.log_prob(z), kl, Codes(z, q, p))

    with jax.named_scope("encoder"):
        q = model.apply({"params": encoder_params}, x, method="encode")
    with jax.named_scope("sampling"):
        z = q.sample(key, (num_samples,))  # codes [K, B, D]
    return estimator(densities, z, q)


def negative_bound(
    params: Params,
    key: random.Key,
    x: Array,
    *,
    model: Any,
    objective: Objective,
    num_samples: int = 1,
    estimator: Estimator = pathwise,
) -> tuple[Array, Metrics]:
    """(loss, metrics): minus the mean bound over the batch, in nats per example; what `jax.grad` differentiates.

    Of a `Pair` the value is that of `generative`, whose gradient goes to what p(x|z) and p(z) use; the gradient of
    `inference` goes to what q(z|x) uses. `metrics` holds the means of the bound and of its parts:
    `reconstruction` = E_q log p(x|z) and, where the posterior has a density, `kl` (in closed form where the terms hold
    one, else by the samples). Raises ValueError where the objective asks for what the estimator cannot give,
    or is not a number for each example.
    """

    terms_of = functools.partial(_sample_terms, key=key, x=x, model=model, num_samples=num_samples)
    if isinstance(objective, Pair):
        fixed = lax.stop_gradient(params)
        rule = functools.partial(estimator, objective=objective.inference)
        aim = objective.inference(terms_of(params, fixed, estimator=rule))  # [B]
        terms = terms_of(fixed, params, estimator=pathwise)  # the same numbers, which XLA computes once
        bound = objective.generative(terms) + (aim - lax.stop_gradient(aim))  # [B]
    else:
        terms = terms_of(params, params, estimator=functools.partial(estimator, objective=objective))
        bound = objective(terms)  # [B]
    if bound.shape != x.shape[:1]:
        raise ValueError(f"objective: it gave {list(bound.shape)} for {len(x)} examples, must be a bound for each, [B]")
    metrics = {"bound": jnp.mean(bound)} | {name: jnp.mean(part) for name, part in bound_parts(terms).items()}
    return -metrics["bound"], metrics


def bound_parts(terms: Terms) -> dict[str, Array]:
    """{"reconstruction": [B], "kl": [B]} in nats, and `kl_1`, ..., `kl_L` where the code has L > 1 layers.

    There is no `kl` where the posterior is a point.
    """
    parts = {"reconstruction": jnp.mean(terms.log_px_z, axis=0)}
    if terms.kl is not None:
        parts["kl"] = jnp.sum(terms.kl, axis=0)
        if len(terms.kl) > 1:
            parts |= {f"kl_{layer}": row for layer, row in enumerate(terms.kl, start=1)}
    elif terms.log_qz is not None:
        parts["kl"] = jnp.mean(terms.log_qz - terms.log_pz, axis=0)
    return parts


def objective_at(config: ObjectiveConfig, step: Array, num_examples: int | None = None) -> Objective:
    """The configured objective as it stands at `step`: the weight beta, or the capacity, rises over the warm-up.

    `num_examples` is the number of training images, which `beta-tc` needs: ValueError where it is not given.
    """
    settings = {name: getattr(config, name) for name in OBJECTIVE_SETTINGS[config.name]}
    rising = "capacity" if config.name == "capacity" else "beta"
    if rising in settings:
        settings[rising] *= jnp.minimum(1.0, (step + 1) / config.warmup_steps) if config.warmup_steps else 1.0
    if config.name == "beta-tc":
        if num_examples is None:
            raise ValueError("objective beta-tc needs num_examples, the number of training images")
        settings["num_examples"] = num_examples
    return bind(OBJECTIVES[config.name], **settings)


def make_loss(model: Any, objective: ObjectiveConfig, data: DataConfig, num_examples: int | None = None) -> Loss:
    """The loss of a run: loss(params, key, images, step) -> (loss, metrics), for uint8 images [B, H, W, C].

    `key` is split once: for the binarisation, and for the posterior's noise. `num_examples`: see `objective_at`.
    Raises InputError for an unknown name of an objective, an estimator or a binarisation.
    """
    require_choices("objective", name=objective.name, estimator=objective.estimator)
    require_choices("data", binarization=data.binarization)

    def loss(params: Params, key: random.Key, images: Array, step: Array) -> tuple[Array, Metrics]:
        read_key, noise_key = random.split(key)
        with jax.named_scope("read_images"):
            x = read_images(read_key, images, binarization=data.binarization)
        return negative_bound(
            params,
            noise_key,
            x,
            model=model,
            objective=objective_at(objective, step, num_examples),
            num_samples=objective.num_samples,
            estimator=ESTIMATORS[objective.estimator],
        )

    return loss


def log_likelihood(
    params: Params, key: random.Key, x: Array, *, model: Any, num_samples: int, chunk: int
) -> tuple[Array, Array]:
    """(log p(x), effective sample size), each [B]: importance sampling with K = `num_samples` codes, in nats.

    log p(x) ≈ log 1/K Σ_k w_k with w = p(x|z) p(z) / q(z|x) (L_K of Burda et al., arXiv 1509.00519; a lower
    bound in expectation), ess = (Σ w)² / Σ w². The samples are streamed: memory grows with `chunk`, not with K.
    Raises ValueError where the posterior has no density, or unless there is one sample or more, and in a chunk, too.
    """
    if num_samples < 1 or chunk < 1:
        raise ValueError(f"num_samples: {num_samples}, chunk: {chunk} given, must be 1 or more")

    def sums(key: random.Key, size: int) -> tuple[Array, Array, Array]:
        """(the largest log w, Σ w, Σ w²), each [B], the weights as shares of the largest."""
        log_w = log_weights(sample_terms(params, key, x, model=model, num_samples=size))  # [size, B]
        largest = jnp.maximum(jnp.max(log_w, axis=0), jnp.finfo(log_w.dtype).min)  # from which -inf can be taken
        w = jnp.exp(log_w - largest[None])
        return largest, jnp.sum(w, axis=0), jnp.sum(w * w, axis=0)

    def joined(a: tuple[Array, Array, Array], b: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        # Sums of shares keep their digits. The logarithm of a sum has those of a number of thousands of nats.
        largest = jnp.maximum(a[0], b[0])
        of_a, of_b = jnp.exp(a[0] - largest), jnp.exp(b[0] - largest)
        return largest, a[1] * of_a + b[1] * of_b, a[2] * of_a**2 + b[2] * of_b**2

    def add(carry: tuple[Array, Array, Array], i: Array) -> tuple[tuple[Array, Array, Array], None]:
        return joined(carry, sums(random.fold_in(key, i), chunk)), None

    chunk = min(chunk, num_samples)
    full, rest = divmod(num_samples, chunk)
    totals = sums(random.fold_in(key, 0), chunk)
    totals, _ = lax.scan(add, totals, jnp.arange(1, full))
    if rest:
        totals = joined(totals, sums(random.fold_in(key, full), rest))
    largest, total, squares = totals
    return largest + jnp.log(total / num_samples), total**2 / squares
