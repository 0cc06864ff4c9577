"""Posteriors that are flows: their modules, kernels for a tied decoder, and refused combinations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flow_models import B, binary_batch, pair_config, pair_model

from vae_jax.config import Config, choice, choices, override
from vae_jax.errors import InputError
from vae_jax.models.flow_posteriors import FlowPosteriorConfig
from vae_jax.models.flows import AffineCouplings, AutoregressiveTransforms, FlowPosterior, PlanarTransforms
from vae_jax.models.posteriors import ConditionalNormal

FLOWS = {name for name, cls in choices("posterior").items() if cls.is_flow}


def test_the_settings_are_those_of_the_modules():
    assert {"planar", "iaf", "coupling"} == FLOWS
    base = ConditionalNormal(3)
    for name, module in {"iaf": AutoregressiveTransforms, "coupling": AffineCouplings}.items():
        found = choice("posterior", name, layers=2, hidden=(5,), actnorm=True).build(3)
        assert found == FlowPosterior(base, module(3, 2, (5,), actnorm=True))
    assert choice("posterior", "planar", layers=2).build(3) == FlowPosterior(base, PlanarTransforms(3, 2))
    with pytest.raises(NotImplementedError):
        FlowPosteriorConfig().build(3)


@pytest.mark.parametrize(("prior", "posterior"), [("spline", "coupling"), ("coupling", "iaf"), ("mixture", "planar")])
def test_the_transforms_depend_on_the_example(prior, posterior):
    model, _, params = pair_model(prior, posterior)

    @jax.jit
    def density_of_the_same_noise(params):
        q = model.apply({"params": params}, binary_batch(), method="encode")
        return q.forward(jnp.ones((B, 2)))

    z, log_det = density_of_the_same_noise(params)
    assert len(np.unique(np.round(log_det, 5))) == B
    assert len(np.unique(np.round(z[:, 1], 5))) == B


@pytest.mark.fault
def test_combinations_that_a_flow_does_not_support_are_refused():
    for name in sorted(FLOWS):
        with pytest.raises(InputError, match=rf"^posterior={name} must be gaussian or fixed-noise with objective=beta"):
            pair_config("standard-normal", name, objective="beta-tc")
        with pytest.raises(InputError, match=rf"^posterior={name} must be gaussian with model=layered"):
            override(Config(), posterior=name, model="layered")
        pair_config("standard-normal", name, objective="info-vae")
        pair_config("standard-normal", name, objective="sampled-elbo", estimator="sticking-the-landing")
        pair_config("standard-normal", name, network__tied=True)
    for name in ("iaf", "coupling"):
        with pytest.raises(InputError, match=r"^posterior\.hidden=\(\) must be one width or more"):
            override(Config(), posterior=name, posterior__hidden=())
