"""What a user-defined `decode` or objective returns by mistake is refused with what to return instead."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vae_jax.distributions import Normal, from_prior, standard_normal
from vae_jax.errors import InputError
from vae_jax.inference import bound, elbos

X = jnp.asarray(np.random.default_rng(0).normal(size=(12, 5)), jnp.float32)


class Model(nn.Module):
    """A model whose `decode` returns `result(p(x|z), z)`."""

    result: object
    event_ndims: int = 1

    @nn.compact
    def encode(self, batch):
        return Normal(*jnp.split(nn.Dense(4)(batch["x"]), 2, axis=-1))

    @nn.compact
    def decode(self, draw, evidence=None, batch=None):
        z = draw("z", standard_normal((2,)), None if evidence is None else lambda: evidence)
        loc = nn.Dense(5, name="output")(z.z)
        return self.result(Normal(loc, jnp.zeros_like(loc), event_ndims=self.event_ndims), z)


def right(p_x, z):
    return p_x, (z,)


PARAMS = {"Dense_0": {"kernel": jnp.zeros((5, 4)), "bias": jnp.zeros(4)},
          "output": {"kernel": jnp.zeros((2, 5)), "bias": jnp.zeros(5)}}  # fmt: skip


def loss(result=right, objective=elbos.elbo, event_ndims=1):
    model = Model(result, event_ndims)
    return bound.negative_bound(PARAMS, jax.random.key(0), {"x": X}, model=model, objective=objective, num_samples=2)


def test_a_pair_with_a_tuple_or_a_list_of_layers_is_accepted():
    assert loss()[0] == loss(lambda p_x, z: (p_x, [z]))[0]


@pytest.mark.fault
@pytest.mark.parametrize(
    ("result", "words"),
    [
        (
            lambda p_x, z: p_x,
            "decode returned Normal; return `p_x, (z,)`: the distribution p(x|z), and a tuple of the ",
        ),
        (lambda p_x, z: (p_x, (z,), z), "decode returned tuple of 3; return `p_x, (z,)`"),
        (lambda p_x, z: (p_x, z), "decode returned Latent as layers; return `p_x, (z,)`"),
        (lambda p_x, z: (p_x, (z.z,)), "decode returned tuple of "),
        (lambda p_x, z: (p_x.mean(), (z,)), " as p(x|z), which has no method `log_prob`; return a distribution, such "),
    ],
)
def test_another_result_of_decode_is_refused(result, words):
    with pytest.raises(InputError) as caught:
        loss(result)
    assert words in str(caught.value)


@pytest.mark.fault
def test_a_log_density_that_is_not_one_number_for_each_sample_and_example_is_refused():
    with pytest.raises(InputError) as caught:
        loss(event_ndims=0)
    assert str(caught.value) == (
        "log_prob(x) of p(x|z), Normal, has shape [2, 12, 5] and must be [K, B], [2, 12]; return a distribution whose "
        "event is one example, [5], such as one with event_ndims=1"
    )


@pytest.mark.fault
def test_an_objective_without_a_result_is_refused():
    with pytest.raises(ValueError, match=r"^objective returned NoneType; return a bound for each example, \[12\]$"):
        loss(objective=lambda terms: None)


def test_a_distribution_without_log_prob_can_be_sampled():
    p_x, layers = bound.decode(PARAMS, from_prior(jax.random.key(0), 3), model=Model(lambda p, z: (p.mean(), (z,))))
    assert (p_x.shape, list(layers)) == ((3, 5), ["z"])
