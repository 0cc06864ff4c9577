"""Every public name resolves, lazily: `import vae_jax` costs no more than Python itself."""

import functools
import importlib.metadata
import subprocess
import sys

import jax.numpy as jnp
import pytest

import vae_jax
import vae_jax.config

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
        "Config", "DataConfig", "TrainConfig", "EvaluationConfig", "MeshConfig", "PRESETS", "override", "validate",
        "setting", "register", "choice", "choices", "register_dataset", "register_command",
        "PreprocessConfig", "ModelConfig", "NetworkConfig", "PosteriorConfig", "PriorConfig", "LikelihoodConfig",
        "ObjectiveConfig", "EstimatorConfig", "OptimizerConfig", "ScheduleConfig",
        "from_arrays", "open_source", "load", "load_labels", "batch_indices",
        "Experiment", "build_experiment", "fit", "fit_sweep", "open_run", "RunDirectory", "Placement", "Callback",
        "TrainingRun", "default_callbacks", "evaluate_run", "plot_all", "plan_experiment", "run_benchmark",
        "VAE", "build_model", "init_params", "MLPEncoder", "MLPDecoder", "ConvEncoder", "ConvDecoder", "Variables",
        "Terms", "Objective", "elbo", "sampled_elbo", "reconstruction", "free_bits", "capacity",
        "iwae", "renyi", "miwae", "ciwae", "cubo", "beta_tc", "info_vae", "Pair", "bind",
        "pathwise", "sticking_the_landing", "doubly_reparameterized", "gradient_statistics", "log_weights", "Normal",
        "Bernoulli", "Deterministic", "DiscretizedLogisticMixture", "standard_normal", "kl_divergence",
        "sample_terms", "negative_bound", "bound_parts", "log_likelihood", "make_loss", "TrainState",
        "init_state", "make_optimizer", "make_train_step", "train_steps", "Evaluator",
    }  # fmt: skip
    assert expected <= set(vae_jax.__all__)


def test_every_objective_and_estimator_is_public_under_its_own_name():
    for config in vae_jax.choices("objective").values():
        objective = config().at(jnp.asarray(0), 100)
        pair = isinstance(objective, vae_jax.Pair)
        for part in (objective.generative, objective.inference) if pair else (objective,):
            function = part.func if isinstance(part, functools.partial) else part
            assert getattr(vae_jax, function.__name__) is function
    for name in vae_jax.choices("estimator"):
        assert getattr(vae_jax, name.replace("-", "_")) is vae_jax.choice("estimator", name).build()


def test_the_base_of_each_section_is_public():
    for section in vae_jax.config.SECTIONS:
        base = getattr(vae_jax, f"{section.capitalize()}Config")
        assert all(issubclass(config, base) for config in vae_jax.choices(section).values())


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
