"""Exported programs equal the model for any number of examples, and need JAX and flatbuffers alone."""

import functools
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.export import deserialize
from jitted import apply, init

from vae_jax.config.schema import ModelConfig
from vae_jax.models import export
from vae_jax.models.build import build_model
from vae_jax.runtime import sharding

SHAPE = (7, 5, 1)
MODELS = {
    "mlp": {"network": "mlp"},
    "conv": {"network": "conv"},
    "residual": {"network": "residual"},
    "two layers": {"latent_layers": (5,), "layer_hidden": (6,)},
    "logistic mixture": {"likelihood": "logistic-mixture"},
    "Gaussian": {"likelihood": "learned-gaussian"},
    "PCA": {"posterior": "deterministic", "tied": True, "activation": "identity", "likelihood": "gaussian"},
}


def perturbed_model(**changes):
    model = build_model(ModelConfig(hidden=(8, 6), latent_dim=3, **changes), SHAPE)
    params = init(model, jax.random.key(0), jnp.zeros((1, *SHAPE)))["params"]
    # At the initial point scales are one and outputs are close to a half.
    return model, jax.tree.map(lambda p: p + 0.3 * jax.random.normal(jax.random.key(p.size), p.shape), params)


@functools.cache
def exported(name):
    """Return (model, parameters, programs that were serialized and deserialized)."""
    model, params = perturbed_model(**MODELS[name])
    programs = export.export_programs(params, model=model)
    return model, params, {kind: deserialize(program.serialize()) for kind, program in programs.items()}


@pytest.mark.parametrize(("name", "count"), [("mlp", 1), ("residual", 1), *((name, 3) for name in MODELS)])
class TestProgramsEqualTheModel:
    def test_encoder(self, name, count):
        model, params, programs = exported(name)
        x = jax.random.uniform(jax.random.key(1), (count, *SHAPE))
        found = programs["encoder"].call(x)
        q = apply(model, params, x, method="encode")
        q = q.along_means() if name == "two layers" else q
        scale = np.zeros_like(found["mean"]) if name == "PCA" else jnp.exp(q.log_scale)
        np.testing.assert_allclose(found["mean"], q.mean(), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(found["scale"], scale, rtol=1e-5)
        assert found["mean"].shape == (count, sum(model.sizes))

    def test_decoder(self, name, count):
        model, params, programs = exported(name)
        z = 3 * jax.random.normal(jax.random.key(2), (count, sum(model.sizes)))
        mean = apply(model, params, z, method="decode").mean()
        found = programs["decoder"].call(z)
        np.testing.assert_allclose(found, np.clip(mean, 0, 1), rtol=1e-5, atol=1e-6)
        if name in ("Gaussian", "PCA"):
            assert mean.min() < 0 == found.min()
        assert np.std(found) > 0.05

    def test_sampler(self, name, count):
        model, params, programs = exported(name)
        keys = jax.random.split(jax.random.key(3), count)
        found = programs["sampler"].call(jax.random.key_data(keys))
        assert found.shape == (count, *SHAPE)
        prior = model.apply({"params": params}, method="prior")
        for key, image in zip(keys, found, strict=True):  # each image depends on its key alone
            alone = programs["decoder"].call(prior.sample(key)[None])[0]
            np.testing.assert_allclose(image, alone, rtol=1e-5, atol=1e-6)
        assert len({image.tobytes() for image in np.asarray(found)}) == count


def test_a_program_runs_without_this_package(tmp_path):
    model, params, programs = exported("residual")
    z = np.random.default_rng(0).normal(size=(3, 3)).astype(np.float32)
    (tmp_path / "decoder.jax").write_bytes(programs["decoder"].serialize())
    np.save(tmp_path / "z.npy", z)
    code = """
import sys
sys.modules |= dict.fromkeys(("vae_jax", "flax", "chex", "optax", "orbax"))  # importing one is an error now
import jax.export, numpy as np
program = jax.export.deserialize(bytearray(open("decoder.jax", "rb").read()))
np.save("images.npy", program.call(np.load("z.npy", allow_pickle=False)))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    expected = np.clip(apply(model, params, z, method="decode").mean(), 0, 1)
    np.testing.assert_allclose(np.load(tmp_path / "images.npy", allow_pickle=False), expected, rtol=1e-5, atol=1e-6)


def test_parameters_on_many_devices_export_programs_for_one():
    model, params = perturbed_model()
    replicated = jax.device_put(params, sharding.replicated(sharding.make_mesh()))
    assert len(jax.tree.leaves(replicated)[0].sharding.device_set) == 8
    for program in export.export_programs(replicated, model=model).values():
        assert (program.nr_devices, program.platforms) == (1, ("cpu", "cuda", "rocm", "tpu"))


def test_matrix_products_have_the_highest_precision():
    _, _, programs = exported("mlp")
    for program in programs.values():
        products = [line for line in program.mlir_module().splitlines() if "stablehlo.dot_general" in line]
        assert products
        assert all("precision = [HIGHEST, HIGHEST]" in line for line in products)
