"""Every public name resolves, lazily: `import vae_jax` costs no more than Python itself."""

import importlib.metadata
import subprocess
import sys

import pytest

import vae_jax

HEAVY = ("jax", "jaxlib", "flax", "optax", "orbax", "numpy", "tensorflow_datasets", "tyro")


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("name", vae_jax.__all__)
def test_a_public_name_is_the_object_of_that_name(name):
    found = getattr(vae_jax, name)
    assert found is not None
    assert getattr(found, "__name__", name) in (name, "Callable")  # Objective is an alias of a Callable


def test_the_names_that_the_documents_use_are_public():
    expected = {
        "VAE", "build_model", "MLPEncoder", "MLPDecoder", "ConvEncoder", "ConvDecoder", "ModelConfig", "Config",
        "DataConfig", "ObjectiveConfig", "OptimizerConfig", "TrainConfig", "EvaluationConfig", "MeshConfig", "PRESETS",
        "Terms", "Objective", "OBJECTIVES", "elbo", "sampled_elbo", "reconstruction", "free_bits", "capacity",
        "iwae", "renyi", "miwae", "ciwae", "cubo", "beta_tc", "info_vae", "Pair", "bind", "ESTIMATORS",
        "pathwise", "sticking_the_landing", "doubly_reparameterized", "gradient_statistics", "log_weights", "Normal",
        "Bernoulli", "Deterministic", "DiscretizedLogisticMixture", "standard_normal", "kl_divergence",
        "sample_terms", "negative_bound", "bound_parts", "log_likelihood", "make_loss", "TrainState",
        "init_state", "make_optimizer", "make_train_step", "train_steps", "batch_indices", "read_images", "load",
        "load_labels", "Evaluator",
    }  # fmt: skip
    assert expected <= set(vae_jax.__all__)


def test_every_objective_is_public_under_its_own_name():
    for objective in vae_jax.OBJECTIVES.values():
        pair = isinstance(objective, vae_jax.Pair)
        for part in (objective.generative, objective.inference) if pair else (objective,):
            assert getattr(vae_jax, part.__name__) is part


def test_names_are_listed_once_and_in_order():
    assert vae_jax.__all__ == sorted(set(vae_jax.__all__))
    assert set(vae_jax.__all__) <= set(dir(vae_jax))


def test_version_is_that_of_the_installed_package():
    assert vae_jax.__version__ == importlib.metadata.version("vae-jax")


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="iwea"):
        vae_jax.iwea  # noqa: B018
    with pytest.raises(ImportError):
        from vae_jax import iwea  # noqa: F401


def test_import_is_light_and_names_come_on_first_use():
    loaded = f"print([m for m in {HEAVY!r} if m in sys.modules])"
    assert run(f"import sys, vae_jax; dir(vae_jax); vae_jax.__version__; {loaded}") == "[]\n"
    assert run(f"import sys, vae_jax; vae_jax.PRESETS; {loaded}") == "[]\n"
    assert "'jax'" in run(f"import sys, vae_jax; vae_jax.elbo; {loaded}")  # the check can see what is imported


def test_star_import_brings_the_public_names():
    namespace = {}
    exec("from vae_jax import *", namespace)
    assert set(vae_jax.__all__) <= set(namespace)
