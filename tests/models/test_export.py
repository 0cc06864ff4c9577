"""Exported programs equal the model for any number of examples, and need JAX and flatbuffers alone."""

import functools
import subprocess
import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from built_models import model_config
from hand_made import Conditional
from jax.export import deserialize
from jitted import apply, init
from subsets import by_default

from vae_jax.distributions import Bernoulli, Normal, Variables, standard_normal
from vae_jax.errors import InputError
from vae_jax.models import export
from vae_jax.models.build import build_model, init_params

IMAGES, VECTORS = (7, 5, 1), (6,)
PCA = {"posterior": "deterministic", "network__tied": True, "network__activation": "identity", "likelihood": "gaussian"}
MODELS = {
    "mlp": (IMAGES, {"network": "mlp"}),
    "conv": (IMAGES, {"network": "conv"}),
    "residual": (IMAGES, {"network": "residual"}),
    "two layers": (IMAGES, {"model": "layered", "model__latent_layers": (5,), "model__layer_hidden": (6,)}),
    "logistic mixture": (IMAGES, {"likelihood": "logistic-mixture"}),
    "Gaussian": (IMAGES, {"likelihood": "learned-gaussian"}),
    "PCA": (IMAGES, PCA),
    "vectors": (VECTORS, {"likelihood": "student-t"}),
    "counts": (VECTORS, {"likelihood": "negative-binomial", "network__log1p": True}),
}


def perturbed_model(shape=IMAGES, **changes):
    model = build_model(model_config(**{"network__activation": "tanh"} | changes), shape)
    params = init(model, jax.random.key(0), jnp.zeros((1, *shape)))["params"]
    # At the initial point scales are one and outputs are close to a half.
    return model, jax.tree.map(lambda p: p + 0.3 * jax.random.normal(jax.random.key(p.size), p.shape), params)


def value_range(name):
    return (0, 1) if MODELS[name][0] == IMAGES else None


def clipped(mean, name):
    return mean if value_range(name) is None else np.clip(mean, 0, 1)


@functools.cache
def exported(name):
    """Return (model, parameters, programs that were serialized and deserialized)."""
    shape, changes = MODELS[name]
    model, params = perturbed_model(shape, **changes)
    programs = export.export_programs(params, model=model, shape=shape, value_range=value_range(name))
    return model, params, {kind: deserialize(program.serialize()) for kind, program in programs.items()}


@pytest.mark.parametrize(
    ("name", "count"),
    by_default(
        lambda case: case[0] != "residual",
        [("mlp", 1), ("residual", 1), *((name, 3) for name in MODELS)],
    ),
)
class TestProgramsEqualTheModel:
    def test_encoder(self, name, count):
        model, params, programs = exported(name)
        x = jax.random.uniform(jax.random.key(1), (count, *MODELS[name][0]))
        found = programs["encoder"].call(x)
        layers = [apply(model, params, x, method="encode")]
        if name == "two layers":  # the second, given the mean of the first
            upper = {"params": params["posterior_layers_0"]}
            layers.append(model.posterior_layers[0].apply(upper, layers[0].mean()))
        mean, scale = (
            np.concatenate(parts, axis=-1) for parts in zip(*((q.mean(), q.stddev()) for q in layers), strict=True)
        )
        np.testing.assert_allclose(found["mean"], mean, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(found["scale"], scale, rtol=1e-5)
        assert not scale.any() if name == "PCA" else scale.all()
        assert found["mean"].shape == (count, 8 if name == "two layers" else 3)

    def test_decoder(self, name, count):
        model, params, programs = exported(name)
        z = 3 * jax.random.normal(jax.random.key(2), (count, 8 if name == "two layers" else 3))
        mean = apply(model, params, {"z1": z[:, :5], "z2": z[:, 5:]} if z.shape[1] == 8 else z, method="decode").mean()
        found = programs["decoder"].call(z)
        np.testing.assert_allclose(found, clipped(mean, name), rtol=1e-5, atol=1e-6)
        if name in ("Gaussian", "PCA"):
            assert mean.min() < 0 == found.min()
        if name == "vectors":
            assert found.min() < 0
        assert np.std(found) > 0.05

    def test_sampler(self, name, count):
        model, params, programs = exported(name)
        keys = jax.random.split(jax.random.key(3), count)
        found = programs["sampler"].call(jax.random.key_data(keys))
        assert found.shape == (count, *MODELS[name][0])
        draw = jax.jit(functools.partial(export.sample_codes, model=model))
        for i, image in enumerate(found):  # each image depends on its key alone
            alone = programs["decoder"].call(draw(params, keys[i : i + 1]))[0]
            np.testing.assert_allclose(image, alone, rtol=1e-5, atol=1e-6)
        assert len({image.tobytes() for image in np.asarray(found)}) == count


def test_layers_side_by_side_are_split_and_joined_in_the_order_of_the_model():
    model, params = perturbed_model(**MODELS["two layers"][1])
    shapes = export.latent_shapes(params, model=model)
    assert shapes == {"z1": export.LayerShape((5,)), "z2": export.LayerShape((3,))}
    codes = jnp.arange(32.0).reshape(2, 2, 8)
    values = export.split_codes(codes, shapes)
    np.testing.assert_array_equal(values["z2"], codes[..., 5:])
    np.testing.assert_array_equal(export.join_codes(values, shapes), codes)
    grids = {"a": export.LayerShape((2,), blocks=2), "b": export.LayerShape((2, 2))}
    values = export.split_codes(codes, grids)
    assert {name: value.shape for name, value in values.items()} == {"a": (2, 2, 2, 2), "b": (2, 2, 2, 2)}
    np.testing.assert_array_equal(values["a"][1], codes[..., 2:4])  # the axis of blocks comes first
    np.testing.assert_array_equal(export.join_codes(values, grids), codes)
    mixed = {"codes": export.LayerShape((2,), is_integer=True), "z": export.LayerShape((6,))}
    values = export.split_codes(codes, mixed)
    assert [value.dtype for value in values.values()] == [jnp.int32, jnp.float32]
    np.testing.assert_array_equal(export.join_codes(values, mixed), codes)
    with pytest.raises(AssertionError):
        export.split_codes(codes[..., 1:], shapes)


def test_the_embedding_has_mean_and_scale_of_each_layer_by_name():
    model, params = perturbed_model(**MODELS["two layers"][1])
    x = jax.random.uniform(jax.random.key(1), (3, *IMAGES))
    layers = export.embed(params, {"x": x}, model=model)
    flat = export.encode(params, {"x": x}, model=model)
    assert {name: layer["mean"].shape for name, layer in layers.items()} == {"z1": (3, 5), "z2": (3, 3)}
    for kind in ("mean", "scale"):
        joined = np.concatenate([layers["z1"][kind], layers["z2"][kind]], axis=-1)
        np.testing.assert_array_equal(flat[kind], joined)


def test_samples_of_the_prior_do_not_depend_on_the_number_of_keys():
    model, params = perturbed_model(**MODELS["two layers"][1])
    keys = jax.random.split(jax.random.key(0), 4000)
    codes = jax.jit(functools.partial(export.sample_codes, model=model))(params, keys)
    np.testing.assert_allclose(export.sample_codes(params, keys[2:5], model=model), codes[2:5], rtol=1e-5, atol=1e-6)
    top = codes[:, 5:]  # z2 ~ N(0, I)
    assert np.abs(top.mean(axis=0)).max() < 5 / np.sqrt(4000)
    assert np.abs(np.cov(top.T) - np.eye(3)).max() < 5 * np.sqrt(2 / 4000)
    upper = {"params": params["prior_layers_0"]}
    q = model.prior_layers[0].apply(upper, top)
    noise = (codes[:, :5] - q.mean()) / q.stddev()  # z1 ~ N(mean(z2), scale(z2)²)
    assert np.abs(np.cov(noise.T) - np.eye(5)).max() < 5 * np.sqrt(2 / 4000)


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
    mesh = jax.sharding.Mesh(jax.devices(), ("data",))
    replicated = jax.device_put(params, jax.NamedSharding(mesh, jax.P()))
    assert len(jax.tree.leaves(replicated)[0].sharding.device_set) == 8
    for program in export.export_programs(replicated, model=model, shape=IMAGES).values():
        assert (program.nr_devices, program.platforms) == (1, ("cpu", "cuda", "rocm", "tpu"))


@pytest.mark.parametrize("limits", [None, (0.4, 0.6)])
def test_the_mean_is_clipped_to_the_range_of_the_data_alone(limits):
    model, params = perturbed_model(likelihood="learned-gaussian")
    z, keys = 3 * jnp.ones((2, 3)), jax.random.split(jax.random.key(0), 2)
    free = [export.decode(params, z, model=model), export.sample(params, keys, model=model)]
    assert min(x.min() for x in free) < 0.4
    assert max(x.max() for x in free) > 0.6
    found = [
        export.decode(params, z, model=model, value_range=limits),
        export.sample(params, keys, model=model, value_range=limits),
    ]
    for x, expected in zip(found, free, strict=True):
        np.testing.assert_array_equal(x, expected if limits is None else np.clip(expected, *limits))


class CentredModel(nn.Module):
    """A model with a running mean of x, which is no parameter."""

    def setup(self):
        self.running_mean = self.variable("batch_stats", "mean", jnp.zeros, 6)
        self.heads, self.pixels = nn.Dense(2), nn.Dense(6)

    def encode(self, batch):
        loc = self.heads(batch["x"] - self.running_mean.value[None])
        return Normal(loc, jnp.zeros_like(loc))

    def decode(self, draw, evidence=None, batch=None):
        latent = draw("z", standard_normal((2,)), None if evidence is None else lambda: evidence)
        logits = self.pixels(latent.z)
        return Bernoulli(logits + jnp.broadcast_to(self.running_mean.value, logits.shape), event_ndims=1), (latent,)


def test_every_function_accepts_variables_without_a_gradient():
    model = CentredModel()
    x, keys = jnp.ones((2, 6)), jax.random.split(jax.random.key(1), 2)
    variables = init_params(model, jax.random.key(0), {"x": x})
    moved = Variables(variables["params"], {"batch_stats": {"mean": jnp.arange(6.0)}})
    results = []
    for params in (Variables(variables["params"], {"batch_stats": variables["batch_stats"]}), moved):
        codes = export.encode(params, {"x": x}, model=model)["mean"]
        results.append(
            (codes, export.decode(params, jnp.ones((2, 2)), model=model), export.sample(params, keys, model=model))
        )
        assert export.sample_codes(params, keys, model=model).shape == (2, 2)
        assert export.latent_shapes(params, model=model) == {"z": export.LayerShape((2,))}
    assert all(np.any(a != b) for a, b in zip(*results, strict=True))
    programs = export.export_programs(moved, model=model, shape=(6,))
    np.testing.assert_allclose(programs["encoder"].call(x)["mean"], results[1][0], rtol=1e-5)


def test_programs_of_a_model_with_classes_receive_labels():
    model, params = perturbed_model(model="conditional", model__num_classes=3)
    programs = export.export_programs(params, model=model, shape=IMAGES)
    keys, x, z = jax.random.split(jax.random.key(3), 4), jnp.ones((4, *IMAGES)), jnp.ones((4, 3))
    y, batch = jnp.array([0, 2, 1, -1]), {"y": jnp.array([0, 2, 1, 0]), "mask": jnp.arange(4) < 3}
    expected = jax.jit(
        lambda: (
            export.encode(params, {"x": x, **batch}, model=model)["mean"],
            export.decode(params, z, batch, model=model),
            export.sample(params, keys, batch, model=model),
        )
    )()
    inputs = {"encoder": x, "decoder": z, "sampler": jax.random.key_data(keys)}
    for (name, argument), wanted in zip(inputs.items(), expected, strict=True):
        found = programs[name].call(argument, y)
        found = found["mean"] if name == "encoder" else found
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)
    assert len({row.tobytes() for row in np.asarray(expected[1])}) == 4  # equal codes, other labels


def test_programs_of_a_model_with_vectors_receive_them():
    model, params = perturbed_model(model="conditional-vector", model__condition_dim=2)
    programs = export.export_programs(params, model=model, shape=IMAGES)
    keys, z, c = jax.random.split(jax.random.key(3), 3), jnp.ones((3, 3)), jnp.array([[1.0, 2], [0, -1], [1, jnp.nan]])
    known = {"c": c[:2]}
    decode, sample = functools.partial(export.decode, model=model), functools.partial(export.sample, model=model)
    decoded = jnp.concatenate([decode(params, z[:2], known), decode(params, z[:1], {})])
    np.testing.assert_allclose(programs["decoder"].call(z, c), decoded, rtol=1e-5, atol=1e-6)
    assert len({row.tobytes() for row in np.asarray(decoded)}) == 3  # equal codes, other conditions, and none
    found = programs["sampler"].call(jax.random.key_data(keys[:2]), c[:2])
    np.testing.assert_allclose(found, sample(params, keys[:2], known), rtol=1e-5, atol=1e-6)
    x = jnp.ones((2, *IMAGES))
    wanted = export.encode(params, {"x": x, **known}, model=model)["mean"]
    np.testing.assert_allclose(programs["encoder"].call(x, c[:2])["mean"], wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.fault
def test_a_model_that_reads_labels_is_refused_in_one_sentence():
    params = init_params(Conditional(), jax.random.key(0), {"x": jnp.ones((1, 6)), "y": jnp.zeros(1, int)})["params"]
    with pytest.raises(InputError, match=r"^model Conditional reads batch\['y'\], but an exported program receives x"):
        export.export_programs(params, model=Conditional(), shape=(6,))


def test_matrix_products_have_the_highest_precision():
    _, _, programs = exported("mlp")
    for program in programs.values():
        products = [line for line in program.mlir_module().splitlines() if "stablehlo.dot_general" in line]
        assert products
        assert all("precision = [HIGHEST, HIGHEST]" in line for line in products)
