"""The bases of the choices: their defaults, a choice of a user in every section, and preprocessing for likelihoods."""

import dataclasses
from types import SimpleNamespace
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vae_jax.config import Config, choice, choices, override
from vae_jax.distributions import Normal
from vae_jax.errors import InputError
from vae_jax.models import choices as bases
from vae_jax.models.build import build_model, init_params
from vae_jax.models.likelihoods import GaussianLikelihoodConfig
from vae_jax.models.mlp import MLPConfig
from vae_jax.models.posteriors import GaussianPosteriorConfig
from vae_jax.models.priors import StandardNormalConfig
from vae_jax.models.vae import VAEConfig

BASES = {
    "model": bases.ModelConfig,
    "network": bases.NetworkConfig,
    "posterior": bases.PosteriorConfig,
    "prior": bases.PriorConfig,
    "likelihood": bases.LikelihoodConfig,
}


@pytest.mark.parametrize("section", BASES)
def test_every_choice_is_derived_from_the_base_of_its_section_and_has_a_description(section):
    for name, cls in choices(section).items():
        assert issubclass(cls, BASES[section]), name
        assert (cls.section, cls.name) == (section, name)
        assert cls.__doc__.splitlines()[0].endswith((".", ":")), name
        assert cls() == cls()
        assert hash(cls()) == hash(cls())


def test_the_base_of_likelihoods_has_as_many_features_as_numbers_and_no_parameters():
    base = bases.LikelihoodConfig()
    assert base.num_features(3) == 3
    assert base.parameters((4, 3)) == {}
    assert base.initial_bias(jnp.zeros(3)) is None


def test_what_a_base_does_not_define_is_not_implemented():
    x = jnp.zeros(2)
    with pytest.raises(NotImplementedError):
        bases.ModelConfig().build(Config(), (2,), training=False)
    with pytest.raises(NotImplementedError):
        bases.NetworkConfig().build((2,), 2, training=False)
    with pytest.raises(NotImplementedError):
        bases.PosteriorConfig().build(2)
    with pytest.raises(NotImplementedError):
        bases.PosteriorConfig().build_layer(2, (), jnp.tanh)
    with pytest.raises(NotImplementedError):
        bases.PriorConfig().build(2, (3,))
    with pytest.raises(NotImplementedError):
        bases.LikelihoodConfig().distribution(x, {}, (2,))
    assert bases.NetworkConfig().activation_function is jnp.tanh


@pytest.mark.parametrize(
    ("likelihood", "accepted"),
    [
        ("bernoulli", ["dynamic-binarization", "static-binarization", "threshold", "scale", "identity"]),
        ("continuous-bernoulli", ["dynamic-binarization", "static-binarization", "threshold", "scale", "identity"]),
        ("gaussian", list(choices("preprocess"))),
        ("learned-gaussian", list(choices("preprocess"))),
        ("heteroscedastic-gaussian", list(choices("preprocess"))),
        ("student-t", list(choices("preprocess"))),
        ("logistic-mixture", ["scale"]),
        ("poisson", ["identity"]),
        ("negative-binomial", ["identity"]),
        ("zero-inflated-negative-binomial", ["identity"]),
        ("categorical", ["one-hot"]),
    ],
)
def test_a_likelihood_accepts_the_preprocessing_that_returns_its_kind_of_numbers(likelihood, accepted):
    names = " or ".join(filter(None, (", ".join(accepted[:-1]), accepted[-1])))
    chosen = choice("likelihood", likelihood)
    for name in choices("preprocess"):
        config = SimpleNamespace(preprocess=choice("preprocess", name), data=SimpleNamespace(kind="auto"))
        if name in accepted:
            chosen.check(config)
        else:
            with pytest.raises(InputError) as error:
                chosen.check(config)
            expected = f"preprocess={name} must be {names} with likelihood={likelihood}, a distribution over "
            assert str(error.value) == expected + chosen.support


def test_the_kind_of_the_data_decides_what_identity_returns():
    identity = choice("preprocess", "identity")
    assert bases.values_after(identity, "vectors") == {"reals"}
    assert bases.values_after(identity, identity.kinds) == {"reals", "counts"}
    assert bases.values_after(identity, "images") == set()
    choice("likelihood", "bernoulli").check_values(identity, "vectors")
    choice("likelihood", "poisson").check_values(identity, "counts")
    with pytest.raises(InputError, match=r"^preprocess=identity must be .* with likelihood=poisson, .* over counts$"):
        choice("likelihood", "poisson").check_values(identity, "vectors")
    with pytest.raises(InputError, match=r"^preprocess=identity must be .* with likelihood=bernoulli, .* binary"):
        choice("likelihood", "bernoulli").check_values(identity, "counts")


@pytest.mark.fault
def test_the_combination_is_checked_with_the_config():
    with pytest.raises(
        InputError, match=r"^preprocess=dynamic-binarization must be scale with likelihood=logistic-mix"
    ):
        override(Config(), likelihood="logistic-mixture")
    counts = override(Config(), data__kind="counts", preprocess="identity", likelihood="poisson")
    with pytest.raises(InputError, match=r"^preprocess=identity must be dynamic-binarization, .* likelihood=bernoulli"):
        override(counts, likelihood="bernoulli")


class Halves(nn.Module):
    """An encoder without parameters."""

    def __call__(self, x):
        return x / 2


class Slope(nn.Module):
    """A decoder without parameters."""

    features: int

    def __call__(self, z):
        return jnp.repeat(z, self.features, axis=-1)[..., : self.features]


@dataclasses.dataclass(frozen=True)
class HalvesConfig(bases.NetworkConfig):
    def build(self, shape, features, *, training):
        del shape, training
        return Halves(), Slope(features)


class PosteriorOfInputs(nn.Module):
    """The prior q(z | a learned pseudo-input), without the mixture."""

    @nn.compact
    def __call__(self, posterior_of):
        q = posterior_of(self.param("pseudo_input", nn.initializers.ones, (1, 3)))
        return jax.tree.map(lambda leaf: leaf[0], q)


@dataclasses.dataclass(frozen=True)
class PseudoInputConfig(bases.PriorConfig):
    def build(self, latent_dim, shape):
        assert (latent_dim, shape) == (2, (3,))
        return PosteriorOfInputs()


class Unit(nn.Module):
    def __call__(self, h):
        return Normal(h[..., :2], jnp.zeros_like(h[..., :2]))


@dataclasses.dataclass(frozen=True)
class UnitConfig(bases.PosteriorConfig):
    def build(self, latent_dim):
        assert latent_dim == 2
        return Unit()


@dataclasses.dataclass(frozen=True)
class DoubledConfig(bases.LikelihoodConfig):
    """A Normal whose scales are outputs of the decoder and learned offsets."""

    support: ClassVar[str] = "real numbers"

    def num_features(self, channels):
        return 2 * channels

    def parameters(self, shape):
        return {"offset": jnp.full(shape, 0.5)}

    def distribution(self, features, parameters, shape):
        loc, log_scale = jnp.split(features, 2, axis=-1)
        return Normal(loc, log_scale + jnp.broadcast_to(parameters["offset"], loc.shape), len(shape))


def test_choices_of_a_user_are_joined_by_the_vae():
    parts = {"network": HalvesConfig(), "posterior": UnitConfig(), "prior": PseudoInputConfig()}
    config = SimpleNamespace(model=VAEConfig(latent_dim=2), likelihood=DoubledConfig(), **parts)
    model = build_model(config, (3,))
    x = jnp.array([[2.0, 4.0, 6.0]])
    params = init_params(model, jax.random.key(0), {"x": x})["params"]
    assert {name: np.shape(leaf) for name, leaf in params.items() if name != "prior"} == {
        "output_bias": (6,),
        "likelihood_offset": (3,),
    }
    q = model.apply({"params": params}, {"x": x}, method="encode")
    np.testing.assert_array_equal(q.loc, [[1.0, 2.0]])

    def draw(name, prior, posterior):
        np.testing.assert_array_equal(prior.loc, [0.5, 0.5])  # the features of the pseudo-input
        return SimpleNamespace(name=name, z=posterior().loc)

    p_x, _ = model.apply({"params": params}, draw, q, method="decode")
    np.testing.assert_array_equal(p_x.loc, [[1.0, 1.0, 1.0]])
    np.testing.assert_array_equal(p_x.log_scale, [[1.5, 1.5, 1.5]])


def test_the_model_depends_on_the_sections_of_its_parts_alone():
    parts = {"network": MLPConfig(hidden=(4,)), "posterior": GaussianPosteriorConfig(), "prior": StandardNormalConfig()}
    config = SimpleNamespace(model=VAEConfig(latent_dim=2), likelihood=GaussianLikelihoodConfig(scale=2.0), **parts)
    same = override(Config(), network__hidden=(4,), model__latent_dim=2, likelihood="gaussian", likelihood__scale=2.0)
    assert build_model(config, (3,)) == build_model(same, (3,))
