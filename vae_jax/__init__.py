"""Variational autoencoders in JAX: pure functions, exact bounds, whole runs in one program, on one device or many.

The public names, each imported from its module when it is first used: `import vae_jax` alone imports no JAX.
"""

import importlib
from typing import Any

_NAMES = {
    "chains": ("MarkovChain",),
    "config": (
        "Config", "DataConfig", "EvaluationConfig", "MeshConfig", "ModelConfig", "ObjectiveConfig",
        "OptimizerConfig", "TrainConfig",
    ),
    "data": ("load", "load_labels"),
    "data.batches": ("batch_indices", "binarize_once", "read_images"),
    "distributions": (
        "Bernoulli", "Deterministic", "DiscretizedLogisticMixture", "Normal", "kl_divergence",
        "standard_normal",
    ),
    "errors": ("InputError", "VaeJaxError"),
    "estimators": (
        "ESTIMATORS", "Estimator", "GradientStatistics", "doubly_reparameterized", "gradient_statistics", "pathwise",
        "signal_to_noise", "sticking_the_landing",
    ),
    "evaluation": ("Evaluator", "bits_per_dim"),
    "exporting": ("export_programs",),
    "inference": (
        "bound_parts", "log_likelihood", "make_loss", "negative_bound", "objective_at", "sample_terms",
    ),
    "models": (
        "VAE", "ConditionalNormal", "ConvDecoder", "ConvEncoder", "MLPDecoder", "MLPEncoder", "TiedDecoder",
        "build_model", "likelihood_features", "with_output_bias",
    ),
    "objectives": (
        "OBJECTIVES", "Codes", "Objective", "Pair", "Terms", "beta_tc", "bind", "capacity", "ciwae", "cubo", "elbo",
        "free_bits", "info_vae", "iwae", "kl_decomposition", "log_weights", "miwae", "negative_cubo", "reconstruction",
        "renyi", "sampled_elbo", "squared_mmd",
    ),
    "presets": ("PRESETS",),
    "settings": ("override", "validate"),
    "sharding": ("batch_sharding", "make_mesh", "place_batch", "replicated"),
    "training": (
        "TrainState", "init_state", "make_optimizer", "make_schedule", "make_train_step", "train_steps",
    ),
}  # fmt: skip
_MODULE_OF = {name: module for module, names in _NAMES.items() for name in names}

__all__ = sorted(_MODULE_OF)


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        value = version("vae-jax")
    elif name in _MODULE_OF:
        value = getattr(importlib.import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, "__version__"})
