"""experiments/label_checks.py: a classifier of the labelled images alone, and the classes that another one confirms."""

import numpy as np
import pytest
from scripts import load

from vae_jax.config import Config, override
from vae_jax.runs import build_experiment

pytestmark = pytest.mark.usefixtures("digits_prepared")
CONFIG = override(Config(), model="m2", network__hidden=(32,), train__steps=80, data__labelled=100,
                  optimizer__learning_rate=1e-2)  # fmt: skip


@pytest.fixture(scope="module")
def script():
    return load("label_checks")


def test_the_error_of_the_classifier_is_that_of_the_labelled_images_alone(script):
    found = script.supervised_error(CONFIG)
    assert found["classifier_error_se"] > 0
    assert 0.05 < found["classifier_error"] < 0.4  # 0.9 at random
    other = script.supervised_error(override(CONFIG, data__labelled_draw=1))
    assert other["classifier_error"] != found["classifier_error"]


@pytest.mark.thorough
def test_the_classes_of_images_are_confirmed_and_other_classes_are_not(script):
    test = build_experiment(CONFIG).dataset("test").arrays
    is_right = np.arange(len(test["y"])) % 2 == 0
    found = script.confirm_classes(test["x"], np.where(is_right, test["y"], (test["y"] + 1) % 10), CONFIG, steps=60)
    assert found["accuracy"] > 0.8
    assert abs(found["confirmed"] - is_right.mean() * found["accuracy"]) < 0.1
