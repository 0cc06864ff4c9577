"""Flows as priors and posteriors: modules that hold the parameters of transforms, which start at the identity."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from vae_jax.config import setting
from vae_jax.distributions import (
    AffineCoupling,
    Conditioner,
    DiagonalAffine,
    Distribution,
    Flow,
    Inverse,
    MaskedAutoregressive,
    Planar,
    Reverse,
    SplineCoupling,
    Transform,
    coupling_order,
    standard_normal,
)


class ConditionerParameters(nn.Module):
    """The parameters of a `Conditioner`, with a last layer of zeros.

    Attributes:
      inputs: the number of inputs.
      hidden: the widths of the hidden layers, one or more.
      outputs: the number of outputs.
    """

    inputs: int
    hidden: tuple[int, ...]
    outputs: int

    @nn.compact
    def __call__(self, h: Array | None = None) -> Conditioner:
        """Return the network; with features h [*batch, F] it also depends on a dense layer of them."""
        sizes = (self.inputs, *self.hidden, self.outputs)
        last = len(sizes) - 2
        kernels, biases = [], []
        for i, shape in enumerate(itertools.pairwise(sizes)):
            initializer = nn.initializers.zeros if i == last else nn.initializers.glorot_uniform()
            kernels.append(self.param(f"kernel_{i}", initializer, shape))
            biases.append(self.param(f"bias_{i}", nn.initializers.zeros, shape[1:]))
        context = None if h is None else nn.Dense(self.hidden[0], use_bias=False, name="context")(h)
        return Conditioner(tuple(kernels), tuple(biases), context)


def actnorm_setting() -> bool:
    """Return the setting `actnorm` of a choice that has a flow."""
    return setting(False, "A learned shift and scale of each number precede each transform.")


class ActNorm(nn.Module):
    """A learned shift and scale of each number, initially the identity (after Kingma & Dhariwal, arXiv 1807.03039).

    Attributes:
      size: D, the dimension of z.
    """

    size: int

    @nn.compact
    def __call__(self) -> DiagonalAffine:
        """Return the transform."""
        loc, log_scale = (self.param(name, nn.initializers.zeros, (self.size,)) for name in ("loc", "log_scale"))
        return DiagonalAffine(loc, log_scale)


def _after_actnorms(transforms: Sequence[Transform], size: int) -> tuple[Transform, ...]:
    """Return transforms with an `ActNorm` before each; to be called in a compact method."""
    return tuple(part for transform in transforms for part in (ActNorm(size)(), transform))


class AffineCouplings(nn.Module):
    """Affine coupling transforms (Dinh et al., arXiv 1605.08803).

    Attributes:
      size: D, the dimension of z.
      layers: the number of transforms.
      hidden: the widths of the network of each.
      actnorm: whether an `ActNorm` precedes each transform.
    """

    size: int
    layers: int
    hidden: tuple[int, ...]
    actnorm: bool = False

    @nn.compact
    def __call__(self, h: Array | None = None) -> tuple[Transform, ...]:
        """Return the transforms; with features h [*batch, F] they also depend on these."""
        fixed = self.size // 2
        parts = (ConditionerParameters(fixed, self.hidden, 2 * (self.size - fixed)) for _ in range(self.layers))
        transforms = tuple(AffineCoupling(part(h), coupling_order(self.size, i)) for i, part in enumerate(parts))
        return _after_actnorms(transforms, self.size) if self.actnorm else transforms


class SplineCouplings(nn.Module):
    """Rational-quadratic spline coupling transforms (Durkan et al., arXiv 1906.04032).

    Attributes:
      size: D, the dimension of z.
      layers: the number of transforms.
      hidden: the widths of the network of each.
      bins: the number of bins of each spline.
      bound: half of the length of the interval in which numbers change.
      actnorm: whether an `ActNorm` precedes each transform.
    """

    size: int
    layers: int
    hidden: tuple[int, ...]
    bins: int
    bound: float
    actnorm: bool = False

    @nn.compact
    def __call__(self, h: Array | None = None) -> tuple[Transform, ...]:
        """Return the transforms; with features h [*batch, F] they also depend on these."""
        fixed = self.size // 2
        outputs = (3 * self.bins - 1) * (self.size - fixed)
        parts = (ConditionerParameters(fixed, self.hidden, outputs) for _ in range(self.layers))
        transforms = tuple(
            SplineCoupling(part(h), coupling_order(self.size, i), self.bound) for i, part in enumerate(parts)
        )
        return _after_actnorms(transforms, self.size) if self.actnorm else transforms


class AutoregressiveTransforms(nn.Module):
    """Masked autoregressive transforms; the order of the numbers is reversed between them.

    Attributes:
      size: D, the dimension of z.
      layers: the number of transforms.
      hidden: the widths of the network of each.
      actnorm: whether an `ActNorm` precedes each transform.
    """

    size: int
    layers: int
    hidden: tuple[int, ...]
    actnorm: bool = False

    @nn.compact
    def __call__(self, h: Array | None = None) -> tuple[Transform, ...]:
        """Return the transforms; with features h [*batch, F] they also depend on these."""
        transforms: list[Transform] = []
        for i in range(self.layers):
            transforms += [Reverse()] if i else []
            transforms += [ActNorm(self.size)()] if self.actnorm else []
            transforms.append(MaskedAutoregressive(ConditionerParameters(self.size, self.hidden, 2 * self.size)(h)))
        return tuple(transforms) if self.layers % 2 else (*transforms, Reverse())


class PlanarTransforms(nn.Module):
    """Planar transforms whose parameters are dense layers of features (Rezende & Mohamed, arXiv 1505.05770).

    Attributes:
      size: D, the dimension of z.
      layers: the number of transforms.
    """

    size: int
    layers: int

    @nn.compact
    def __call__(self, h: Array) -> tuple[Transform, ...]:
        """Return the transforms for features h [*batch, F]."""
        b = nn.Dense(self.layers, name="b")(h)
        u = nn.Dense(self.layers * self.size, kernel_init=nn.initializers.zeros, name="u")(h)
        w = nn.Dense(self.layers * self.size, bias_init=nn.initializers.normal(1.0), name="w")(h)
        u, w = (jnp.split(array, self.layers, axis=-1) for array in (u, w))
        return tuple(Planar(u[i], w[i], b[..., i]) for i in range(self.layers))


class FlowPrior(nn.Module):
    """p(z) as a flow of N(0, I).

    Attributes:
      size: D, the dimension of z.
      transforms: a module that returns the transforms.
      inverted: whether z is the result of their inverses, so that the density of a value needs none.
    """

    size: int
    transforms: nn.Module
    inverted: bool = False

    def __call__(self, posterior_of: Callable[[Array], Distribution]) -> Flow:
        """Return p(z); the posterior is not used."""
        del posterior_of
        transforms = self.transforms()
        if self.inverted:
            transforms = tuple(Inverse(transform) for transform in reversed(transforms))
        return Flow(standard_normal((self.size,)), transforms)


class FlowPosterior(nn.Module):
    """q(z|x) as a flow of a Normal; base and transforms depend on the features of the encoder.

    Attributes:
      base: a module from features to a Normal, such as `ConditionalNormal`.
      transforms: a module from features to the transforms.
    """

    base: nn.Module
    transforms: nn.Module

    def __call__(self, h: Array) -> Flow:
        """Return q(z|x) for features h [B, F]."""
        return Flow(self.base(h), self.transforms(h))

    def kernels(self) -> list[Any]:
        """Return the kernel of the mean of the base in a list: see `ConditionalNormal.kernels`."""
        return self.base.kernels()  # pyright: ignore[reportAttributeAccessIssue]
