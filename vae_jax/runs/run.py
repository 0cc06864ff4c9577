"""A run: settings, data, directory and mesh, and everything that is derived from them.

Files: runs/NAME/config.json  checkpoints/STEP/  metrics.jsonl  events.out.tfevents.*  figures/*.png  evaluation.json

The directory alone is enough to resume or evaluate a run.
"""

import dataclasses
import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding

from vae_jax import random
from vae_jax.config import Config
from vae_jax.data import SPLITS, batch_indices, load_images
from vae_jax.errors import InputError
from vae_jax.models import VAE, build_model
from vae_jax.runtime import defaults, sharding
from vae_jax.training import Evaluator, TrainState, init_state, make_optimizer


@dataclasses.dataclass(frozen=True, eq=False)
class Run:
    """A validated config with the description of its training data, its directory and its mesh.

    Attributes:
      config: the settings.
      data: fingerprint, num_examples and image_shape of the training images.
      directory: the run's directory.
      mesh: the devices.
      changes: allowed changes of settings or data: dictionaries with "setting", "from" and "to", and with "step" if an
        earlier start has made the change.
      streamed: whether training streams its images from disk.
    """

    config: Config
    data: dict[str, Any]
    directory: Path
    mesh: Mesh
    changes: tuple[dict[str, Any], ...] = ()
    streamed: bool = False

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width and channels."""
        height, width, channels = self.data["image_shape"]
        return height, width, channels

    def images(self, split: str) -> np.ndarray:
        """Load the images of a split, uint8 [N, H, W, C].

        Args:
          split: train, validation or test.

        Raises:
          InputError: the split is unknown or empty, or its images have another shape than the training images had.
          StorageError: the images cannot be read.
        """
        images = load_images(self.config, split)
        if images.shape[1:] != self.image_shape:
            raise InputError(
                f"data.name={self.config.data.name} has images of shape {list(images.shape[1:])}, but {self.directory} "
                f"was trained on {list(self.image_shape)}; restore the original images"
            )
        return images

    @functools.cached_property
    def model(self) -> VAE:
        """The model for evaluation, in float32."""
        return build_model(self.config.model, self.image_shape)

    @functools.cached_property
    def training_model(self) -> VAE:
        """The model for training; model.compute_dtype and model.remat affect only this one."""
        return build_model(self.config.model, self.image_shape, training=True)

    @functools.cached_property
    def optimizer(self) -> optax.GradientTransformation:
        """The optimizer with its learning rate schedule over train.steps."""
        return make_optimizer(self.config.optimizer, self.config.train.steps)

    @functools.cached_property
    def state_shardings(self) -> TrainState:
        """The sharding of each leaf of the training state."""
        return sharding.state_shardings(jax.eval_shape(self.initial_state, self.key), self.mesh)

    @property
    def microbatches(self) -> int:
        """Number of microbatches of a step."""
        return defaults.num_microbatches(self.config, self.mesh)

    @property
    def images_shape(self) -> tuple[int, ...]:
        """Shape of the images argument of the training program: all images, or the batches of one dispatch.

        [N, H, W, C], or for a streamed run [log_every, B, H, W, C], or with microbatches [log_every, M, B/M, H, W, C].
        """
        train = self.config.train
        if not self.streamed:
            return (self.data["num_examples"], *self.image_shape)
        parts = (self.microbatches,) if self.microbatches > 1 else ()
        return (train.log_every, *parts, train.batch_size // self.microbatches, *self.image_shape)

    @property
    def images_sharding(self) -> NamedSharding:
        """The sharding of that argument."""
        if not self.streamed:
            return sharding.replicated(self.mesh)
        return sharding.steps_sharding(self.mesh, microbatches=self.microbatches)

    @property
    def key(self) -> jax.Array:
        """The typed key of the run's seed."""
        return jax.random.key(self.config.seed)

    def examples(self, step: int) -> np.ndarray:
        """Return the indices of the training images that a step reads.

        Args:
          step: the step.

        Returns:
          int32 [batch_size].
        """
        count, size = self.data["num_examples"], self.config.train.batch_size
        order_key = jax.random.fold_in(self.key, random.DATA_STREAM)
        return np.asarray(batch_indices(order_key, jnp.asarray(step), num_examples=count, batch_size=size))

    def initial_state(self, key: jax.Array, mean_image: jax.Array | None = None) -> TrainState:
        """Return the state before the first step; a pure function.

        Args:
          key: the run's key.
          mean_image: mean of the preprocessed training images [H, W, C], the initial output of the decoder.
        """
        ema = self.config.train.ema_decay > 0
        return init_state(key, model=self.model, optimizer=self.optimizer, ema=ema, mean_image=mean_image)

    def evaluator(self, batch_size: int | None = None) -> Evaluator:
        """Return an evaluator of the run's model, whose batches are sharded over the mesh.

        Args:
          batch_size: replaces evaluation.batch_size.
        """
        return Evaluator(
            self.model,
            self.config.data.binarization,
            batch_size=batch_size or self.config.evaluation.batch_size,
            placement=sharding.batch_sharding(self.mesh),
            compiler_options=sharding.compiler_options(self.mesh),
        )


def evaluation_key(run: Run, split: str) -> jax.Array:
    """Return the key of all evaluations on a split; evaluations with the same key are comparable.

    Args:
      run: the run, whose seed is used.
      split: train, validation or test.
    """
    return jax.random.fold_in(jax.random.fold_in(run.key, random.EVALUATION_STREAM), SPLITS.index(split))
