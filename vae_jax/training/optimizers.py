"""Optimizers and learning-rate schedules from an `OptimizerConfig`."""

import optax

from vae_jax import kernels
from vae_jax.config import OptimizerConfig, check_choices


def make_schedule(config: OptimizerConfig, steps: int) -> optax.Schedule:
    """Return the learning rate as a function of the step.

    Args:
      config: learning rate, schedule and warm-up.
      steps: the number of updates of the run.

    Returns:
      A function of the step.

    Raises:
      InputError: an unknown name in `config`.
    """
    check_choices("optimizer", **vars(config))
    rate, warmup = config.learning_rate, config.warmup_steps
    if config.schedule == "one-cycle":
        return optax.cosine_onecycle_schedule(steps, rate)
    if config.schedule == "cosine":
        schedule = optax.cosine_decay_schedule(rate, max(1, steps - warmup), config.final_fraction)
    elif config.schedule == "staged":
        staged = optax.piecewise_constant_schedule(rate, dict.fromkeys(config.milestones, config.decay))
        schedule = lambda count: staged(count + warmup)  # noqa: E731  milestones are steps of the run
    else:
        schedule = optax.constant_schedule(rate)
    return optax.join_schedules([optax.linear_schedule(0.0, rate, warmup), schedule], [warmup]) if warmup else schedule


def make_optimizer(config: OptimizerConfig, steps: int) -> optax.GradientTransformation:
    """Return the optimizer that `config` describes.

    With `config.clip_norm`, the norm of the gradient is clipped before the update.

    Args:
      config: optimizer, schedule and clipping.
      steps: the number of updates of the run, which the schedule covers.

    Returns:
      An optax gradient transformation.

    Raises:
      InputError: an unknown name in `config`.
    """
    rate, b1, b2, eps = make_schedule(config, steps), config.b1, config.b2, config.eps
    optimizer = {
        "adam": lambda: optax.chain(kernels.scale_by_adam(b1, b2, eps), optax.scale_by_learning_rate(rate)),
        "adamw": lambda: optax.chain(
            kernels.scale_by_adam(b1, b2, eps),
            optax.add_decayed_weights(config.weight_decay),
            optax.scale_by_learning_rate(rate),
        ),
        "adamax": lambda: optax.adamax(rate, b1, b2, eps),
        "rmsprop": lambda: optax.rmsprop(rate, decay=b2, eps=eps),
        "sgd": lambda: optax.sgd(rate, momentum=b1),
        "lion": lambda: optax.lion(rate, b1, b2, weight_decay=config.weight_decay),
    }[config.name]()
    return _clip_gradients(optimizer, config.clip_norm) if config.clip_norm else optimizer


def _clip_gradients(optimizer: optax.GradientTransformation, max_norm: float) -> optax.GradientTransformation:
    """Return `optimizer` for clipped gradients. Its state has the same structure, so a resumed run can add clipping."""
    clip = optax.clip_by_global_norm(max_norm)

    def update(
        updates: optax.Updates, state: optax.OptState, params: optax.Params | None = None
    ) -> tuple[optax.Updates, optax.OptState]:
        clipped, _ = clip.update(updates, optax.EmptyState())
        return optimizer.update(clipped, state, params)

    return optax.GradientTransformation(optimizer.init, update)
