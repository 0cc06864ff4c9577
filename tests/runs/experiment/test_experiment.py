"""An experiment from a config or made by hand: keys, batches, initial state, and its training as one function."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from averaging_model import AveragingModel
from hand_made import NUM_EXAMPLES, SIZE, TRAINING, Conditional, arrays, hand_made, source
from small_experiments import count_experiment, image_experiment, vector_experiment
from training_runs import without_key_type

from vae_jax import random
from vae_jax.config import Config, apply_overrides, replace_settings
from vae_jax.data import ArrayDataset, ArraySource, IdentityConfig, from_arrays
from vae_jax.distributions import Variables
from vae_jax.errors import InputError, NoExamplesError
from vae_jax.inference import elbo
from vae_jax.runs import Experiment, at_numbers, build_experiment, fit
from vae_jax.runs.experiment.experiment import with_data_of
from vae_jax.training import evaluator


def assert_equal_states(a, b, **tolerance):
    """Compare two training states; without a tolerance, bit for bit."""
    for x, y in zip(*(jax.tree.leaves(state._replace(key=())) for state in (a, b)), strict=True):
        np.testing.assert_allclose(x, y, **tolerance) if tolerance else np.testing.assert_array_equal(x, y)


# From a config.


def test_each_split_has_a_separate_key_in_evaluations(make_experiment):
    experiment, _ = make_experiment()
    keys = [jax.random.key_data(experiment.evaluation_key(s)).tolist() for s in ("train", "validation", "test")]
    assert len({*map(tuple, keys)}) == 3


def test_the_batches_of_an_epoch_contain_each_example_at_most_once(make_experiment):
    experiment, _ = make_experiment()
    count, size = experiment.data["num_examples"], experiment.training.batch_size
    epoch = np.concatenate([experiment.examples(step) for step in range(count // size)])
    assert len(epoch) == len(set(epoch.tolist())) == count // size * size
    assert set(epoch.tolist()) <= set(range(count))
    np.testing.assert_array_equal(experiment.examples(3), experiment.examples(3))


def test_the_initial_state_is_a_function_of_the_key(make_experiment):
    experiment, _ = make_experiment(train__ema_decay=0.9)
    first, again, other = (experiment.initial_state(key) for key in (experiment.key, experiment.key, jax.random.key(1)))
    for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(again), strict=True):
        np.testing.assert_array_equal(without_key_type(a), without_key_type(b))
    jax.tree.map(np.testing.assert_array_equal, first.params, first.ema_params)
    assert jax.tree.map(jnp.shape, first.params) == jax.tree.map(jnp.shape, other.params)
    pairs = zip(*map(jax.tree.leaves, (first.params, other.params)), strict=True)
    different = [not np.array_equal(*pair) for pair in pairs]
    assert sum(different) >= 3  # the kernels
    without, _ = make_experiment()
    assert without.initial_state(without.key).ema_params == ()


def test_the_output_bias_starts_at_the_mean_of_the_data(make_experiment):
    experiment, _ = make_experiment()
    mean = jnp.full(experiment.shape, 0.25)
    plain, centered = experiment.initial_state(experiment.key), experiment.initial_state(experiment.key, mean)
    assert not np.array_equal(plain.params["output_bias"], centered.params["output_bias"])
    images = experiment.training_data.read_all()["x"]
    np.testing.assert_allclose(experiment.data_mean(), images.mean(axis=0) / 255, rtol=1e-5)


def test_examples_of_another_shape_are_refused(make_experiment):
    experiment, _ = make_experiment()
    assert experiment.dataset("test").arrays["x"].shape[1:] == experiment.shape == (8, 8, 1)
    other = dataclasses.replace(experiment)
    vars(other)["training_data"] = ArrayDataset({"x": np.zeros((20, 9, 8, 1), np.uint8)}, "images")
    words = r"^digits: the split test has arrays .*\[8, 8, 1\].*, but .*\[9, 8, 1\].*, which the model reads; "
    with pytest.raises(InputError, match=words) as caught:
        other.dataset("test")
    assert "\n" not in str(caught.value)


def test_training_precision_does_not_change_the_model_that_is_evaluated(make_experiment):
    experiment, _ = make_experiment(network__compute_dtype="bfloat16")
    reference, _ = make_experiment()
    assert experiment.model == reference.model
    assert experiment.training_model != reference.training_model


def test_images_binarized_once_depend_on_the_seed_and_the_split(make_experiment):
    settings = {"preprocess": "static-binarization", "likelihood": "bernoulli"}
    first, other = (make_experiment(seed=seed, **settings)[0] for seed in (0, 1))
    stored = first.training_data.read_all()["x"]
    assert set(np.unique(stored)) == {0, 255}
    np.testing.assert_array_equal(stored, first.dataset("train").arrays["x"])
    assert first.data["arrays"]["x"]["sha256"] != other.data["arrays"]["x"]["sha256"]
    assert first.training_data.spec == first.dataset("validation").spec


def test_all_examples_are_those_of_the_splits_also_if_they_are_binarized_once(make_experiment):
    experiment, _ = make_experiment(preprocess="static-binarization", likelihood="bernoulli")
    joined = experiment.dataset("all")
    for split in ("train", "validation", "test"):
        found = experiment.dataset(split)
        rows = joined.read(np.searchsorted(joined.origin["index"], found.origin["index"]))
        np.testing.assert_array_equal(rows["x"], found.arrays["x"])
    assert joined.origin["index"].tolist() == list(range(1797))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"preprocess": "identity"}, "preprocess=identity must be .* for images"),
        ({"preprocess": "identity", "likelihood": "poisson"}, "preprocess=identity must be .* for images"),
    ],
)
def test_a_config_that_does_not_suit_the_kind_of_the_data_is_refused(small, settings, words):
    with pytest.raises(InputError, match=words) as caught:
        build_experiment(replace_settings(small(), settings))
    assert "\n" not in str(caught.value)


def test_held_out_numbers_without_a_category_are_refused(tmp_path):
    x = np.random.default_rng(0).integers(0, 4, (60, 5))
    np.savez(tmp_path / "x.npz", x_train=x, x_test=np.full((10, 5), 4))
    settings = {"data.name": str(tmp_path / "x.npz"), "data.kind": "counts", "preprocess": "one-hot",
                "preprocess.num_categories": 4, "likelihood": "categorical"}  # fmt: skip
    experiment = build_experiment(apply_overrides(Config(), settings))
    assert experiment.dataset("train").arrays["x"].max() == 3
    with pytest.raises(InputError, match=r"^preprocess.num_categories=4 must be at least 5, since the largest number"):
        experiment.dataset("test")


def test_other_numbers_are_another_experiment_on_the_same_data(make_experiment):
    experiment, _ = make_experiment()
    other = at_numbers(experiment, {"seed": 3, "optimizer.learning_rate": 0.5, "objective.beta": 2.0})
    assert other.training_data is experiment.training_data
    assert (other.seed, other.config.optimizer.learning_rate, other.objective.beta) == (3, 0.5, 2.0)
    assert float(other.schedule(0)) == pytest.approx(0.5)
    with pytest.raises(InputError, match="without a config"):
        at_numbers(hand_made(), {"seed": 1})


# Made by hand.


def test_a_hand_made_experiment_knows_its_shapes_without_a_config():
    experiment = hand_made()
    assert (experiment.kind, experiment.shape, len(experiment.training_data)) == ("vectors", (SIZE,), 49)
    assert {name: (a.shape, str(a.dtype)) for name, a in experiment.example_batch.items()} == {
        "x": ((1, SIZE), "float32"), "y": ((1,), "int32"),
    }  # fmt: skip
    assert set(experiment.data["arrays"]) == {"x", "y"}
    assert len(experiment.dataset("validation")) + len(experiment.dataset("test")) == NUM_EXAMPLES - 49
    with pytest.raises(NoExamplesError):
        hand_made(data=source(holdout=0.0)).dataset("validation")


def test_images_are_scaled_and_other_arrays_are_unchanged_by_default():
    images = np.full((20, 4, 4), 51, np.uint8)
    batch = hand_made(data=from_arrays(images)).preprocess(None, {"x": jnp.asarray(images[..., None]), "y": 1})
    np.testing.assert_allclose(batch["x"], 0.2, rtol=1e-6)
    assert (batch["x"].dtype, batch["y"]) == (jnp.float32, 1)
    counts = hand_made().preprocess(None, {"x": jnp.arange(6).reshape(2, 3)})["x"]
    np.testing.assert_array_equal(counts, [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]])


def test_a_custom_preprocessing_receives_a_key_for_each_example(tmp_path):
    def noisy(keys, batch):
        noise = jax.vmap(lambda key: jax.random.normal(key, (SIZE,)))(keys)
        return {"x": batch["x"] + 0.1 * noise, "y": batch["y"]}

    experiment = hand_made(preprocess=noisy)
    assert experiment.shape == (SIZE,)
    assert fit(experiment, tmp_path / "run").step == 20


def test_initial_parameters_of_a_user_replace_those_of_the_model(tmp_path):
    means = []

    def initialize(params, mean):
        means.append(mean)
        return jax.tree.map(jnp.zeros_like, params)

    state = hand_made(initialize=initialize).initial_state(jax.random.key(0))
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(state.params))
    assert means == [None]
    # A preprocessing with a method `mean` gives the mean of the inputs.
    experiment = hand_made(initialize=initialize, preprocess=IdentityConfig())
    np.testing.assert_allclose(experiment.data_mean(), arrays()[0][:49].mean(axis=0), atol=0.5)
    fit(experiment, tmp_path / "run")
    assert {mean.shape for mean in means if mean is not None} == {(SIZE,)}


def test_the_description_names_parts_without_addresses_and_changes_with_them():
    first, again = (hand_made().description() for _ in range(2))
    assert first == again
    assert not any("0x" in str(value) for value in first.values())
    assert first["objective"] == "half_kl"
    assert "Conditional" in first["model"]
    assert (first["settings.learning_rate"], first["seed"], first["train.steps"]) == (1e-2, 0, 20)
    changes = {
        "model": hand_made(model=Conditional(width=9)), "objective": hand_made(objective=elbo),
        "num_samples": hand_made(num_samples=3), "seed": hand_made(seed=1), "settings.learning_rate": hand_made(0, 0.1),
    }  # fmt: skip
    for name, other in changes.items():
        described = other.description()
        assert {path for path in first if first[path] != described[path]} == {name}


def test_the_training_as_one_function_equals_fit(tmp_path):
    experiment = hand_made(schedule=optax.linear_schedule(1.0, 0.0, 20))  # for the metrics only
    state, metrics = jax.jit(experiment.train)(experiment.key)
    assert metrics["loss"].shape == (20,)
    np.testing.assert_allclose(metrics["learning_rate"], 1 - np.arange(20) / 20, rtol=1e-6)
    outcome = fit(experiment, tmp_path / "run")  # also after a compiled program has read the properties first
    assert_equal_states(state, outcome.state, rtol=1e-5, atol=1e-6)
    assert not np.allclose(
        state.params["code"]["kernel"], experiment.initial_state(experiment.key).params["code"]["kernel"]
    )
    x, y = arrays()
    data = {"x": x[:49] + 1, "y": y[:49]}
    other, _ = jax.jit(experiment.train)(experiment.key, data)
    assert not np.allclose(other.params["code"]["kernel"], state.params["code"]["kernel"], rtol=1e-4)


def test_many_seeds_are_trained_by_vmap():
    experiment = hand_made()
    keys = jax.vmap(jax.random.key)(jnp.arange(3))
    states, metrics = jax.jit(jax.vmap(experiment.train))(keys)
    assert metrics["loss"].shape == (3, 20)
    for i in range(3):
        alone, _ = jax.jit(experiment.train)(jax.random.key(i))
        assert_equal_states(jax.tree.map(lambda leaf, i=i: leaf[i], states), alone, rtol=1e-4, atol=1e-5)


@pytest.mark.thorough
def test_the_training_of_a_config_as_one_function_equals_fit(make_experiment, one_device, tmp_path):
    experiment, _ = make_experiment(train__ema_decay=0.9)
    state, _ = jax.jit(experiment.train)(experiment.key)
    outcome = fit(experiment, tmp_path / "run", one_device)
    assert_equal_states(state, outcome.state, rtol=1e-4, atol=1e-5)


def test_a_model_with_statistics_trains_and_is_evaluated_with_them(tmp_path):
    x = np.random.default_rng(0).normal(1, 1, (60, 5)).astype(np.float32)
    experiment = Experiment(AveragingModel(), from_arrays(x), elbo, optax.adam(1e-2), training=TRAINING)
    outcome = fit(experiment, tmp_path / "run")
    assert isinstance(outcome.params, Variables)
    statistics = outcome.state.statistics["statistics"]
    assert int(statistics["updates"]) == 20
    assert np.all(np.abs(statistics["mean"]) > 0.1)
    state, _ = jax.jit(experiment.train)(experiment.key)
    assert_equal_states(state, outcome.state, rtol=1e-4, atol=1e-5)


def test_shared_data_keep_their_description():
    experiment = hand_made()
    description = experiment.data
    other = with_data_of(hand_made(seed=1), experiment)
    assert other.data is description
    assert other.training_data is experiment.training_data


def test_an_objective_of_a_user_is_maximized(tmp_path):
    def constant(terms):
        return jnp.zeros(terms.log_px_z.shape[1:])

    outcome = fit(hand_made(objective=constant), tmp_path / "run")
    initial = hand_made().initial_state(jax.random.key(0)).params
    jax.tree.map(np.testing.assert_array_equal, outcome.state.params, initial)  # it has no gradient


def test_examples_without_labels_are_refused_by_a_model_that_reads_them():
    x, y = arrays()
    unlabelled = ArraySource({"train": {"x": x, "y": y.astype(np.int32)}, "test": {"x": x[:9]}}, "vectors")
    with pytest.raises(InputError, match=r"the split test has arrays \{'x': \[6\]\}, but the training examples have"):
        hand_made(data=unlabelled).dataset("test")
    ignoring = hand_made(data=unlabelled, model=Unconditional())
    assert len(ignoring.dataset("test")) == 9


class Unconditional(Conditional):
    """The same model with a constant label."""

    def encode(self, batch):
        return super().encode(batch | {"y": jnp.zeros(len(batch["x"]), int)})

    def decode(self, draw, evidence=None, batch=None):
        return super().decode(draw, evidence, {"y": jnp.zeros(len(batch["x"]), int)})


@pytest.mark.fault
@pytest.mark.parametrize("make", [image_experiment, count_experiment, vector_experiment])
def test_strict_promotion_of_dtypes_works_in_training_and_evaluation(make):
    """It is traced alone: the mode changes no number."""
    experiment = make(train__ema_decay=0.9, train__nonfinite="skip", objective="iwae", objective__num_samples=2)
    with jax.numpy_dtype_promotion("strict"):
        state, _ = jax.eval_shape(experiment.train, jax.random.key(0))
        keys = jax.eval_shape(lambda first: random.example_keys(experiment.key, 3, first=first), np.uint32(4))
        batch = {
            name: jax.ShapeDtypeStruct((3, *s.shape), s.dtype) for name, s in experiment.training_data.spec.items()
        }
        parts = {"model": experiment.model, "preprocess": experiment.preprocess}
        for terms in (
            functools.partial(evaluator.elbo_terms, **parts, kind=experiment.kind),
            functools.partial(evaluator.likelihood_terms, **parts, num_samples=5, chunk=2),
        ):
            jax.eval_shape(terms, experiment.evaluation_params(state), keys, batch)
