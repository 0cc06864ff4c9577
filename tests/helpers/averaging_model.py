"""A model with state that is not trained by gradient: a moving average of batch means, and a batch normalization."""

import flax.linen as nn
import jax.numpy as jnp

from vae_jax.distributions import Normal, standard_normal

SIZE, LATENT, DECAY = 5, 2, 0.9  # of x, of a code, of the moving average


class AveragingModel(nn.Module):
    """A model of vectors x [B, 5] that are centred at a moving average of their mean; it has no `__call__`.

    Attributes:
      normalized: whether the encoder has a batch normalization.
      dropout: the rate of a dropout, which asks Flax for random numbers.
      in_decoder: whether the decoder has a batch normalization.
    """

    normalized: bool = True
    in_decoder: bool = False
    dropout: float = 0.0

    def setup(self):
        self.code, self.output = nn.Dense(2 * LATENT), nn.Dense(SIZE)
        self.mean = self.variable("statistics", "mean", jnp.zeros, (SIZE,))
        self.updates = self.variable("statistics", "updates", jnp.zeros, (), jnp.int32)
        axes = {"momentum": DECAY, "use_fast_variance": False}
        self.norm = nn.BatchNorm(**axes) if self.normalized else None
        self.output_norm = nn.BatchNorm(**axes) if self.in_decoder else None
        self.drop = nn.Dropout(self.dropout, deterministic=False) if self.dropout else None

    def encode(self, batch):
        x = batch["x"]
        h = x - jnp.broadcast_to(self.mean.value, x.shape)
        if self.is_mutable_collection("statistics") and not self.is_initializing():
            self.mean.value = DECAY * self.mean.value + (1 - DECAY) * jnp.mean(x, axis=0)
            self.updates.value += 1
        if self.norm is not None:
            h = self.norm(h, use_running_average=not self.is_mutable_collection("batch_stats"))
        if self.drop is not None:
            h = self.drop(h)
        return Normal(*jnp.split(self.code(h), 2, axis=-1))

    def decode(self, draw, evidence=None, batch=None):
        del batch
        latent = draw("z", standard_normal((LATENT,)), None if evidence is None else lambda: evidence)
        loc = self.output(latent.z)
        if self.output_norm is not None:
            loc = self.output_norm(loc, use_running_average=not self.is_mutable_collection("batch_stats"))
        return Normal(loc, jnp.zeros_like(loc), event_ndims=1), (latent,)
