"""An experiment: a model, an objective, data and an optimizer. It has no path and no device.

`build_experiment(config)` makes one from settings; `Experiment(...)` makes one from any model, objective and data:

    experiment = Experiment(model, from_arrays(x, y), vae_jax.elbo, optax.adam(1e-3))
    state, metrics = jax.jit(experiment.train)(jax.random.key(0))
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from vae_jax import random
from vae_jax.config import Config, EvaluationConfig, TrainConfig, any_of, flatten, replace_unvalidated
from vae_jax.data import (
    ALL,
    SPLITS,
    ArrayDataset,
    Dataset,
    IdentityConfig,
    LabelledRows,
    ScaleConfig,
    Source,
    batch_indices,
    describe,
    describe_held_out,
    join_splits,
    open_source,
)
from vae_jax.distributions import Batch, Variables
from vae_jax.errors import InputError
from vae_jax.inference import Estimator, Metrics, Objective, ObjectiveConfig, Pair, Params, pathwise, sample_terms
from vae_jax.models import LikelihoodConfig, build_model, with_output_bias
from vae_jax.runs.experiment.descriptions import describe_part, described_settings
from vae_jax.runs.experiment.labels import check_conditions, labelled_examples, labelled_rows
from vae_jax.runs.experiment.parts import check_kind, check_parts
from vae_jax.training import (
    Loss,
    TrainState,
    init_state,
    make_loss,
    make_optimizer,
    make_schedule,
    make_train_step,
    train_steps,
)

Preprocess = Callable[[Array, Batch], Batch]  # (keys [B], stored examples) -> inputs of the model
_SPLIT_KEYS = (*SPLITS, ALL)  # the position of a split decides its random numbers
Numbers = Mapping[str, Any]  # setting -> a number, which may be known only inside a compiled program


def as_float(key: Array, batch: Batch) -> Batch:
    """Return stored examples as float32: images divided by 255, vectors and counts unchanged.

    Args:
      key: not used.
      batch: stored examples, {"x": [B, ...], ...}.
    """
    is_image = batch["x"].dtype == jnp.uint8
    return (ScaleConfig() if is_image else IdentityConfig())(key, batch)


@dataclasses.dataclass(frozen=True, eq=False)
class Experiment:
    """What is trained, on what, and how long.

    Attributes:
      model: a Linen module with the methods `encode` and `decode`.
      source: the data, such as `from_arrays(x, y)`.
      objective: a function of `Terms` that returns a bound for each example, a `Pair`, or an `ObjectiveConfig`.
      optimizer: an optax gradient transformation.
      preprocess: (keys [B], stored examples) -> inputs of the model; by default `as_float`.
      num_samples: K, the posterior samples of each example in a training step.
      estimator: the rule for the gradient, such as `pathwise`.
      training: duration, intervals and stopping.
      evaluation: evaluation on the test examples.
      seed: all random numbers are a function of the seed, the step, and the position in the batch.
      labelled: the labels that training sees; None for all that are known.
      schedule: step -> learning rate, which metrics.jsonl records; None if it is unknown.
      training_model: the model in training, with the same parameters; None for `model`.
      initialize: (params, mean) -> the initial parameters, of the same shapes. The mean is that of the inputs x; None
        if it is unknown, or if only shapes are computed. None keeps the parameters of the model.
      settings: what else the results depend on, such as {"learning_rate": 1e-3}; a resumed run compares them.
      config: the settings that built the experiment; None for one that is made by hand.
    """

    model: Any
    source: Source
    objective: Objective | Pair | ObjectiveConfig
    optimizer: optax.GradientTransformation
    preprocess: Preprocess = as_float
    num_samples: int = 1
    estimator: Estimator = pathwise
    training: TrainConfig = dataclasses.field(default_factory=TrainConfig)
    evaluation: EvaluationConfig = dataclasses.field(default_factory=EvaluationConfig)
    seed: int | Array = 0
    labelled: LabelledRows | None = None
    schedule: optax.Schedule | None = None
    training_model: Any = None
    initialize: Callable[[Params, Array | np.ndarray | None], Params] | None = None
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    config: Config | None = None

    def __post_init__(self) -> None:
        if self.config is None:  # those of a config are validated
            check_parts(vars(self))

    @property
    def key(self) -> Array:
        """The typed key of the seed."""
        return jax.random.key(self.seed)

    @functools.cached_property
    def training_data(self) -> Dataset:
        """The training examples: in memory, or records that training streams from disk."""
        if getattr(self.preprocess, "in_memory", False):
            return self.dataset("train")
        return self.source.training()

    def dataset(self, split: str) -> ArrayDataset:
        """Return the examples of a split in memory, as a run reads them.

        Args:
          split: train, validation, test or all.

        Raises:
          NoExamplesError: the split is empty.
          InputError: the split is unknown, its examples have another shape than those of the training, or the model
            reads labels that they do not have, or they have values that the preprocessing cannot represent.
          StorageError: the data cannot be read.
        """
        if split not in _SPLIT_KEYS:
            raise InputError(f"split={split!r} is not a split; use {any_of(_SPLIT_KEYS)}")
        found = join_splits(self.dataset, self.source.name) if split == ALL else self.source.split(split)
        check_conditions(self.model, found, self.source.name, split=split)
        if split != "train" and not self._can_read(found):
            shapes = [{n: list(s.shape) for n, s in d.spec.items()} for d in (found, self.training_data)]
            raise InputError(f"{self.source.name}: the split {split} has arrays {shapes[0]}, but the training examples "
                             f"have {shapes[1]}, which the model reads; use data of these shapes")  # fmt: skip
        preprocess: Any = self.preprocess
        if hasattr(preprocess, "check_data"):
            preprocess.check_data(found)
        if split == ALL or not getattr(preprocess, "in_memory", False):
            return found
        key = jax.random.fold_in(jax.random.fold_in(self.key, random.BINARIZATION_STREAM), _SPLIT_KEYS.index(split))
        return dataclasses.replace(found, arrays=preprocess.once(key, found.arrays))

    def _can_read(self, dataset: ArrayDataset) -> bool:
        """Return whether the model can read a data set: its arrays, except for labels that the model ignores."""
        given, expected = dataset.spec, self.training_data.spec
        if any(given[name] != expected[name] for name in given.keys() & expected.keys()):
            return False
        missing = expected.keys() - given.keys()
        if not missing:
            return True
        batch = {name: jnp.asarray(array) for name, array in self.example_batch.items() if name not in missing}

        def terms(state: TrainState, key: Array) -> Array:
            return sample_terms(self.evaluation_params(state), key, batch, model=self.model).log_px_z

        try:
            jax.eval_shape(terms, self.abstract_state, self.key)
        except KeyError:
            return False
        return True

    @functools.cached_property
    def data(self) -> dict[str, Any]:
        """The description of the training examples that a run stores: kind, number, shapes, dtypes and checksums."""
        return describe(self.training_data)

    @functools.cached_property
    def held_out(self) -> dict[str, Any]:
        """The description of the validation and test examples that a run stores: numbers and checksums."""
        return describe_held_out(self.source)

    @property
    def kind(self) -> str:
        """The kind of the data: images, vectors or counts."""
        return self.training_data.kind

    @functools.cached_property
    def example_batch(self) -> dict[str, Any]:
        """A batch of one example of zeros, as the model reads it, from shapes alone."""
        spec = self.training_data.spec
        stored = {name: jax.ShapeDtypeStruct((1, *one.shape), one.dtype) for name, one in spec.items()}
        shapes = jax.eval_shape(lambda batch: dict(self.preprocess(jax.random.key(0)[None], batch)), stored)
        # NumPy, because the property may be read first inside of a compiled program, whose arrays do not outlive it.
        return {name: np.zeros(shape.shape, shape.dtype) for name, shape in shapes.items()}

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one input x of the model."""
        return self.example_batch["x"].shape[1:]

    def objective_at(self, step: Array) -> Objective | Pair:
        """Return the objective with its weights at a step, [] int32."""
        if isinstance(self.objective, ObjectiveConfig):
            return self.objective.at(step, len(self.training_data))
        return self.objective

    def loss(self) -> Loss:
        """Return the loss of training: preprocessing, posterior samples and the objective as one function."""
        return make_loss(
            self.training_model or self.model,
            self.objective_at,
            num_samples=self.num_samples,
            estimator=self.estimator,
            preprocess=self.preprocess,
            label_dropout=self.training.label_dropout,
        )

    def data_mean(self) -> np.ndarray | None:
        """Return the mean of the inputs x over the training examples; None if `initialize` does not need it."""
        mean = getattr(self.preprocess, "mean", None)
        return None if self.initialize is None or mean is None else mean(self.training_data)

    def initial_state(self, key: Array, mean: Array | np.ndarray | None = None) -> TrainState:
        """Return the state before the first step; a pure function.

        Args:
          key: the key of the run.
          mean: the mean of the inputs x, `data_mean()`.
        """
        initialize = self.initialize
        return init_state(
            key,
            model=self.model,
            batch=self.example_batch,
            optimizer=self.optimizer,
            ema=self.training.ema_decay > 0,
            initialize=None if initialize is None else lambda params: initialize(params, mean),
        )

    @functools.cached_property
    def abstract_state(self) -> TrainState:
        """The shapes and dtypes of the training state; nothing is computed."""
        return jax.eval_shape(self.initial_state, self.key)

    def evaluation_key(self, split: str) -> Array:
        """Return the key of all evaluations on a split; evaluations with the same key are comparable."""
        return jax.random.fold_in(jax.random.fold_in(self.key, random.EVALUATION_STREAM), _SPLIT_KEYS.index(split))

    def evaluation_params(self, state: TrainState) -> Params:
        """Return the parameters for evaluation: with train.ema_decay their moving average."""
        params = state.ema_params if self.training.ema_decay else state.params
        return Variables(params, state.statistics) if state.statistics else params

    def examples(self, step: int) -> np.ndarray:
        """Return the indices of the training examples that a step reads, int32 [batch_size]."""
        at, size = jnp.asarray(step), {"num_examples": len(self.training_data), "batch_size": self.training.batch_size}
        if self.labelled is None:
            return np.asarray(batch_indices(jax.random.fold_in(self.key, random.DATA_STREAM), at, **size))
        chosen = jnp.asarray(labelled_examples(self.labelled, self.training_data))
        return np.asarray(self.labelled.batch_indices(self.key, at, chosen, **size))

    def train(self, key: Array, data: Mapping[str, Array] | None = None) -> tuple[TrainState, Metrics]:
        """Train from the first to the last step; a pure function, which `jit` compiles and `vmap` maps over keys.

        Args:
          key: the key of the run, `jax.random.key(seed)`.
          data: the stored training examples, [N, ...] each; by default those of the source, as constants.

        Returns:
          The last state, and the metrics of each step, {name: [steps]}.
        """
        step = make_train_step(
            self.loss(),
            self.optimizer,
            ema_decay=self.training.ema_decay,
            max_skips=max_skips(self.training),
            schedule=self.schedule,
        )
        stored = self.training_data.read_all() if data is None else data
        arrays = {name: jnp.asarray(array) for name, array in stored.items()}
        state = self.initial_state(key, self.data_mean())
        steps, size = self.training.steps, self.training.batch_size
        return train_steps(state, arrays, steps, step=step, batch_size=size, max_steps=steps, labelled=self.labelled)

    def description(self) -> dict[str, Any]:
        """Return the settings as one flat dictionary: {"train.steps": 6000, ...}, which a resumed run compares.

        For an experiment that is made by hand, the model and the functions are described by their names and fields.

        Raises:
          InputError: an entry of `settings` cannot be stored, see `described_settings`.
        """
        if self.config is not None:
            return flatten(self.config)
        names = ("model", "objective", "estimator", "preprocess", "num_samples")
        parts = {name: getattr(self, name) for name in (*names, *(["labelled"] if self.labelled else []))}
        sections = {"train": self.training, "evaluation": self.evaluation}
        fields = {f"{s}.{name}": value for s, part in sections.items() for name, value in vars(part).items()}
        described = {name: value if isinstance(value, int) else describe_part(value) for name, value in parts.items()}
        return described | described_settings(self.settings) | fields | {"seed": int(self.seed)}


def max_skips(train: TrainConfig) -> int:
    """Return the number of consecutive steps that may be skipped because they are not finite."""
    return train.max_skips if train.nonfinite == "skip" else 0


def build_experiment(
    config: Config, *, source: Source | None = None, training_data: Dataset | None = None
) -> Experiment:
    """Return the experiment that a validated config describes.

    Args:
      config: the settings.
      source: the data; None opens those of `config.data`.
      training_data: the training examples, which are not read; None reads and checks those of the source.

    Returns:
      The experiment.

    Raises:
      InputError: the data cannot be used, or not with the preprocessing, the model, the network or the likelihood.
      StorageError: the data are damaged.
    """
    experiment = _without_model(config, open_source(config.data) if source is None else source)
    if training_data is not None:
        vars(experiment)["training_data"] = training_data  # the cache of the property
    else:
        config.preprocess.check_data(experiment.training_data)
    check_kind(config, experiment.kind)
    experiment = _with_model(experiment, config)
    check_conditions(experiment.model, experiment.training_data, experiment.source.name, experiment.labelled)
    return experiment


def at_numbers(experiment: Experiment, numbers: Numbers) -> Experiment:
    """Return an experiment that a config describes with other numbers, such as those of a member of a sweep.

    Args:
      experiment: the experiment.
      numbers: {"section.field": value}; the values may be known only inside a compiled program.

    Returns:
      The experiment on the same data.
    """
    if experiment.config is None:
        raise InputError(f"settings {', '.join(numbers)} cannot be varied without a config; vary them in a function")
    config = replace_unvalidated(experiment.config, numbers)
    return _with_model(with_data_of(_without_model(config, experiment.source), experiment), config)


def with_data_of(experiment: Experiment, other: Experiment) -> Experiment:
    """Return an experiment that shares the examples which another one has read, so that they are read once."""
    for name in ("training_data", "data", "held_out"):  # the caches of the properties
        if name in vars(other) or name == "training_data":
            vars(experiment)[name] = getattr(other, name)
    return experiment


def _without_model(config: Config, source: Source) -> Experiment:
    return Experiment(
        model=None,
        source=source,
        objective=config.objective,
        optimizer=make_optimizer(config),
        preprocess=config.preprocess,
        num_samples=config.objective.num_samples,
        estimator=config.estimator.build(),
        training=config.train,
        evaluation=config.evaluation,
        seed=config.seed,
        labelled=labelled_rows(config),
        schedule=make_schedule(config),
        initialize=functools.partial(_with_mean, likelihood=config.likelihood),
        config=config,
    )


def _with_mean(params: Params, mean: Array | np.ndarray | None, *, likelihood: LikelihoodConfig) -> Params:
    """Return `with_output_bias`; the parameters unchanged if the mean is unknown."""
    return params if mean is None else with_output_bias(params, jnp.asarray(mean), likelihood=likelihood)


def _with_model(experiment: Experiment, config: Config) -> Experiment:
    model = build_model(config, experiment.shape)
    training_model = build_model(config, experiment.shape, training=True)
    return with_data_of(dataclasses.replace(experiment, model=model, training_model=training_model), experiment)
