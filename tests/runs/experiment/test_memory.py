"""The sizes of an evaluation that fits in the free memory, and one line where it does not."""

import jax
import numpy as np
import pytest
from hand_made import hand_made
from small_experiments import count_experiment, image_experiment, initial_params

from vae_jax.errors import InputError
from vae_jax.runs import plots
from vae_jax.runs.evaluation import evaluation
from vae_jax.runs.experiment import memory
from vae_jax.runs.generation import decoding
from vae_jax.runtime import host


@pytest.fixture
def free(monkeypatch):
    """free(SIZE): from now on SIZE bytes of memory are free on each device; None: unknown."""
    return lambda size: monkeypatch.setattr(host, "free_memory", lambda devices=1: size)


def test_the_largest_array_of_one_example_is_found_by_a_trace():
    """Parameters do not count, which all examples share."""
    wide = image_experiment(network="mlp", network__hidden=(1000, 20))
    assert memory.trace_walk(wide).largest == 4000  # float32, where the kernels are 256 KB
    assert memory.trace_walk(wide).parts == {"reconstruction", "kl"}
    mixture = image_experiment(network="conv", likelihood="logistic-mixture", preprocess="scale")
    assert memory.trace_walk(mixture).largest >= 64 * 3 * 5 * 4  # pixels x parameters x components
    assert memory.trace_walk(hand_made()).largest == 4 * 9  # x and the label side by side


@pytest.mark.fault
def test_an_evaluation_that_does_not_fit_is_computed_in_smaller_parts_with_the_same_results(free, one_device):
    experiment = image_experiment(evaluation__batch_size=40, evaluation__chunk=10, evaluation__num_samples=12)
    params, arrays = initial_params(experiment), experiment.dataset("test").arrays
    one = memory.trace_walk(experiment).largest * memory._ARRAYS
    found, codes = [], np.zeros((150, 2), np.float32)
    for size, sizes in (
        (None, (40, 10)), (401 * one, (40, 10)), (200 * one, (40, 4)), (45 * one, (40, 1)),
        (20 * one, (16, 1)), (0, (1, 1)),
    ):  # fmt: skip
        free(size)
        assert memory.evaluation_sizes(experiment, one_device) == sizes
        note = memory.reduction_note(experiment, one_device)
        assert (note is None) == (sizes == (40, 10))
        assert note is None or f"the evaluation uses {sizes[0]} and {sizes[1]}, with the same results" in note
        if size in (None, 20 * one):
            result = evaluation.evaluate_run(experiment, params, split="test", placement=one_device)
            assert (result["batch_size"], result["chunk"], result["num_samples"]) == (*sizes, 12)
            decoded = decoding.decode_codes(experiment, params, codes, one_device)
            seen = decoding.encode_examples(experiment, params, jax.random.key(0), arrays, one_device)["seen"]
            found.append((result["nll"], result["elbo"], decoded, seen))
    for other in found[1:]:
        for value, expected in zip(other, found[0], strict=True):
            np.testing.assert_allclose(value, expected, rtol=1e-5)


@pytest.mark.fault
@pytest.mark.parametrize("error", [MemoryError(), jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory")])
def test_a_lack_of_memory_is_one_line(error, one_device, tmp_path, monkeypatch):
    experiment = count_experiment()
    params = initial_params(experiment)

    def fail(*_, **__):
        raise error

    for module, name, call in (
        (evaluation.Evaluator, "bound", lambda: evaluation.evaluate_run(experiment, params, split="test")),
        (plots, "plot_kind", lambda: plots.plot_all(experiment, params, tmp_path, one_device)),
    ):
        monkeypatch.setattr(module, name, fail)
        with pytest.raises(InputError, match=r" needs more memory than is free; the saved checkpoints are complete"):
            call()
    with pytest.raises(jax.errors.JaxRuntimeError), memory.refuse_lack_of_memory("nothing"):
        raise jax.errors.JaxRuntimeError("INTERNAL: another error")
