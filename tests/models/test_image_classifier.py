"""vae_jax/models/image_classifier.py: the logits are a linear function of the features."""

import jax
import jax.numpy as jnp
import numpy as np

from vae_jax.models import ImageClassifier


def test_the_logits_are_a_linear_function_of_the_features():
    module = ImageClassifier((3,), 4)
    x = jax.random.uniform(jax.random.key(0), (2, 6, 5, 1))
    params = jax.jit(module.init)(jax.random.key(1), x)["params"]
    features, logits = module.apply({"params": params}, x)
    assert (features.shape, logits.shape) == ((2, 64), (2, 4))
    assert features.min() == 0 < features.max()
    dense = params["Dense_1"]
    np.testing.assert_allclose(logits, features @ dense["kernel"] + jnp.expand_dims(dense["bias"], 0), rtol=1e-5)
