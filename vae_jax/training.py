"""From a loss to a trained state: the state, one pure step, and many steps in one program.

Nothing here knows a device, a file or a clock: shardings are put on `jax.jit` from outside, and `fitting.fit` decides
when to save and what to show.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array, lax

from vae_jax import random
from vae_jax.config import OptimizerConfig
from vae_jax.data.batches import batch_indices
from vae_jax.inference import Loss, Metrics, Params
from vae_jax.models import VAE, with_output_bias
from vae_jax.settings import require_choices

Step = Callable[["TrainState", Array], tuple["TrainState", Metrics]]

# What the run's key is folded with before anything else, so that the streams never meet.
DATA_STREAM, NOISE_STREAM, INIT_STREAM, EVALUATION_STREAM, BINARIZATION_STREAM = range(5)


class TrainState(NamedTuple):
    """Everything that a run carries from step to step: arrays only, so it can be donated, sharded, vmapped, saved."""

    step: Array  # int32 []: updates done, and the number of the next
    params: Params
    opt_state: optax.OptState
    ema_params: Params  # the moving average of the weights; () where none is kept
    key: Array  # the run's typed key: never advanced, only folded
    skipped: Array  # int32 []: steps in a row that were not finite


def make_schedule(config: OptimizerConfig, steps: int) -> optax.Schedule:
    """The learning rate as a function of the step, for a run of `steps` updates; InputError for an unknown name."""
    require_choices("optimizer", **vars(config))
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
    """The optax optimizer that `config` describes, its schedule spanning `steps` updates, after clipping if asked.

    Raises InputError for an unknown name.
    """
    rate, b1, b2, eps = make_schedule(config, steps), config.b1, config.b2, config.eps
    optimizer = {
        "adam": lambda: optax.chain(scale_by_adam(b1, b2, eps), optax.scale_by_learning_rate(rate)),
        "adamw": lambda: optax.chain(
            scale_by_adam(b1, b2, eps),
            optax.add_decayed_weights(config.weight_decay),
            optax.scale_by_learning_rate(rate),
        ),
        "adamax": lambda: optax.adamax(rate, b1, b2, eps),
        "rmsprop": lambda: optax.rmsprop(rate, decay=b2, eps=eps),
        "sgd": lambda: optax.sgd(rate, momentum=b1),
        "lion": lambda: optax.lion(rate, b1, b2, weight_decay=config.weight_decay),
    }[config.name]()
    return _clipped(optimizer, config.clip_norm) if config.clip_norm else optimizer


def _clipped(optimizer: optax.GradientTransformation, max_norm: float) -> optax.GradientTransformation:
    """`optimizer` for gradients of a norm of at most `max_norm`; its state is the same, so a run can begin to clip."""
    clip = optax.clip_by_global_norm(max_norm)

    def update(grads: Params, state: optax.OptState, params: Params = None) -> tuple[Params, optax.OptState]:
        clipped, _ = clip.update(grads, optax.EmptyState())
        return optimizer.update(clipped, state, params)

    return optax.GradientTransformation(optimizer.init, update)


def scale_by_adam(b1: Array | float, b2: Array | float, eps: Array | float) -> optax.GradientTransformation:
    """optax.scale_by_adam with a root and a division for each parameter in place of a root and three divisions.

    m̂ / (sqrt(v̂) + eps) with m̂ = m / (1 - b1^t) and v̂ = v / (1 - b2^t) is c m / (sqrt(1 - b2^t) eps + sqrt(v)) with
    one number c = sqrt(1 - b2^t) / (1 - b1^t) for all (Kingma & Ba, arXiv 1412.6980, section 2).
    """

    def init(params: Params) -> optax.ScaleByAdamState:
        return optax.ScaleByAdamState(jnp.zeros((), jnp.int32), *(optax.tree.zeros_like(params) for _ in range(2)))

    def update(grads: Params, state: optax.ScaleByAdamState, params: Params = None) -> tuple[Params, optax.OptState]:
        del params
        mu = jax.tree.map(lambda m, g: b1 * m + (1 - b1) * g, state.mu, grads)
        nu = jax.tree.map(lambda v, g: b2 * v + (1 - b2) * g * g, state.nu, grads)
        count = optax.safe_increment(state.count)
        root = jnp.sqrt(1 - b2**count)
        scale, floor = root / (1 - b1**count), root * eps
        updates = jax.tree.map(lambda m, v: scale * m / (floor + jnp.sqrt(v)), mu, nu)
        return updates, optax.ScaleByAdamState(count, mu, nu)

    return optax.GradientTransformation(init, update)


def norm(tree: Params) -> Array:
    """The Euclidean norm of all numbers of a tree, [].

    As a product with ones, since XLA's CPU compiler takes longer for a sum over a whole array than a layer's products.
    """

    def squares(leaf: Array) -> Array:
        rows = jnp.square(leaf.reshape(-1, *leaf.shape[-1:]))
        return jnp.sum(jnp.matmul(rows, jnp.ones(rows.shape[1:]), precision="highest")) if leaf.ndim else rows.sum()

    return jnp.sqrt(sum(squares(leaf) for leaf in jax.tree.leaves(tree)))


def init_state(
    key: Array,
    *,
    model: VAE,
    optimizer: optax.GradientTransformation,
    ema: bool = False,
    mean_image: Array | None = None,
) -> TrainState:
    """The state before the first step: parameters drawn from `key`, moments at zero.

    With a `mean_image` [H, W, C] the output's bias starts at it (`with_output_bias`). Of the model `image_shape` is
    read, and then `likelihood`.
    """
    blank = jnp.zeros((1, *model.image_shape), jnp.float32)
    params = model.init(jax.random.fold_in(key, INIT_STREAM), blank)["params"]
    if mean_image is not None:
        params = with_output_bias(params, mean_image, likelihood=model.likelihood)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        opt_state=optimizer.init(params),
        ema_params=jax.tree.map(jnp.copy, params) if ema else (),  # a buffer of its own: both are donated
        key=key,
        skipped=jnp.zeros((), jnp.int32),
    )


def make_train_step(
    loss: Loss,
    optimizer: optax.GradientTransformation,
    *,
    ema_decay: float = 0.0,
    max_skips: int = 0,
    microbatches: int = 1,
) -> Step:
    """A pure, unjitted step(state, batch) -> (state, metrics).

    The noise of a step is a function of (state.key, state.step) alone. A step whose loss or gradient is not finite is
    counted in `skipped`, which goes back to 0 at the next that is. With `max_skips` its update is not made (nor one
    that gives weights that are not finite): up to `max_skips` such steps in a row are passed over, which the learning
    rate's schedule counts and nothing else of the optimizer does; one more, and the state stays as it is, its `step`
    naming the one that failed. With `max_skips` = 0 nothing is held back, for the updates of some layers then run while
    the gradients of others are computed: the first step with `skipped` = 1 is the one that failed, and the state after
    it is of no use. Metrics are the loss's own, `loss`, `grad_norm` and the new `skipped`, all scalars.

    With `microbatches` M > 1 the batch is [M, B/M, H, W, C] and `accumulated` takes its gradient: the loss is handed
    each part with a `random.RowsKey`, which `vae_jax.random` splits and folds, and jax.random does not.

    Raises ValueError for a batch that is not of so many parts, or a metric of the loss that is not a scalar.
    """
    gradient = accumulated(loss, microbatches) if microbatches > 1 else jax.value_and_grad(loss, has_aux=True)

    def train_step(state: TrainState, batch: Array) -> tuple[TrainState, Metrics]:
        if microbatches > 1 and batch.shape[0] != microbatches:
            raise ValueError(f"batch: {list(batch.shape)} given, must be [{microbatches}, B/{microbatches}, H, W, C]")
        key = jax.random.fold_in(jax.random.fold_in(state.key, NOISE_STREAM), state.step)
        with jax.named_scope("loss_and_gradient"):
            (value, metrics), grads = gradient(state.params, key, batch, state.step)
        for name, metric in metrics.items():
            if jnp.shape(metric) != ():
                raise ValueError(f"metrics: {name} is {list(jnp.shape(metric))}, must be a scalar")
        with jax.named_scope("optimizer"):
            updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
            params = optax.apply_updates(state.params, updates)
        grad_norm = norm(grads)
        finite = jnp.isfinite(value) & jnp.isfinite(grad_norm)
        ema_params = optax.incremental_update(params, state.ema_params, 1 - ema_decay) if ema_decay else ()
        if max_skips:
            finite &= jnp.isfinite(norm(params))
        skipped = jnp.where(finite, 0, state.skipped + 1)
        passed = skipped <= max_skips
        if max_skips:
            params, opt_state, ema_params = jax.tree.map(
                lambda new, old: _chosen(passed if _is_schedule(new) else finite, new, old),
                (params, opt_state, ema_params),
                (state.params, state.opt_state, state.ema_params),
                is_leaf=_is_schedule,
            )
        new_state = TrainState(state.step + passed, params, opt_state, ema_params, state.key, skipped)
        return new_state, metrics | {"loss": value, "grad_norm": grad_norm, "skipped": skipped}

    return train_step


def _is_schedule(node: Any) -> bool:
    """Whether a node of an optimizer's state counts the steps of a schedule, not the updates that were made."""
    return isinstance(node, optax.ScaleByScheduleState)


def _chosen(condition: Array, new: Any, old: Any) -> Any:
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), new, old)


def accumulated(loss: Loss, microbatches: int) -> Callable[..., tuple[tuple[Array, Metrics], Params]]:
    """`value_and_grad(loss, has_aux=True)` of a batch [M, B/M, H, W, C], part by part: 1/M Σ over M = `microbatches`.

    The memory of B/M examples, and the numbers of all B up to the order of sums, since each part is handed the key of
    its rows (`random.RowsKey`), for a loss that is a mean over examples which do not see each other.
    """
    gradient = jax.value_and_grad(loss, has_aux=True)

    def mean_of_parts(params: Params, key: Array, batch: Array, step: Array) -> tuple[tuple[Array, Metrics], Params]:
        size = batch.shape[1]

        def of_part(i: Array, images: Array) -> Any:
            return gradient(params, random.RowsKey(key, i * size, microbatches * size), images, step)

        def add(total: Any, part: tuple[Array, Array]) -> tuple[Any, None]:
            return jax.tree.map(lambda t, new: t + new / microbatches, total, of_part(*part)), None

        parts = jnp.arange(microbatches), batch
        shapes = jax.eval_shape(of_part, *jax.tree.map(lambda leaf: leaf[0], parts))
        zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
        return lax.scan(add, zeros, parts)[0]

    return mean_of_parts


def train_steps(
    state: TrainState,
    images: Array,
    num_steps: Array | int,
    *,
    step: Step,
    batch_size: int,
    max_steps: int,
    microbatches: int = 1,
    streamed: bool = False,
    place_batch: Callable[[Array], Array] = lambda batch: batch,
) -> tuple[TrainState, Metrics]:
    """`num_steps` <= `max_steps` updates in one program, over uint8 `images` [N, H, W, C] that live on the device.

    Where they are `streamed`, `images` are the batches of the steps themselves, in turn: [max_steps, B, H, W, C], or
    with `microbatches` M > 1 [max_steps, M, B/M, H, W, C].

    Returns the state and the metrics of each step, [max_steps], NaN beyond `num_steps`. Where the number of steps is
    an argument of the program, one compilation serves every dispatch, the last and shorter one too; where it is a
    number of Python's, the compiler knows it. A resumed run dispatches the very programs of one that was not.
    `place_batch` may say over which devices a batch lies, or each of the `microbatches` that the step takes it in.
    Beyond `max_steps` there is no batch: a greater number of Python's raises ValueError, and an argument that is
    greater stops there.
    """
    if not isinstance(num_steps, int):
        num_steps = jnp.minimum(num_steps, max_steps)
    elif num_steps > max_steps:
        raise ValueError(f"num_steps: {num_steps} given, must be at most max_steps ({max_steps})")
    if microbatches > 1:
        place_batch = jax.vmap(place_batch)
    batch = (lambda i: images[i]) if streamed else _in_order(state, images, batch_size, max_steps, microbatches)

    def body(i: Array, carry: tuple[TrainState, Metrics]) -> tuple[TrainState, Metrics]:
        state, rows = carry
        state, metrics = step(state, place_batch(batch(i)))
        return state, jax.tree.map(lambda row, value: row.at[i].set(value), rows, metrics)

    _, shapes = jax.eval_shape(lambda: step(state, batch(0)))
    rows = jax.tree.map(lambda s: jnp.full((max_steps,), jnp.nan, jnp.float32), shapes)
    return lax.fori_loop(0, num_steps, body, (state, rows))


def _in_order(
    state: TrainState, images: Array, batch_size: int, max_steps: int, microbatches: int
) -> Callable[[Array], Array]:
    """batch(i): what the i-th of the next `max_steps` steps reads of `images`."""
    order_key = jax.random.fold_in(state.key, DATA_STREAM)
    indices = functools.partial(batch_indices, num_examples=images.shape[0], batch_size=batch_size)
    # The orders of all steps at once, [max_steps, batch_size]: a few integers against a loop's latency.
    order = jax.vmap(indices, in_axes=(None, 0))(order_key, state.step + jnp.arange(max_steps))
    if microbatches > 1:
        order = order.reshape(max_steps, microbatches, -1)
    return lambda i: images[order[i]]
