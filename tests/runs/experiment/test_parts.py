"""The parts of an experiment that is made by hand are refused in one line when it is made."""

import dataclasses

import numpy as np
import pytest
from hand_made import TRAINING, hand_made

from vae_jax.config import EvaluationConfig, choice
from vae_jax.errors import InputError


def refusal(**parts):
    """Return the error of an experiment with other parts."""
    with pytest.raises(InputError) as caught:
        hand_made(**parts)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.fault
@pytest.mark.parametrize(
    ("training", "message"),
    [
        ({"steps": 0}, "train.steps=0 must be greater than 0"),
        ({"save_every": 0}, "train.save_every=0 must be greater than 0"),
        ({"save_every": 12}, "train.save_every=12 must be a multiple of train.log_every=5, for example 10"),
        ({"ema_decay": 2.0}, "train.ema_decay=2.0 must be at least 0 and less than 1"),
    ],
)
def test_settings_of_the_training_are_those_of_a_config(training, message):
    assert refusal(training=dataclasses.replace(TRAINING, **training)) == message


@pytest.mark.fault
def test_settings_of_the_evaluation_and_the_number_of_samples_are_checked():
    message = "evaluation.batch_size=0 must be greater than 0"
    assert refusal(evaluation=EvaluationConfig(batch_size=0)) == message
    assert refusal(evaluation=EvaluationConfig(num_samples=-1)) == "evaluation.num_samples=-1 must be at least 0"
    assert refusal(num_samples=0) == "num_samples=0 must be greater than 0"
    assert refusal(num_samples=2.0) == "num_samples=2.0 must be of type int"


@pytest.mark.fault
@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"data": np.zeros((9, 3))},
         "source=ndarray must be a source of data; use vae_jax.from_arrays(x) or vae_jax.open_source(NAME)"),
        ({"data": "digits"},
         "source='digits' must be a source of data; use vae_jax.from_arrays(x) or vae_jax.open_source(NAME)"),
        ({"objective": "elbo"},
         "objective='elbo' must be a function; use vae_jax.elbo or vae_jax.choice('objective', NAME)"),
        ({"preprocess": "scale"}, "preprocess='scale' must be a function; use vae_jax.choice('preprocess', NAME)"),
        ({"optimizer": choice("optimizer", "adam")},
         "optimizer=AdamConfig must be an optax gradient transformation; use one such as optax.adam(1e-3)"),
        ({"estimator": choice("estimator", "pathwise")}, "estimator=PathwiseConfig must be a function; use "
         "vae_jax.pathwise or vae_jax.choice('estimator', NAME).build()"),
    ],
)  # fmt: skip
def test_another_kind_of_part_is_refused_with_what_to_use(parts, message):
    assert refusal(**parts) == message


def test_registered_objectives_and_preprocessings_are_accepted():
    hand_made(objective=choice("objective", "elbo"), preprocess=choice("preprocess", "identity"))
