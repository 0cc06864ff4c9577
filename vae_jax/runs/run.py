"""A run: a config, its data and its directory, and what follows from them. The directory is enough to go on.

runs/NAME/config.json  checkpoints/STEP/  metrics.jsonl  events.out.tfevents.*  figures/*.png  evaluation.json
"""

import dataclasses
import functools
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax

from vae_jax import random
from vae_jax.config import Config
from vae_jax.data import SPLITS, batch_indices, load_images
from vae_jax.errors import InputError
from vae_jax.models import VAE, build_model
from vae_jax.runtime import defaults, sharding
from vae_jax.training import Evaluator, TrainState, init_state, make_optimizer


@dataclasses.dataclass(frozen=True, eq=False)
class Run:
    """A validated config, the description of its training data, the run's directory, and the mesh it runs on."""

    config: Config
    data: dict[str, Any]  # fingerprint, num_examples and image_shape of the training images
    directory: Path
    mesh: Any
    changes: tuple[dict[str, Any], ...] = ()  # allowed ones: setting, from, to and, once it goes on, from which step
    streamed: bool = False  # whether training reads its images from disk as it goes

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return tuple(self.data["image_shape"])

    def images(self, split: str) -> np.ndarray:
        """The images of a split; raises InputError if they are not of the shape that the run was trained on."""
        images = load_images(self.config, split)
        if images.shape[1:] != self.image_shape:
            raise InputError(
                f"data.name: the images of {self.config.data.name} are {list(images.shape[1:])} now, "
                f"{self.directory} was trained on {list(self.image_shape)}"
            )
        return images

    @functools.cached_property
    def model(self) -> VAE:
        return build_model(self.config.model, self.image_shape)

    @functools.cached_property
    def training_model(self) -> VAE:
        """`model` as training computes it: model.compute_dtype and model.remat count here and nowhere else."""
        return build_model(self.config.model, self.image_shape, training=True)

    @functools.cached_property
    def optimizer(self) -> optax.GradientTransformation:
        return make_optimizer(self.config.optimizer, self.config.train.steps)

    @functools.cached_property
    def state_shardings(self) -> TrainState:
        """Where each leaf of the state lives."""
        return sharding.state_shardings(jax.eval_shape(self.initial_state, self.key), self.mesh)

    @property
    def microbatches(self) -> int:
        return defaults.num_microbatches(self.config, self.mesh)

    @property
    def images_shape(self) -> tuple[int, ...]:
        """The shape of the images that the training program takes: all of them, or the batches of a dispatch."""
        train = self.config.train
        if not self.streamed:
            return (self.data["num_examples"], *self.image_shape)
        parts = (self.microbatches,) if self.microbatches > 1 else ()
        return (train.log_every, *parts, train.batch_size // self.microbatches, *self.image_shape)

    @property
    def images_sharding(self) -> Any:
        """Where they live."""
        if not self.streamed:
            return sharding.replicated(self.mesh)
        return sharding.steps_sharding(self.mesh, microbatches=self.microbatches)

    @property
    def key(self) -> jax.Array:
        return jax.random.key(self.config.seed)

    def examples(self, step: int) -> np.ndarray:
        """Which of the training images a step reads, int32 [batch_size]."""
        count, size = self.data["num_examples"], self.config.train.batch_size
        order_key = jax.random.fold_in(self.key, random.DATA_STREAM)
        return np.asarray(batch_indices(order_key, step, num_examples=count, batch_size=size))

    def initial_state(self, key: jax.Array, mean_image: jax.Array | None = None) -> TrainState:
        """The state before the first step, as a pure function of the run's key and the mean of its images."""
        ema = self.config.train.ema_decay > 0
        return init_state(key, model=self.model, optimizer=self.optimizer, ema=ema, mean_image=mean_image)

    def evaluator(self, batch_size: int | None = None) -> Evaluator:
        """The run's evaluations; the batch is spread over the mesh."""
        return Evaluator(
            self.model,
            self.config.data.binarization,
            batch_size=batch_size or self.config.evaluation.batch_size,
            placement=sharding.batch_sharding(self.mesh),
            compiler_options=sharding.compiler_options(self.mesh),
        )


def evaluation_key(run: Run, split: str) -> jax.Array:
    """The key of all evaluations of a split: the same draws each time, so that two evaluations can be compared."""
    return jax.random.fold_in(jax.random.fold_in(run.key, random.EVALUATION_STREAM), SPLITS.index(split))
