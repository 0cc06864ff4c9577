"""Six families of latent-variable models, each written as the two methods `encode` and `decode`, with small data."""

import dataclasses
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from vae_jax import random
from vae_jax.distributions import Bernoulli, Density, Normal, Observed, from_means, standard_normal

SIZE, WIDTH, FEATURES = 2, 5, 6  # of a code, of a hidden layer, of x
NUM_BLOCKS = 3


def normal(features):
    """Return the Normal [..., D] whose mean and log σ are features [..., 2 D]."""
    return Normal(*jnp.split(features, 2, axis=-1))


def join(*arrays):
    """Return arrays [..., D_i], whose leading axes may lack the first ones, side by side."""
    lead = max((array.shape[:-1] for array in arrays), key=len)
    return jnp.concatenate([jnp.broadcast_to(array, (*lead, array.shape[-1])) for array in arrays], axis=-1)


class Family(nn.Module):
    """A model; calling it uses every parameter, so `init` creates all of them."""

    def __call__(self, batch):
        return self.decode(from_means(), self.encode(batch), batch)[0]


class Block(nn.Module):
    """A layer p(z_i | h) of a ladder, whose posterior is a residual of its prior, and the next h."""

    def setup(self):
        self.prior, self.residual, self.output = nn.Dense(2 * SIZE), nn.Dense(2 * SIZE), nn.Dense(WIDTH)

    def __call__(self, draw, h, index, evidence):
        p = normal(self.prior(h))

        def posterior():
            loc, log_scale = jnp.split(self.residual(join(h, evidence)), 2, axis=-1)
            return Normal(p.loc + loc, p.log_scale + log_scale)

        latent = draw("blocks", p, None if evidence is None else posterior, index=index)
        return h + jnp.tanh(self.output(latent.z)), latent


class Ladder(Family):
    """Four layers from the top downwards: one, whose value has the leading axes of the walk, and three equal blocks."""

    remat: bool = True

    def setup(self):
        self.bottom_up = [nn.Dense(WIDTH) for _ in range(NUM_BLOCKS + 1)]
        self.top, self.first, self.pixels = nn.Dense(2 * SIZE), nn.Dense(WIDTH), nn.Dense(12)
        self.blocks = Block()

    def encode(self, batch):
        levels = [batch["x"].reshape(-1, 12)]
        for layer in self.bottom_up:
            levels.append(jnp.tanh(layer(levels[-1])))
        return jnp.stack(levels[:0:-1])  # [1 + L, B, W], from the top downwards

    def decode(self, draw, evidence=None, batch=None):
        at_top = None if evidence is None else lambda: normal(self.top(evidence[0]))
        top = draw("top", standard_normal((SIZE,)), at_top)
        h, blocks = self.walk(draw, jnp.tanh(self.first(top.z)), None if evidence is None else evidence[1:])
        return Bernoulli(self.pixels(h).reshape(*h.shape[:-1], 4, 3, 1)), (top, blocks)

    def walk(self, draw, h, evidence):
        def body(block, h, inputs):
            return block(draw, h, *inputs)

        body = nn.remat(body, prevent_cse=False) if self.remat else body
        scan = nn.scan(body, variable_axes={"params": 0}, split_rngs={"params": True}, length=NUM_BLOCKS)
        return scan(self.blocks, h, (jnp.arange(NUM_BLOCKS), evidence))


class LoopLadder(Ladder):
    """The ladder with its blocks in a Python loop; their parameters are `blocks_0`, `blocks_1`, ...."""

    def setup(self):
        super().setup()
        self.blocks = [Block() for _ in range(NUM_BLOCKS)]

    def walk(self, draw, h, evidence):
        latents = []
        for i, block in enumerate(self.blocks):
            h, latent = block(draw, h, i, None if evidence is None else evidence[i])
            latents.append(latent)
        return h, jax.tree.map(lambda *values: jnp.stack(values), *latents)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class AutoregressiveFlow(Density):
    """z_d = e_d exp(s_d(e_<d)) + m_d(e_<d) with e ~ `base` (Kingma et al., arXiv 1606.04934)."""

    base: Normal  # [*batch, D]
    shift: jax.Array  # [D, D]
    log_scale: jax.Array  # [D, D]

    def affine(self, e):
        return e @ jnp.triu(self.shift, 1), jnp.tanh(e @ jnp.triu(self.log_scale, 1))

    def forward(self, e):
        shift, log_scale = self.affine(e)
        return e * jnp.exp(log_scale) + shift, jnp.sum(log_scale, axis=-1)

    def sample(self, key, sample_shape=()):
        return self.sample_and_log_prob(key, sample_shape)[0]

    def sample_and_log_prob(self, key, sample_shape=()):
        e, log_density = self.base.sample_and_log_prob(key, sample_shape)
        z, log_determinant = self.forward(e)
        return z, log_density - log_determinant

    def log_prob(self, value):
        e = jnp.zeros_like(value)
        for _ in range(value.shape[-1]):  # each round finds one more number
            shift, log_scale = self.affine(e)
            e = (value - shift) * jnp.exp(-log_scale)
        return self.base.log_prob(e) - self.forward(e)[1]

    def mean(self):  # the value at the mean of e, since the mean of z has no closed form
        return self.forward(self.base.mean())[0]

    @property
    def batch_shape(self):
        return self.base.batch_shape


class FlowPosterior(Family):
    """A posterior that is a normalizing flow."""

    def setup(self):
        self.code, self.pixels = nn.Dense(2 * SIZE), nn.Dense(FEATURES)
        self.shift, self.log_scale = (self.param(n, nn.initializers.normal(1), (SIZE, SIZE)) for n in ("m", "s"))

    def encode(self, batch):
        return AutoregressiveFlow(normal(self.code(batch["x"])), self.shift, self.log_scale)

    def decode(self, draw, evidence=None, batch=None):
        z = draw("z", standard_normal((SIZE,)), None if evidence is None else lambda: evidence)
        return Bernoulli(self.pixels(z.z), event_ndims=1), (z,)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Mixture(Density):
    """1/C Σ_c N(loc_c, σ_c²), of components [C, D]."""

    components: Normal
    batch_shape = ()

    def sample(self, key, sample_shape=()):
        count, size = self.components.loc.shape
        choose = lambda k, shape: jax.random.randint(k, shape, 0, count)  # noqa: E731
        c = random.drawn(choose, random.fold_in(key, 0), sample_shape)
        noise = random.normal(random.fold_in(key, 1), (*sample_shape, size))
        return self.components.loc[c] + self.components.stddev()[c] * noise

    def log_prob(self, value):
        c = self.components
        densities = [Normal(*pair).log_prob(value) for pair in zip(c.loc, c.log_scale, strict=True)]
        return jax.nn.logsumexp(jnp.stack(densities), axis=0) - math.log(len(densities))

    def mean(self):
        return jnp.mean(self.components.loc, axis=0)


class VampPrior(Family):
    """A prior that is the mixture of the posteriors of pseudo-inputs (Tomczak & Welling, arXiv 1705.07120)."""

    def setup(self):
        self.code, self.pixels = nn.Dense(2 * SIZE), nn.Dense(FEATURES)
        self.pseudo_inputs = self.param("pseudo_inputs", nn.initializers.normal(1), (4, FEATURES))

    def encode(self, batch):
        return normal(self.code(batch["x"]))

    def decode(self, draw, evidence=None, batch=None):
        prior = Mixture(self.encode({"x": jax.nn.sigmoid(self.pseudo_inputs)}))
        z = draw("z", prior, None if evidence is None else lambda: evidence)
        return Bernoulli(self.pixels(z.z), event_ndims=1), (z,)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class ChosenCodes(Density):
    """A grid of codes that has probability 1, with the gradient of the encoder outputs that it was chosen for."""

    value: jax.Array  # [*batch, G, D]

    def sample(self, key, sample_shape=()):
        del key
        return jnp.broadcast_to(self.value, (*sample_shape, *self.value.shape))

    def log_prob(self, value):
        return jnp.where(jnp.all(value == jnp.broadcast_to(self.value, value.shape), axis=(-2, -1)), 0.0, -jnp.inf)

    def mean(self):
        return self.value

    @property
    def batch_shape(self):
        return self.value.shape[:-2]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class UniformCodes(Density):
    """A grid of G codes, each with probability 1/C for each entry of a codebook [C, D]."""

    codebook: jax.Array
    grid: int = dataclasses.field(metadata={"static": True})
    batch_shape = ()

    def sample(self, key, sample_shape=()):
        choose = lambda k, shape: jax.random.randint(k, shape, 0, len(self.codebook))  # noqa: E731
        return self.codebook[random.drawn(choose, key, (*sample_shape, self.grid))]

    def log_prob(self, value):
        return jnp.full(value.shape[:-2], -self.grid * math.log(len(self.codebook)))

    def mean(self):
        return jnp.broadcast_to(jnp.mean(self.codebook, axis=0), (self.grid, self.codebook.shape[1]))


class Quantizer(Family):
    """Codes from a codebook with a straight-through gradient (van den Oord et al., arXiv 1711.00937)."""

    grid: int = 3

    def setup(self):
        self.code, self.pixels = nn.Dense(self.grid * SIZE), nn.Dense(FEATURES)
        self.codebook = self.param("codebook", nn.initializers.normal(1), (7, SIZE))

    def encode(self, batch):
        return self.code(batch["x"]).reshape(-1, self.grid, SIZE)

    def decode(self, draw, evidence=None, batch=None):
        prior = UniformCodes(self.codebook, self.grid)
        if evidence is None:
            latent = draw("z", prior)
        else:
            distance = jnp.sum((evidence[:, :, None] - self.codebook[None, None]) ** 2, axis=-1)  # [B, G, C]
            nearest = self.codebook[jnp.argmin(distance, axis=-1)]  # [B, G, D]
            fixed_nearest, fixed_evidence = jax.lax.stop_gradient((nearest, evidence))
            latent = draw("z", prior, lambda: ChosenCodes(fixed_nearest + (evidence - fixed_evidence)))
            losses = (fixed_evidence - nearest) ** 2 + 0.25 * (evidence - fixed_nearest) ** 2
            penalty = jnp.broadcast_to(jnp.sum(losses, axis=(-2, -1)), latent.z.shape[:-2])
            latent = dataclasses.replace(latent, penalty=penalty)
        h = latent.z.reshape(*latent.z.shape[:-2], self.grid * SIZE)
        return Bernoulli(self.pixels(h), event_ndims=1), (latent,)


class Conditional(Family):
    """A model of x given labels y, which encoder, prior and decoder read (Sohn et al., NeurIPS 2015)."""

    def setup(self):
        self.code, self.prior, self.pixels = nn.Dense(2 * SIZE), nn.Dense(2 * SIZE), nn.Dense(FEATURES)

    def encode(self, batch):
        return normal(self.code(join(batch["x"], batch["y"])))

    def decode(self, draw, evidence=None, batch=None):
        z = draw("z", normal(self.prior(batch["y"])), None if evidence is None else lambda: evidence)
        return Bernoulli(self.pixels(join(z.z, batch["y"])), event_ndims=1), (z,)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class StraightThroughBernoulli(Bernoulli):
    """A Bernoulli whose samples have the gradient of its mean, since a sample has none."""

    def sample(self, key, sample_shape=()):
        mean = self.mean()
        y = super().sample(key, sample_shape)
        return y + jnp.broadcast_to(mean - jax.lax.stop_gradient(mean), y.shape)


class PartlyLabelled(Family):
    """A model of x and a label y that is known for some examples (M2 of Kingma et al., arXiv 1406.5298)."""

    def setup(self):
        self.features, self.classifier = nn.Dense(WIDTH), nn.Dense(1)
        self.code, self.pixels = nn.Dense(2 * SIZE), nn.Dense(FEATURES)
        self.label_logit = self.param("label_logit", nn.initializers.ones, ())

    def encode(self, batch):
        return jnp.tanh(self.features(batch["x"]))

    def decode(self, draw, evidence=None, batch=None):
        q_y = q_z = None
        if evidence is not None:
            q_y = lambda: StraightThroughBernoulli(self.classifier(evidence)[..., 0], event_ndims=0)  # noqa: E731
            q_z = lambda: normal(self.code(join(evidence, y.z[..., None])))  # noqa: E731
        observed = Observed(batch["y"], batch["mask"]) if batch and "y" in batch else None
        y = draw("y", Bernoulli(self.label_logit, event_ndims=0), q_y, observed=observed)
        z = draw("z", standard_normal((SIZE,)), q_z)
        return Bernoulli(self.pixels(join(z.z, y.z[..., None])), event_ndims=1), (y, z)


FAMILIES = {
    "ladder": Ladder(),
    "flow": FlowPosterior(),
    "vamp": VampPrior(),
    "quantizer": Quantizer(),
    "conditional": Conditional(),
    "partly labelled": PartlyLabelled(),
}


def batch_for(model, size=5):
    """Return the first `size` examples of random data for a model, and the labels that it reads."""
    rng = np.random.default_rng(0)
    pixels = jnp.asarray(rng.integers(0, 2, (7, 12))[:size], jnp.float32)
    batch = {"x": pixels.reshape(-1, 4, 3, 1) if isinstance(model, Ladder) else pixels[:, :FEATURES]}
    if isinstance(model, Conditional):
        batch["y"] = jax.nn.one_hot(jnp.arange(size) % 3, 3)
    if isinstance(model, PartlyLabelled):
        batch |= {"y": jnp.arange(size, dtype=jnp.float32) % 2, "mask": jnp.arange(size) < 3}
    return batch
