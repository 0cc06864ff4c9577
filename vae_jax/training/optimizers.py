"""Optimizers and learning-rate schedules, each with its settings."""

import dataclasses
from typing import ClassVar

import optax

from vae_jax import kernels
from vae_jax.config import Choice, Config, register, require, require_default, setting
from vae_jax.training.outliers import mark_outliers


@dataclasses.dataclass(frozen=True)
class OptimizerConfig(Choice):
    """Settings that all optimizers have."""

    learning_rate: float = setting(1e-3, "Maximum learning rate of the schedule.", above=0, batchable=True)
    clip_norm: float = setting(0.0, "Maximum global norm of the gradient; 0: no clipping.", minimum=0)
    skip_quantile: float = setting(
        0.0,
        "An update is skipped if the norm of its gradient is above skip_factor times this quantile of the norms of the "
        "last skip_window updates, as for train.nonfinite=skip; 0: no such skipping.",
        minimum=0,
        below=1,
    )
    skip_factor: float = setting(4.0, "By how much the norm of a gradient may exceed that quantile.", above=0)
    skip_window: int = setting(
        100, "Number of updates whose norms the quantile is of. None of the first ones is skipped.", above=0
    )

    def build(self, schedule: optax.Schedule) -> optax.GradientTransformation:
        """Return the optimizer, for clipped gradients if there is a `clip_norm`, with the marks of `mark_outliers`.

        Args:
          schedule: step -> learning rate.

        Returns:
          An optax gradient transformation. Its state does not depend on `clip_norm`, so a resumed run can change it.
        """
        optimizer = self.transformation(schedule)
        optimizer = _clip_gradients(optimizer, self.clip_norm) if self.clip_norm else optimizer
        if not self.skip_quantile:
            return optimizer
        return mark_outliers(optimizer, quantile=self.skip_quantile, factor=self.skip_factor, window=self.skip_window)

    def check(self, config: Config) -> None:
        """Raise InputError if outliers cannot be skipped, or if settings of the skipping have no effect."""
        if self.skip_quantile:
            require(config.train.nonfinite == "skip", "optimizer.skip_quantile", self.skip_quantile,
                    "0 with train.nonfinite=stop; use train.nonfinite=skip to skip updates")  # fmt: skip
            return
        for name in ("skip_factor", "skip_window"):
            value = getattr(self, name)
            require_default(value == getattr(OptimizerConfig, name), f"optimizer.{name}", value,
                            "with optimizer.skip_quantile=0", "set optimizer.skip_quantile")  # fmt: skip

    def transformation(self, schedule: optax.Schedule) -> optax.GradientTransformation:
        """Return the optimizer without clipping, for a schedule step -> learning rate."""
        raise NotImplementedError(f"{type(self).__name__} has no method `transformation`; return an optax optimizer")


def _rate(default: float, help: str) -> float:
    """Return the field of a decay rate."""
    return setting(default, help, minimum=0, below=1, batchable=True)


@register("optimizer", "adam")
@dataclasses.dataclass(frozen=True)
class AdamConfig(OptimizerConfig):
    """Settings of Adam (Kingma & Ba, arXiv 1412.6980)."""

    b1: float = _rate(0.9, "Decay rate of the first moment.")
    b2: float = _rate(0.999, "Decay rate of the second moment.")
    eps: float = setting(1e-8, "Constant added to the root of the second moment.", above=0, batchable=True)

    def transformation(self, schedule: optax.Schedule) -> optax.GradientTransformation:
        """Return Adam for a schedule."""
        return optax.chain(kernels.scale_by_adam(self.b1, self.b2, self.eps), optax.scale_by_learning_rate(schedule))


@register("optimizer", "adamw")
@dataclasses.dataclass(frozen=True)
class AdamWConfig(AdamConfig):
    """Settings of Adam with decoupled weight decay (Loshchilov & Hutter, arXiv 1711.05101)."""

    weight_decay: float = setting(0.0, "Decoupled weight decay.", minimum=0, batchable=True)

    def transformation(self, schedule: optax.Schedule) -> optax.GradientTransformation:
        """Return AdamW for a schedule."""
        return optax.chain(
            kernels.scale_by_adam(self.b1, self.b2, self.eps),
            optax.add_decayed_weights(self.weight_decay),
            optax.scale_by_learning_rate(schedule),
        )


@register("optimizer", "adamax")
@dataclasses.dataclass(frozen=True)
class AdamaxConfig(OptimizerConfig):
    """Settings of Adamax (Kingma & Ba, arXiv 1412.6980)."""

    b1: float = _rate(0.9, "Decay rate of the first moment.")
    b2: float = _rate(0.999, "Decay rate of the infinity norm.")
    eps: float = setting(1e-8, "Constant added to the infinity norm.", above=0, batchable=True)

    def transformation(self, schedule: optax.Schedule) -> optax.GradientTransformation:
        """Return Adamax for a schedule."""
        return optax.adamax(schedule, self.b1, self.b2, self.eps)


@register("optimizer", "rmsprop")
@dataclasses.dataclass(frozen=True)
class RMSPropConfig(OptimizerConfig):
    """Settings of RMSProp."""

    b2: float = _rate(0.999, "Decay rate of the second moment.")
    eps: float = setting(1e-8, "Constant added to the second moment.", above=0, batchable=True)

    def transformation(self, schedule: optax.Schedule) -> optax.GradientTransformation:
        """Return RMSProp for a schedule."""
        return optax.rmsprop(schedule, decay=self.b2, eps=self.eps)


@register("optimizer", "sgd")
@dataclasses.dataclass(frozen=True)
class SGDConfig(OptimizerConfig):
    """Settings of stochastic gradient descent with momentum."""

    b1: float = _rate(0.9, "Momentum.")

    def transformation(self, schedule: optax.Schedule) -> optax.GradientTransformation:
        """Return gradient descent for a schedule."""
        return optax.sgd(schedule, momentum=self.b1)


@register("optimizer", "lion")
@dataclasses.dataclass(frozen=True)
class LionConfig(OptimizerConfig):
    """Settings of Lion (Chen et al., arXiv 2302.06675)."""

    b1: float = _rate(0.9, "Weight of the momentum in an update.")
    b2: float = _rate(0.999, "Decay rate of the momentum.")
    weight_decay: float = setting(0.0, "Decoupled weight decay.", minimum=0, batchable=True)

    def transformation(self, schedule: optax.Schedule) -> optax.GradientTransformation:
        """Return Lion for a schedule."""
        return optax.lion(schedule, self.b1, self.b2, weight_decay=self.weight_decay)


def _clip_gradients(optimizer: optax.GradientTransformation, max_norm: float) -> optax.GradientTransformation:
    """Return `optimizer` for clipped gradients. Its state has the same structure, so a resumed run can add clipping."""
    clip = optax.clip_by_global_norm(max_norm)

    def update(
        updates: optax.Updates, state: optax.OptState, params: optax.Params | None = None
    ) -> tuple[optax.Updates, optax.OptState]:
        clipped, _ = clip.update(updates, optax.EmptyState())
        return optimizer.update(clipped, state, params)

    return optax.GradientTransformation(optimizer.init, update)


@dataclasses.dataclass(frozen=True)
class ScheduleConfig(Choice):
    """Settings of a learning-rate schedule.

    Attributes:
      spans_steps: whether the schedule depends on the number of steps of the run.
    """

    spans_steps: ClassVar[bool] = False

    def build(self, learning_rate: float, steps: int) -> optax.Schedule:
        """Return the learning rate as a function of the step.

        Args:
          learning_rate: the maximum of the schedule.
          steps: the number of updates of the run.

        Returns:
          A function of the step.
        """
        raise NotImplementedError(f"{type(self).__name__} has no method `build`; return a function of the step")


@dataclasses.dataclass(frozen=True)
class _WarmupConfig(ScheduleConfig):
    """Settings of a schedule that can start with a linear increase."""

    warmup_steps: int = setting(0, "Number of steps in which the learning rate increases linearly from 0.", minimum=0)

    def _after_warmup(self, learning_rate: float, schedule: optax.Schedule) -> optax.Schedule:
        """Return a schedule whose steps are counted from the end of the warm-up."""
        if not self.warmup_steps:
            return schedule
        increase = optax.linear_schedule(0.0, learning_rate, self.warmup_steps)
        return optax.join_schedules([increase, schedule], [self.warmup_steps])


@register("schedule", "constant")
@dataclasses.dataclass(frozen=True)
class ConstantConfig(_WarmupConfig):
    """Settings of a constant learning rate."""

    def build(self, learning_rate: float, steps: int) -> optax.Schedule:
        """Return the constant."""
        del steps
        return self._after_warmup(learning_rate, optax.constant_schedule(learning_rate))


@register("schedule", "cosine")
@dataclasses.dataclass(frozen=True)
class CosineConfig(_WarmupConfig):
    """Settings of a decay by half a period of the cosine (Loshchilov & Hutter, arXiv 1608.03983)."""

    spans_steps: ClassVar[bool] = True

    final_fraction: float = setting(
        0.0, "Learning rate at the end of the schedule, as a fraction of optimizer.learning_rate.", minimum=0
    )

    def build(self, learning_rate: float, steps: int) -> optax.Schedule:
        """Return the decay over the steps after the warm-up."""
        steps = max(1, steps - self.warmup_steps)
        return self._after_warmup(learning_rate, optax.cosine_decay_schedule(learning_rate, steps, self.final_fraction))


@register("schedule", "one-cycle")
@dataclasses.dataclass(frozen=True)
class OneCycleConfig(ScheduleConfig):
    """Settings of an increase over 30 % of the steps and a decay (Smith & Topin, arXiv 1708.07120)."""

    spans_steps: ClassVar[bool] = True

    def build(self, learning_rate: float, steps: int) -> optax.Schedule:
        """Return the cycle over all steps."""
        return optax.cosine_onecycle_schedule(steps, learning_rate)


@register("schedule", "staged")
@dataclasses.dataclass(frozen=True)
class StagedConfig(_WarmupConfig):
    """Settings of a learning rate that is multiplied by a factor at some steps."""

    milestones: tuple[int, ...] = setting((), "Steps at which the learning rate is multiplied by decay.", above=0)
    decay: float = setting(0.1, "Factor by which the learning rate is multiplied at each milestone.", above=0)

    def build(self, learning_rate: float, steps: int) -> optax.Schedule:
        """Return the stages; the milestones are steps of the run."""
        del steps
        staged = optax.piecewise_constant_schedule(learning_rate, dict.fromkeys(self.milestones, self.decay))
        return self._after_warmup(learning_rate, lambda count: staged(count + self.warmup_steps))


def make_schedule(config: Config) -> optax.Schedule:
    """Return the learning rate of a config as a function of the step.

    Args:
      config: schedule, learning rate and number of steps.

    Returns:
      A function of the step.
    """
    return config.schedule.build(config.optimizer.learning_rate, config.train.steps)


def make_optimizer(config: Config) -> optax.GradientTransformation:
    """Return the optimizer of a config.

    Args:
      config: optimizer, schedule and number of steps.

    Returns:
      An optax gradient transformation.
    """
    return config.optimizer.build(make_schedule(config))
