"""Classes of samples, and data whose labels a model cannot read: an error before training, and before an evaluation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_experiments import image_experiment, images, initial_params

from vae_jax.data import ArraySource, from_arrays
from vae_jax.errors import InputError
from vae_jax.runs.evaluation.evaluation import make_evaluator
from vae_jax.runs.experiment import labels
from vae_jax.runs.opening import check_experiment
from vae_jax.runs.storage.directory import RunDirectory

CONDITIONAL = {"model": "conditional", "model__num_classes": 2, "model__embedding": 3}


def relabelled(y, mask=None):
    """Return the source of 60 images with other labels."""
    x = np.random.default_rng(0).integers(0, 256, (60, 8, 8), dtype=np.uint8)
    return from_arrays(x, y, mask=mask, holdout=0.3)


def test_samples_are_spread_over_the_classes():
    assert labels.spread_classes(7, 3).tolist() == [0, 0, 0, 1, 1, 2, 2]
    assert labels.spread_classes(2, 3).tolist() == [0, 1]
    assert labels.spread_classes(6, 3).dtype == np.int32


@pytest.mark.fault
@pytest.mark.parametrize(
    ("y", "message"),
    [
        (None, "data.name=arrays has no labels, which the model reads; use data with labels"),
        (np.arange(60) % 3, "model.num_classes=2 must be greater than the largest label of data.name=arrays, 2; use 3"),
        (np.arange(60) % 3 - 1, "data.name=arrays has the label -1; use labels of at least 0, and a mask"),
    ],
)
def test_data_without_the_labels_of_the_model_are_refused(y, message):
    with pytest.raises(InputError) as refused:
        image_experiment(relabelled(y), **CONDITIONAL)
    assert str(refused.value).startswith(message)


@pytest.mark.fault
def test_labels_of_held_out_examples_are_checked_before_training(one_device, tmp_path):
    experiment = image_experiment(images(), **CONDITIONAL)
    check_experiment(experiment, RunDirectory(tmp_path / "run"), one_device)
    x, y = images().parts["train"]["x"], images().parts["train"]["y"]
    held_out = image_experiment(images(labels=False)).dataset("test").origin["index"]
    wrong = image_experiment(
        from_arrays(x, np.where(np.isin(np.arange(60), held_out), 2, y), holdout=0.3), **CONDITIONAL
    )
    with pytest.raises(
        InputError, match=r"^model\.num_classes=2 must be .* label of the split \w+ of data\.name=arrays, 2; use 3$"
    ):
        check_experiment(wrong, RunDirectory(tmp_path / "run"), one_device)
    with pytest.raises(
        InputError, match=r"^model\.num_classes=2 must be .* label of the split \w+ of data\.name=arrays, 2; use 3$"
    ):
        wrong.dataset("test")


@pytest.mark.fault
def test_labels_that_a_held_out_split_lacks_are_refused_with_its_name():
    parts = {split: {"x": np.zeros((20, 8, 8, 1), np.uint8), "y": np.arange(20) % 2} for split in ("train", "test")}
    del parts["test"]["y"]
    experiment = image_experiment(ArraySource(parts, "images", holdout=0.3), **CONDITIONAL)
    words = r"^the split test of data\.name=arrays has no labels, which the model reads; add them, such as y_test to "
    with pytest.raises(InputError, match=words):
        experiment.dataset("test")


def test_hidden_labels_are_not_checked():
    y, mask = np.where(np.arange(60) % 2, -5, 1), np.arange(60) % 2 == 0
    assert image_experiment(relabelled(y, mask), **CONDITIONAL).training_data.spec["mask"].shape == ()


def test_labels_are_hidden_in_training_alone(one_device):
    """The programs of an evaluation are the same with and without `label_dropout`; those of a training step differ."""
    source = images()
    plain, dropped = (image_experiment(source, **CONDITIONAL, train__label_dropout=p) for p in (0.0, 0.5))
    assert make_evaluator(plain, one_device) is make_evaluator(dropped, one_device)
    batch, params = plain.training_data.read(np.arange(16)), initial_params(plain)
    values = [jax.jit(e.loss())(params, {}, e.key, batch, jnp.asarray(0))[0] for e in (plain, dropped)]
    assert abs(values[0] - values[1]) > 1e-3
