"""Small hierarchies of stochastic layers with random parameters, and the same hierarchy without `nn.scan`."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from vae_jax.config import Config, override
from vae_jax.data import from_arrays
from vae_jax.models.build import build_model, init_params
from vae_jax.models.ladder import Ladder
from vae_jax.models.ladder_blocks import ResidualBlock, TopDownBlock
from vae_jax.runs.experiment.experiment import build_experiment

MLP = {"model": "ladder-mlp", "model__blocks": (2, 1), "model__encoder_blocks": (2, 1), "model__channels": (6, 5),
       "model__bottleneck": (4,), "model__latent_channels": (3, 2)}  # fmt: skip
CONV = {"model": "ladder", "model__blocks": (0, 1), "model__encoder_blocks": (1, 0), "model__channels": (4, 5),
        "model__bottleneck": (3,), "model__latent_channels": (2,)}  # fmt: skip


@functools.cache
def ladder(shape, training=False, **settings):
    """Return (model, params) for examples of a shape; all parameters, biases included, are random."""
    model = build_model(override(Config(), **settings), shape, training=training)
    shapes = jax.eval_shape(functools.partial(init_params, model), jax.random.key(0), {"x": jnp.zeros((1, *shape))})
    rng = np.random.default_rng(0)  # initialization in JAX would take most of the time of a test
    return model, jax.tree.map(
        lambda leaf: jnp.asarray(0.4 * rng.normal(size=leaf.shape), leaf.dtype), shapes["params"]
    )


class LoopLadder(Ladder):
    """A ladder whose blocks are in Python loops; their parameters are `blocks_LEVEL_0`, `blocks_LEVEL_1`, ...."""

    def setup(self):
        super().setup()
        depths = [sum(getattr(level, name) for level in self.levels) for name in ("encoder_blocks", "blocks")]
        self.loop_up = [[ResidualBlock(l, self.style, depths[0]) for _ in range(l.encoder_blocks)] for l in self.levels]
        self.loop_down = [[TopDownBlock(l, self.style, depths[1]) for _ in range(l.blocks)] for l in self.levels]

    def _scan(self, body, length):
        def loop(module, h, inputs):
            i = [*self.encoder_blocks, *self.blocks].index(module)
            stack = (self.loop_up + self.loop_down)[i][:length]
            outputs = []
            for j, block in enumerate(stack):
                h, output = body(block, h, None if inputs is None else inputs[j])
                outputs.append(output)
            return h, jax.tree.map(lambda *leaves: jnp.stack(leaves), *outputs)

        return loop


def loop_parameters(params):
    """Return the parameters of a `LoopLadder` that equal those of a ladder."""
    found = {}
    for name, tree in params.items():
        kind, _, level = name.rpartition("_")
        target = {"encoder_blocks": "loop_up", "blocks": "loop_down"}.get(kind)
        if target is None:
            found[name] = tree
            continue
        for i in range(jax.tree.leaves(tree)[0].shape[0]):
            found[f"{target}_{level}_{i}"] = jax.tree.map(lambda leaf, i=i: leaf[i], tree)
    return found


@functools.cache
def layered_experiment(count=24, **settings):
    """Return (experiment, params) of a model with several layers of images 4x3; all parameters are random."""
    x = np.random.default_rng(1).integers(0, 256, (count, 4, 3, 1), dtype=np.uint8)
    base = {"preprocess": "scale", "likelihood": "bernoulli", "train__steps": 4, "train__batch_size": 8,
            "train__log_every": 1, "train__evaluate_every": 0, "evaluation__num_samples": 0}  # fmt: skip
    config = override(Config(), **base | settings)
    experiment = build_experiment(config, source=from_arrays(x, holdout=0.3))
    rng = np.random.default_rng(0)
    return experiment, jax.tree.map(
        lambda leaf: jnp.asarray(0.4 * rng.normal(size=leaf.shape), leaf.dtype), experiment.abstract_state.params
    )
