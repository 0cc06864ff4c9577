"""What the cells of labels.py are compared with: a classifier of the labelled images alone, and one of all images.

The first is the network of q(y|x), trained without the other images. The second confirms the classes of samples.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from vae_jax import random
from vae_jax.config import Config
from vae_jax.distributions import Batch
from vae_jax.inference import Metrics, Params
from vae_jax.runs import build_experiment, labelled_examples
from vae_jax.training import (
    TrainState,
    evaluate_examples,
    make_optimizer,
    make_train_step,
    summarize_classes,
    train_classifier,
    train_steps,
)


class SupervisedClassifier(nn.Module):
    """Log q(y|x) [B, C] from the features of an encoder."""

    encoder: nn.Module
    num_classes: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        return jax.nn.log_softmax(nn.Dense(self.num_classes)(self.encoder(x)))


def supervised_error(config: Config) -> dict[str, float | None]:
    """Train the classifier of a config with the labelled images alone, and return its metrics on all test images.

    Each step uses all labelled images, with the preprocessing and the optimizer of the config.

    Returns:
      `classifier_error`, its standard error over the test images, and `classifier_calibration_error`.
    """
    experiment = build_experiment(config)
    labelled, preprocess, shape = experiment.labelled, experiment.preprocess, experiment.shape
    assert labelled is not None, "the config has data.labelled"
    chosen = labelled_examples(labelled, experiment.training_data).ravel()
    data = experiment.training_data.read(chosen)
    classifier = SupervisedClassifier(config.network.build(shape, 1, training=True)[0], labelled.num_classes)
    optimizer, key, zero = make_optimizer(config), experiment.key, jnp.zeros((), jnp.int32)
    initial = jax.jit(classifier.init)(jax.random.fold_in(key, random.INIT_STREAM), jnp.zeros((1, *shape)))["params"]
    state = TrainState(zero, initial, {}, optimizer.init(initial), (), key, zero)

    def loss(
        params: Params, statistics: dict[str, Any], keys: Array, batch: Batch, step: Array
    ) -> tuple[Array, tuple[Metrics, dict[str, Any]]]:
        del step
        log_q = classifier.apply({"params": params}, preprocess(keys, batch)["x"])
        losses = optax.softmax_cross_entropy_with_integer_labels(log_q, batch["y"])
        return jnp.mean(losses), ({}, statistics)

    def run(state: TrainState, data: Batch) -> TrainState:
        step = make_train_step(loss, optimizer)
        steps = {"batch_size": len(chosen), "max_steps": config.train.steps}
        return train_steps(state, data, config.train.steps, step=step, **steps)[0]

    def classify(params: Params, keys: Array, batch: Batch) -> dict[str, Array]:
        return {"log_q": classifier.apply({"params": params}, preprocess(keys, batch)["x"])}

    params, test = jax.jit(run)(state, data).params, experiment.dataset("test").arrays
    key = experiment.evaluation_key("test")
    log_q = evaluate_examples(jax.jit(classify), params, key, test, batch_size=500)["log_q"]
    return summarize_classes("classifier", log_q, test["y"])


def confirm_classes(samples: np.ndarray, labels: np.ndarray, config: Config, *, steps: int) -> dict[str, float]:
    """Return how many samples a convolutional classifier assigns to their class.

    The classifier is trained on all training images and labels of the data of a config.

    Args:
      samples: uint8 [N, H, W, C].
      labels: the classes that were asked for, int [N].
      config: its data and size of images are used.
      steps: of the classifier's training, with batches of 128.

    Returns:
      `confirmed`, the fraction of samples, and `accuracy`, that of test images with the label that they have.
    """
    experiment = build_experiment(config)
    train, test = experiment.training_data.read_all(), experiment.dataset("test").arrays
    max_shift = 2 if experiment.shape[0] > 16 else 0
    classifier = train_classifier(train["x"], train["y"], steps=steps, max_shift=max_shift)
    return {"confirmed": classifier.accuracy(samples, labels), "accuracy": classifier.accuracy(test["x"], test["y"])}
