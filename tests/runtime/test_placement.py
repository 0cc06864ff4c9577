"""The placement of a run: one object for its devices and the shardings on them."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec

from vae_jax.runtime import Placement, sharding


def test_a_placement_uses_all_devices_by_default_and_equals_another_on_the_same_mesh():
    assert Placement().mesh.shape == {"data": 8, "fsdp": 1}
    assert Placement() == Placement(sharding.make_mesh())
    assert len({Placement(), Placement(sharding.make_mesh()), Placement(sharding.make_mesh(1))}) == 2


def test_its_shardings_are_those_of_its_mesh():
    placement = Placement(sharding.make_mesh(2, 4))
    mesh = placement.mesh
    assert placement.replicated == sharding.replicated(mesh)
    assert placement.batch == sharding.batch_sharding(mesh)
    assert placement.steps(1) == sharding.steps_sharding(mesh)
    assert placement.steps(2) == sharding.steps_sharding(mesh, microbatches=2)
    assert placement.compiler_options == sharding.compiler_options(mesh)
    assert placement.static_step_count == sharding.needs_static_step_count(mesh)
    state = {"kernel": jax.ShapeDtypeStruct((64, 64), jnp.float32), "bias": jnp.zeros(3)}
    specs = jax.tree.map(lambda found: found.spec, placement.state(state))
    assert specs == {"kernel": PartitionSpec("fsdp"), "bias": PartitionSpec()}


def test_every_array_of_a_batch_is_placed_by_its_leading_axis():
    placement = Placement()
    batch = {"x": np.zeros((16, 3, 2), np.float32), "y": np.arange(16)}
    placed = jax.jit(placement.place_batch)(batch)
    assert {name: array.sharding.shard_shape(array.shape) for name, array in placed.items()} == {
        "x": (2, 3, 2), "y": (2,),
    }  # fmt: skip
    np.testing.assert_array_equal(placed["y"], batch["y"])


def test_parameters_are_gathered_only_over_fsdp():
    def loss(params, x):
        return jnp.sum((x @ params["w"]) ** 2)

    assert Placement().gather_params(loss) is loss
    placement = Placement(sharding.make_mesh(2, 4))
    gathered = placement.gather_params(loss)
    params, x = {"w": jnp.ones((64, 64))}, jnp.arange(128.0).reshape(2, 64) / 128
    placed = jax.device_put(params, placement.state(params))
    gradient = jax.jit(jax.grad(gathered))(placed, x)
    np.testing.assert_allclose(gradient["w"], jax.grad(loss)(params, x)["w"], rtol=1e-5)
    assert gradient["w"].sharding.spec == PartitionSpec("fsdp")
