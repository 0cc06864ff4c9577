"""Vector quantization: the code of a place is the number of the nearest vector of a codebook that is learned."""

import dataclasses
import functools
import math
from typing import ClassVar, Literal, NamedTuple

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array, lax

from vae_jax.config import Config, register, require_default, setting
from vae_jax.distributions import ChosenCodes
from vae_jax.models.codes import PlaceProjection, Quantized, QuantizerConfig

Update = Literal["ema", "gradient"]
_LEAST = 1e-20  # an average of less has lost digits, and becomes 0 in the course of the training


def nearest_codes(z: Array, vectors: Array) -> Array:
    """Return argmin_c |z - v_c|², of equal distances the first, in float32 at the highest precision.

    |z|² is the same for all c, and the rest is one product of matrices, (z, 1) (-2 v, |v|²)^T. The vectors are centred
    first: the difference of the large squares of numbers far from 0 has few digits.

    Args:
      z: [..., D], of any dtype.
      vectors: v, float32 [C, D].

    Returns:
      int32 [...].
    """
    chex.assert_rank(vectors, 2)
    center = jnp.mean(vectors, axis=0)
    z = z.astype(jnp.float32)
    z, vectors = z - jnp.broadcast_to(center, z.shape), vectors - jnp.broadcast_to(center, vectors.shape)
    columns = jnp.concatenate([-2 * vectors, jnp.sum(vectors**2, axis=-1, keepdims=True)], axis=-1)  # [C, D + 1]
    distances = jnp.matmul(_with_one(z), columns.T, precision=lax.Precision.HIGHEST)  # [..., C], without |z|²
    return jnp.argmin(distances, axis=-1).astype(jnp.int32)


def _with_one(z: Array) -> Array:
    """Return vectors (z, 1), [..., D + 1]."""
    return jnp.concatenate([z, jnp.ones((*z.shape[:-1], 1), z.dtype)], axis=-1)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class VectorCodes:
    """A codebook for each of Q levels; the vector of a place is the sum of those of its Q codes.

    Attributes:
      vectors: [Q, C, D].
    """

    vectors: Array

    def embed(self, indices: Array) -> Array:
        """Return the vectors [..., P, D] of codes [..., P Q]."""
        chex.assert_type(indices, int)
        depth = self.vectors.shape[0]
        indices = indices.reshape(*indices.shape[:-1], -1, depth)
        levels = jnp.broadcast_to(jnp.arange(depth), indices.shape)
        return jnp.sum(self.vectors[levels, indices], axis=-2)


class CodebookLevel(NamedTuple):
    """The state of the codebook of one level that is not trained by gradient.

    Attributes:
      vectors: [C, D].
      usage: [C], the moving average of the share of the encodings that have a code.
      sums: [C, D], that of the sum of these encodings, divided by the number of all encodings.
    """

    vectors: Array
    usage: Array
    sums: Array


def _totals(r: Array, indices: Array, num_codes: int) -> tuple[Array, Array]:
    """Return the number of encodings r [N, D] with each code, [C], and their sums, [C, D], over all devices.

    The order of a sum does not change from run to run. On a CPU each encoding is added to the sums of its code, without
    a matrix [N, C]. An accelerator adds them in any order, so there the sums are one product of matrices.
    """
    add, multiply = (functools.partial(each, num_codes=num_codes) for each in (_added, _multiplied))
    totals = lax.platform_dependent(_with_one(r), indices, cpu=add, default=multiply)  # [C, D + 1]
    return totals[:, -1], totals[:, :-1]


def _added(rows: Array, indices: Array, *, num_codes: int) -> Array:
    """Return the sums [C, D] of the rows [N, D] with each index."""
    return jnp.zeros((num_codes, rows.shape[-1])).at[indices].add(rows)


def _multiplied(rows: Array, indices: Array, *, num_codes: int) -> Array:
    """Return the same as `_added` by a product of matrices."""
    chosen = jax.nn.one_hot(indices, num_codes, dtype=jnp.float32)  # [N, C]
    return jnp.matmul(rows.T, chosen, precision=lax.Precision.HIGHEST).T


def _ratio(sums: Array, counts: Array, otherwise: Array) -> Array:
    """Return sums [C, D] / counts [C] where a count is greater than `_LEAST`."""
    counts = jnp.broadcast_to(counts[:, None], sums.shape)
    return jnp.where(counts > _LEAST, sums / jnp.where(counts > _LEAST, counts, 1), otherwise)


def _rows(ranks: Array, num_rows: int, num_codes: int, key: Array) -> Array:
    """Return the rows of a batch for codes of ranks 0, 1, ...: different ones, as long as there are enough.

    The distance of two rows has no divisor in common with the number of rows, so that the rows are of all places of the
    examples, which follow each other.
    """
    first = (jax.random.bits(key) % num_rows).astype(jnp.int32)
    distances = range(max(num_rows // num_codes, 1), 0, -1)
    return (first + ranks * next(d for d in distances if math.gcd(d, num_rows) == 1)) % num_rows


def start_by_kmeans(r: Array, num_codes: int, steps: int | Array, key: Array) -> Array:
    """Return the centres of k-means of encodings, which starts at encodings (Lloyd, 1982).

    Args:
      r: encodings [N, D].
      num_codes: C.
      steps: the number of iterations.
      key: of the first centres.

    Returns:
      [C, D]. A centre without encodings keeps its place.
    """

    def iterate(_: Array, vectors: Array) -> Array:
        counts, sums = _totals(r, nearest_codes(r, vectors), num_codes)
        return _ratio(sums, counts, vectors)

    return lax.fori_loop(0, steps, iterate, r[_rows(jnp.arange(num_codes), r.shape[0], num_codes, key)])


def restart_codes(level: CodebookLevel, r: Array, below: float | Array, key: Array) -> CodebookLevel:
    """Return the codebook with different encodings of the batch in place of codes with a usage below `below` / C.

    If there are more such codes than encodings, the others restart in later steps: of equal vectors only one is used.

    Args:
      level: the codebook.
      r: encodings [N, D] of the batch of all devices.
      below: a fraction of the mean usage 1/C.
      key: of the choice of encodings.

    Returns:
      The codebook, in which a restarted code has the mean usage.
    """
    num_codes, num_rows = level.usage.shape[0], r.shape[0]
    dead = level.usage < below / num_codes  # [C]
    ranks = jnp.cumsum(dead) - 1
    dead = dead & (ranks < num_rows)
    found = r[_rows(ranks, num_rows, num_codes, key)]
    where = jnp.broadcast_to(dead[:, None], found.shape)
    return CodebookLevel(
        jnp.where(where, found, level.vectors),
        jnp.where(dead, 1 / num_codes, level.usage),
        jnp.where(where, found / num_codes, level.sums),
    )


class VectorQuantizer(nn.Module):
    """The nearest vectors of a codebook to a dense layer of the features, at each of P places.

    With Q > 1 levels, each quantizes the rest of the levels before it (residual quantization, Zeghidour et al., arXiv
    2107.03312). A codebook moves by its gradient, or to the moving average of the encodings of its codes (van den Oord
    et al., arXiv 1711.00937, appendix A.1). The averages, the k-means start and the restarts of codes that are not
    used read the encodings of the complete batch. They change the collection "codebook" in training steps alone.

    Attributes:
      places: P.
      num_codes: C.
      size: D.
      depth: Q.
      update: how the vectors move.
      commitment: weight of |z - v|², by which the encoder stays near the vectors.
      decay: of the moving averages.
      restart_below: see `restart_codes`; 0: no restarts.
      kmeans_steps: iterations of k-means at the first step; 0: a random start.
      from_places: see `PlaceProjection`.
    """

    places: int
    num_codes: int
    size: int
    depth: int = 1
    update: Update = "ema"
    commitment: float = 0.25
    decay: float = 0.99
    restart_below: float = 0.03
    kmeans_steps: int = 10
    from_places: bool = False

    @property
    def moves_codes(self) -> bool:
        """Whether a training step moves codes, other than by their gradient, by the encodings of the batch."""
        return self.update == "ema" or self.restart_below > 0 or self.kmeans_steps > 0

    def setup(self) -> None:
        """Create the dense layer, the codebook and its averages."""
        self.projection = PlaceProjection(self.places, self.size, self.from_places)
        shape, normal = (self.depth, self.num_codes, self.size), nn.initializers.normal(1.0)
        by_gradient = self.update == "gradient"
        # The vectors are the parameter plus the offset. Restarts and k-means change the offset; averages have no
        # parameter, so that neither the optimizer nor the moving average of the parameters changes them.
        self.trained = self.param("vectors", normal, shape) if by_gradient else jnp.zeros(shape)
        if not self.moves_codes:
            return
        initial = jnp.zeros if by_gradient else lambda shape: normal(self.make_rng("params"), shape)
        self.offset = self.variable("codebook", "offset", initial, shape)
        self.usage = self.variable("codebook", "usage", jnp.full, shape[:2], 1 / self.num_codes)
        self.sums = self.variable("codebook", "sums", jnp.zeros, shape)
        self.updates = self.variable("codebook", "updates", jnp.zeros, (), jnp.int32)
        self.seed = self.variable("codebook", "seed", lambda: jax.random.bits(self.make_rng("params")))

    def codebook(self) -> VectorCodes:
        """Return the vectors of the codes."""
        return VectorCodes(self.trained + lax.stop_gradient(self.offset.value) if self.moves_codes else self.trained)

    def __call__(self, features: Array) -> Quantized:
        """Return the codes of features [B, F], and the penalty [B]; in a training step, move the codes."""
        return self.quantize(self.projection(features))

    def quantize(self, z: Array) -> Quantized:
        """Return the codes of encodings z [B, P, D], and the penalty [B]; in a training step, move the codes."""
        rest, vectors, indices, moved, penalty = z, [], [], [], jnp.zeros(z.shape[0])
        moves = self.moves_codes and self.is_mutable_collection("codebook") and not self.is_initializing()
        for q in range(self.depth):
            fixed = lax.stop_gradient(rest).reshape(-1, self.size)  # [B P, D]
            level = self._started(q, fixed) if moves else None
            vectors.append(self.codebook().vectors[q] if level is None else self._with_gradient(q, level.vectors))
            chosen = nearest_codes(fixed, lax.stop_gradient(vectors[q]))
            indices.append(chosen.reshape(rest.shape[:-1]))
            if level is not None:
                moved.append(self._moved(q, level, fixed, chosen))
            v = vectors[q][indices[q]]
            penalty = penalty + self._penalty(rest, v)
            rest = rest - lax.stop_gradient(v)
        if moves:
            self._store(moved)
        codes = jnp.stack(indices, axis=-1).reshape(z.shape[0], -1)
        posterior = ChosenCodes(codes, self.num_codes, self.depth)
        return Quantized(posterior, z, VectorCodes(jnp.stack(vectors)), penalty)

    def _penalty(self, z: Array, v: Array) -> Array:
        """Return β |z - sg(v)|², and |sg(z) - v|² if the vectors have a gradient, summed over the places, [B]."""
        losses = self.commitment * (z - lax.stop_gradient(v)) ** 2
        if self.update == "gradient":
            losses = losses + (lax.stop_gradient(z) - v) ** 2
        return jnp.sum(losses, axis=(-2, -1))

    def _with_gradient(self, q: int, vectors: Array) -> Array:
        """Return vectors [C, D] of a level whose gradient is that of the parameter."""
        return self.trained[q] + lax.stop_gradient(vectors - self.trained[q])

    def _key(self, q: int) -> Array:
        """Return the key of the choices of a level at this step."""
        return jax.random.fold_in(jax.random.fold_in(jax.random.key(self.seed.value), self.updates.value), q)

    def _started(self, q: int, r: Array) -> CodebookLevel:
        """Return the codebook of a level; at the first step that of k-means."""
        vectors, usage = lax.stop_gradient(self.codebook().vectors[q]), self.usage.value[q]
        first = self.updates.value == 0
        if self.kmeans_steps:
            steps = jnp.where(first, self.kmeans_steps, 0)  # a loop of 0 steps later: members of a sweep share one
            centres = start_by_kmeans(r, self.num_codes, steps, self._key(q))
            vectors = jnp.where(first, centres, vectors)
            # Of more codes than encodings, the others start at equal ones; they restart in the next steps.
            usage = jnp.where(first & (jnp.arange(self.num_codes) >= r.shape[0]), 0, usage)
        sums = jnp.where(first, vectors * usage[:, None], self.sums.value[q])
        return CodebookLevel(vectors, usage, sums)

    def _moved(self, q: int, level: CodebookLevel, r: Array, chosen: Array) -> CodebookLevel:
        """Return the codebook of a level after a step with encodings r [N, D]: averages, then restarts."""
        counts, sums = (total / r.shape[0] for total in _totals(r, chosen, self.num_codes))
        usage = self.decay * level.usage + (1 - self.decay) * counts
        sums = self.decay * level.sums + (1 - self.decay) * sums
        vectors = _ratio(sums, usage, level.vectors) if self.update == "ema" else level.vectors
        moved = CodebookLevel(vectors, usage, sums)
        if not self.restart_below:
            return moved
        below = jnp.where(self.updates.value == 0, 0, self.restart_below)  # k-means has used the encodings of step 0
        return restart_codes(moved, r, below, jax.random.fold_in(self._key(q), 1))

    def _store(self, levels: list[CodebookLevel]) -> None:
        stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *levels)
        self.offset.value = lax.stop_gradient(stacked.vectors - self.trained)
        self.usage.value, self.sums.value = stacked.usage, stacked.sums
        self.updates.value += 1


@register("posterior", "vq")
@dataclasses.dataclass(frozen=True)
class VectorConfig(QuantizerConfig):
    """Vector quantization: the nearest vector of a learned codebook at each place."""

    moves_codes: ClassVar[bool] = True

    codebook_size: int = setting(512, "Number of codes.", minimum=2)
    code_dim: int = setting(16, "Dimension of the vector of a code.", above=0)
    update: Literal["ema", "gradient"] = setting(
        "ema",
        "ema: a vector is the moving average of the encodings that have its code; gradient: the optimizer moves it.",
    )
    commitment: float = setting(
        0.25, "Weight of the squared distance of an encoding from its vector, summed over places.", minimum=0
    )
    decay: float = setting(0.99, "Decay rate of the moving averages of encodings and usage.", minimum=0, below=1)
    restart_below: float = setting(
        0.03,
        "A code that is used less than this fraction of the mean usage starts again at an encoding of the batch; 0: "
        "never.",
        minimum=0,
        below=1,
    )
    kmeans_steps: int = setting(
        10,
        "Iterations of k-means on the encodings of the first batch, the start of the codebook; 0: random.",
        minimum=0,
    )

    @property
    def num_codes(self) -> int:
        """The size of a codebook."""
        return self.codebook_size

    def build(self, latent_dim: int) -> VectorQuantizer:
        """Return a `VectorQuantizer` of `latent_dim` places."""
        return VectorQuantizer(
            latent_dim, self.codebook_size, self.code_dim, self.depth, self.update, self.commitment, self.decay,
            self.restart_below, self.kmeans_steps,
        )  # fmt: skip

    def check(self, config: Config) -> None:
        """Raise InputError if `decay` has no effect."""
        super().check(config)
        default = type(self)().decay
        require_default(self.update == "ema" or self.restart_below > 0 or self.decay == default, "posterior.decay",
                        self.decay, "with posterior.update=gradient and posterior.restart_below=0",
                        "set restart_below")  # fmt: skip


@register("posterior", "residual-vq")
@dataclasses.dataclass(frozen=True)
class ResidualVectorConfig(VectorConfig):
    """Residual vector quantization: each level quantizes what the levels before it have left."""

    num_levels: int = setting(4, "Number of codes of each place.", above=0)

    @property
    def depth(self) -> int:
        """The number of levels."""
        return self.num_levels
