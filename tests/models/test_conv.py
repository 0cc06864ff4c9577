"""Convolutional encoder and decoder: changes of resolution, and the start of a residual block."""

import jax
import numpy as np
import pytest
from built_models import built, random_images

from vae_jax.models.conv import depth_to_space, space_to_depth


@pytest.mark.parametrize("sides", [(4, 6), (5, 3), (1, 1)])
def test_depth_to_space_inverts_space_to_depth(sides):
    x = jax.random.normal(jax.random.key(0), (2, *sides, 3))
    deep = space_to_depth(x)
    assert deep.shape == (2, -(-sides[0] // 2), -(-sides[1] // 2), 12)
    np.testing.assert_array_equal(depth_to_space(deep, *sides), x)


def test_a_residual_block_starts_as_the_identity():
    shape = (8, 8, 1)
    model, params = built("residual", shape)
    blank = jax.tree.map(lambda leaf: leaf, params)
    for part in ("encoder", "decoder"):
        for name, block in blank[part].items():
            if name.startswith("ConvBlock"):
                block["Conv_0"]["kernel"] = block["Conv_0"]["kernel"] * 5
    same = [model.apply({"params": p}, {"x": random_images(shape)}).logits for p in (params, blank)]
    np.testing.assert_array_equal(*same)


def test_arrays_without_a_batch_axis_are_refused():
    image = random_images((4, 6, 1))[0]
    with pytest.raises(AssertionError):
        space_to_depth(image)
    with pytest.raises(AssertionError):
        depth_to_space(image, 4, 6)
