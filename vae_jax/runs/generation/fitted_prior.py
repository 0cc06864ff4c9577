"""Fit a density to the codes of a trained model, and use it in place of p(z).

It is the second of two stages (Dai & Wipf, arXiv 1903.05789; Ghosh et al., arXiv 1903.12436): an autoencoder then has a
prior, and a VAE one that resembles its aggregated posterior. The parameters of the model do not change.

    fitted = fit_prior(experiment, params, vae_jax.choice("prior", "mixture", components=10))
    images = decode_codes(experiment, params, fitted.sample(jax.random.key(0), 100))
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from vae_jax import random
from vae_jax.config import Config, any_of, choice, choices, flatten, require, require_default
from vae_jax.distributions import Batch, Flow, LowerCholeskyAffine, UniformCodes, Variables, from_prior, standard_normal
from vae_jax.errors import NoExamplesError, NotFiniteError
from vae_jax.inference import Params
from vae_jax.models import CodePriorConfig, FittedCodes, PriorConfig, StandardizedPrior, WithPrior
from vae_jax.runs.experiment.experiment import Experiment, with_data_of
from vae_jax.runs.experiment.program_cache import cache_programs
from vae_jax.runs.generation.codes import CodeReader, Codes, code_size, draw_codes, random_codes, standardize
from vae_jax.runs.generation.decoding import code_grid
from vae_jax.runs.storage.checksums import to_json_types
from vae_jax.runtime import Placement
from vae_jax.training import TrainState, evaluate_examples, make_train_step, mean_and_error, train_steps

STEPS, BATCH_SIZE, LEARNING_RATE = 5000, 256, 1e-3
_DISPATCH = 500  # updates in one program, and between two lines of progress
_EVALUATED = 1000  # codes whose densities are computed at once

Log = Callable[[str], None]


FittedModule = StandardizedPrior | FittedCodes


@dataclasses.dataclass(frozen=True)
class FitSettings:
    """How a density is fitted. None is the default, and the only value for a prior without parameters.

    Attributes:
      steps: updates by Adam; default: `STEPS`.
      batch_size: codes of an update; default: `BATCH_SIZE`, or all codes if there are fewer.
      learning_rate: the maximum, from which half a period of the cosine leads to 0; default: `LEARNING_RATE`.
      seed: all random numbers of the fit are a function of the seed, the step, and the position in the batch.
    """

    steps: int | None = None
    batch_size: int | None = None
    learning_rate: float | None = None
    seed: int = 0


class _Schedule(NamedTuple):
    """The settings of a fit with their defaults filled in."""

    steps: int
    batch_size: int
    learning_rate: float


@dataclasses.dataclass(frozen=True, eq=False)
class FittedPrior:
    """A density that is fitted to the codes of a model.

    Attributes:
      prior: the family, such as `choice("prior", "mixture")`.
      module: the Linen module of the density.
      params: its parameters, NumPy arrays.
      summary: what was fitted, and log densities in nats per code, as JSON values.
    """

    prior: PriorConfig
    module: FittedModule
    params: Params
    summary: dict[str, Any]

    @property
    def density(self) -> Any:
        """The density of codes, with `sample`, `log_prob` and `tempered`: a `Flow`, or one of integer codes."""
        return _density(self.module, jax.tree.map(jnp.asarray, self.params))

    def sample(self, key: Array, count: int, *, temperature: float = 1.0) -> np.ndarray:
        """Return codes; those that `sample_prior` draws for a `VAE` with this prior.

        Args:
          key: random key of the samples; that of sample i is fold_in(key, i).
          count: number of samples N.
          temperature: factor of the standard deviations, see `from_prior`.

        Returns:
          Codes, float32 [N, D], or int32.
        """
        program = _sampler(self.module, count, None if temperature == 1 else temperature)
        return np.asarray(program(self.params, key))

    def log_prob(self, z: np.ndarray | Array) -> np.ndarray:
        """Return the log density of codes z, [..., D]: [...], in nats."""
        return np.asarray(_log_prob(self.module)(self.params, z))

    def replace_prior(self, experiment: Experiment, params: Params) -> tuple[Experiment, Params]:
        """Return the experiment and the parameters of the model with this density in place of p(z).

        Args:
          experiment: the experiment to whose codes the density was fitted.
          params: parameters of its model, or `Variables`.

        Returns:
          Both, for `sample_prior`, `sample_examples`, `evaluate_run` and figures.
        """
        model = WithPrior(experiment.model, self.module)
        replaced = dataclasses.replace(experiment, model=model, training_model=None, initialize=None)
        is_split = isinstance(params, Variables)
        joined = {"model": params.params if is_split else params, "prior": self.params}
        statistics = {name: {"model": tree} for name, tree in params.statistics.items()} if is_split else {}
        return with_data_of(replaced, experiment), Variables(joined, statistics) if is_split else joined


def _density(module: FittedModule, params: Params) -> Any:
    return module.apply({"params": params})


@cache_programs
def _sampler(module: FittedModule, count: int, temperature: float | None) -> Callable[..., Array]:
    def sample(params: Params, key: Array) -> Array:
        draw = from_prior(key, count, temperature=temperature)
        return draw("z", _density(module, params)).z

    return jax.jit(sample)


@cache_programs
def _log_prob(module: FittedModule) -> Callable[..., Array]:
    return jax.jit(lambda params, z: _density(module, params).log_prob(z))


def fit_prior(
    experiment: Experiment,
    params: Params,
    prior: PriorConfig,
    settings: FitSettings | None = None,
    placement: Placement | None = None,
    *,
    log: Log = lambda line: None,
    codes: CodeReader | None = None,
) -> FittedPrior:
    """Fit a density to the codes of the training examples by maximum likelihood.

    The examples are encoded once; `CodeReader` states what their codes are. The density is that of z = loc + L e with
    the mean of the codes and the Cholesky factor L of their covariance, see `standardize`, and e from the prior:
    `standard-normal` is one Gaussian with full covariance, and a flow starts there. The density of integer codes is
    the prior, such as `transformer-codes`, without a transform.

    Args:
      experiment: its model, preprocessing and data are used.
      params: parameters of the model, or `Variables`.
      prior: the family of the density, such as `choice("prior", "coupling", layers=4)`.
      settings: duration, batch, learning rate and seed; None for the defaults.
      placement: the devices that encode; None for those of the parameters.
      log: called with lines of progress.
      codes: the codes of this model, which several fits share; None reads them.

    Returns:
      The density. Its `summary` contains, for the training examples and for those of validation (or of test, without
      validation examples), `log_prob` of the density and `gaussian_log_prob` of one Gaussian at the same codes, with
      standard errors; of integer codes `uniform_log_prob` of equal probabilities, and `bits_per_code` of the density.

    Raises:
      InputError: the model has another code than one vector, the prior depends on the encoder or is not one of its kind
        of codes, a setting cannot be used, or `codes` are those of another model.
      NotFiniteError: a code or the density is not finite.
    """
    module, settings = fitted_module(prior, experiment, params), settings or FitSettings()
    size = module.size
    is_trained = "prior" in abstract_params(module)
    schedule = _checked(settings, prior, is_trained, len(experiment.training_data))
    codes, key = _checked_codes(experiment, params, placement, codes), jax.random.key(settings.seed)
    log(f"{len(codes.training['x'])} codes of {size} numbers: {codes.meaning} of q(z|x)")
    fitted = _initial_params(prior, module, codes.training, key)
    if is_trained:
        fitted = _maximize_likelihood(module, fitted, codes.training, key, schedule, log)
    fitted = jax.device_get(fitted)
    summary = prior_settings(prior) | {"dimensions": size, "codes": codes.meaning, "seed": settings.seed}
    summary |= (schedule._asdict() if is_trained else {}) | _evaluate(module, fitted, codes, key)
    return FittedPrior(prior, module, fitted, to_json_types(summary))


def _checked_codes(
    experiment: Experiment, params: Params, placement: Placement | None, codes: CodeReader | None
) -> CodeReader:
    """Return the given codes if they are those of the model, or read them."""
    codes = codes or CodeReader(experiment, params, placement)
    codes.check_model(experiment, params)
    return codes


def fitted_module(prior: PriorConfig, experiment: Experiment, params: Params) -> FittedModule:
    """Return the module of a prior that is fitted to the codes of a model: a standardized one, or one of integer codes.

    Args:
      prior: the family.
      experiment: its model is traced with abstract arrays.
      params: parameters of the model, or `Variables`.

    Raises:
      InputError: the model has another code than one vector, or the prior is not one of its kind of codes.
    """
    size, grid = code_size(experiment, params), code_grid(experiment, params)
    usable = [name for name, cls in choices("prior").items() if getattr(cls, "has_codes", False) == (grid is not None)]
    require(prior.has_codes == (grid is not None), "prior", prior.name,
            f"{any_of(usable)} for codes that are {'real numbers' if grid is None else 'integers'}")  # fmt: skip
    if grid is None:
        return StandardizedPrior(prior.build(size, experiment.shape), size, prior.name)
    module = cast(CodePriorConfig, prior).build_codes(size, grid.num_codes)
    return FittedCodes(module, size, grid.num_codes, prior.name)


def abstract_params(module: FittedModule) -> dict[str, Any]:
    """Return shapes and dtypes of the parameters of a density; nothing is computed.

    Raises:
      InputError: the prior depends on the encoder.
    """
    return jax.eval_shape(module.init, jax.random.key(0)).get("params", {})


def prior_settings(prior: PriorConfig) -> dict[str, Any]:
    """Return the settings of a prior, {"prior": name, "prior.FIELD": value}."""
    flat = flatten(dataclasses.replace(Config(), prior=prior))
    return {path: value for path, value in flat.items() if path.partition(".")[0] == "prior"}


def _checked(settings: FitSettings, prior: PriorConfig, is_trained: bool, count: int) -> _Schedule:
    """Return the settings with their defaults; raise InputError for one that is out of range or has no effect."""
    given = {name: getattr(settings, name) for name in ("steps", "batch_size", "learning_rate")}
    for name, value in given.items():
        require_default(is_trained or value is None, name, value, f"with prior={prior.name}, which has no parameters "
                        "to train", "use another prior")  # fmt: skip
    steps = STEPS if settings.steps is None else settings.steps
    batch_size = min(BATCH_SIZE, count) if settings.batch_size is None else settings.batch_size
    rate = LEARNING_RATE if settings.learning_rate is None else settings.learning_rate
    require(0 < steps < 2**31, "steps", steps, "at least 1 and less than 2^31")
    require(0 < batch_size <= count, "batch_size", batch_size, f"at least 1 and at most the {count} training examples")
    require(0 < rate < math.inf, "learning_rate", rate, "greater than 0 and finite")
    require(0 <= settings.seed < 2**32, "seed", settings.seed, "at least 0 and less than 2^32")
    return _Schedule(steps, batch_size, rate)


def _initial_params(prior: PriorConfig, module: FittedModule, codes: Codes, key: Array) -> Params:
    """Return the parameters of the Gaussian of the codes, or those at the start of a prior of integer codes.

    Means of a mixture are at random codes.
    """
    key, affine = random.fold_in(key, random.INIT_STREAM), None if prior.has_codes else standardize(codes)

    @jax.jit
    def initialize(key: Array, affine: LowerCholeskyAffine | None, codes: Array) -> Params:
        params: dict[str, Any] = dict(module.init(key).get("params") or {})
        if affine is not None:
            params |= {"loc": affine.loc, "scale_tril": affine.scale_tril}
            codes = affine.inverse(codes)[0]
        inner = prior.start_from(params["prior"], codes) if "prior" in params else None
        return params if inner is None else params | {"prior": inner}

    return initialize(key, affine, random_codes(codes, key))


def _maximize_likelihood(
    module: FittedModule, params: Params, codes: Codes, key: Array, schedule: _Schedule, log: Log
) -> Params:
    """Return the parameters after all updates; raise NotFiniteError if the density becomes not finite."""
    optimizer, program = _fit_program(module, schedule)
    zero = jnp.zeros((), jnp.int32)
    # The program donates the state, and the key is used again.
    state = TrainState(zero, params, {}, optimizer.init(params), (), jnp.copy(key), jnp.copy(zero))
    data = {name: jnp.asarray(array) for name, array in codes.items()}
    for first in range(0, schedule.steps, _DISPATCH):
        count = min(_DISPATCH, schedule.steps - first)
        state, metrics = program(state, data, jnp.int32(count))
        if np.asarray(metrics["skipped"])[:count].any():
            raise NotFiniteError(
                f"learning_rate={schedule.learning_rate} makes the density not finite before step {first + count}; "
                "lower it"
            )
        log_prob = -np.mean(np.asarray(metrics["loss"])[:count], dtype=np.float64)
        log(f"step {first + count} of {schedule.steps}: log density {log_prob:.3f} nats")
    return state.params


@cache_programs
def _fit_program(module: FittedModule, schedule: _Schedule) -> tuple[optax.GradientTransformation, Any]:
    """Return the optimizer, and a program (state, codes, number of steps) -> (state, metrics)."""
    decay = choice("schedule", "cosine").build(schedule.learning_rate, schedule.steps)
    optimizer = choice("optimizer", "adam", learning_rate=schedule.learning_rate).build(decay)

    def loss(params: Params, statistics: Any, keys: Array, batch: Batch, step: Array) -> Any:
        del step
        density = _density(module, params)
        return -jnp.mean(density.log_prob(draw_codes(keys, batch))), ({}, statistics)

    step = make_train_step(loss, optimizer)

    def run(state: TrainState, codes: Batch, num_steps: Array) -> Any:
        return train_steps(
            state, codes, num_steps, step=step, batch_size=schedule.batch_size, max_steps=min(_DISPATCH, schedule.steps)
        )

    return optimizer, jax.jit(run, donate_argnums=0)


def _evaluate(module: FittedModule, params: Params, codes: CodeReader, key: Array) -> dict[str, Any]:
    """Return the log densities of the training examples and of the first held-out split that has examples."""
    results = {"train": _log_densities(module, params, codes.training, key)}
    for split in ("validation", "test"):
        try:
            held_out = codes.read(split)
        except NoExamplesError:
            continue
        return results | {split: _log_densities(module, params, held_out, key)}
    return results


def _log_densities(module: FittedModule, params: Params, codes: Codes, key: Array) -> dict[str, Any]:
    """Return mean log densities of the codes of a split in nats, with standard errors over the examples."""
    key = random.fold_in(key, random.EVALUATION_STREAM)
    values = evaluate_examples(_evaluation_program(module), params, key, codes, batch_size=_EVALUATED)
    result: dict[str, Any] = {"num_examples": len(codes["x"])}
    for name, array in values.items():
        result |= mean_and_error(name, array)
    if isinstance(module, FittedCodes):
        result["bits_per_code"] = -result["log_prob"] / (module.size * math.log(2))
    if not all(math.isfinite(value) for value in result.values() if value is not None):
        raise NotFiniteError(f"prior={module.family} has a log density that is not finite; lower learning_rate")
    return result


@cache_programs
def _evaluation_program(module: FittedModule) -> Callable[..., dict[str, Array]]:
    def evaluate(params: Any, keys: Array, batch: Batch) -> dict[str, Array]:
        z, density = draw_codes(keys, batch), _density(module, params)
        if isinstance(module, FittedCodes):
            uniform = UniformCodes(module.num_codes, module.size)
            return {"log_prob": density.log_prob(z), "uniform_log_prob": uniform.log_prob(z)}
        affine = LowerCholeskyAffine(params["loc"], params["scale_tril"])
        gaussian = Flow(standard_normal((module.size,)), (affine,))
        return {"log_prob": density.log_prob(z), "gaussian_log_prob": gaussian.log_prob(z)}

    return jax.jit(evaluate)
