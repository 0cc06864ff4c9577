"""experiments/benchmarks/trainers/torch_networks.py: the networks are those of vae_jax."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scripts import load

from vae_jax.config import PRESETS, Config, override
from vae_jax.distributions import Latent, kl_divergence
from vae_jax.distributions.drawers import from_values
from vae_jax.models.build import build_model


@pytest.fixture
def peers():
    return load("benchmarks/peers")


def flax_params(network):
    """Convert the weights of a residual network in PyTorch to those of vae_jax, for images of one channel."""

    def array(tensor):
        return jnp.asarray(tensor.detach().numpy())

    def dense(layer):
        return {"kernel": array(layer.weight).T, "bias": array(layer.bias)}

    def conv(layer):
        return {"kernel": array(layer.weight).transpose(2, 3, 1, 0), "bias": array(layer.bias)}

    def down(layer):  # [O, C, 2, 2] -> [2·2·C, O]
        kernel = array(layer.weight).transpose(2, 3, 1, 0)
        return {"kernel": kernel.reshape(-1, kernel.shape[-1]), "bias": array(layer.bias)}

    def up(layer):  # outputs (C, 2, 2) -> (2, 2, C)
        def reorder(values):
            return values.reshape(*values.shape[:-1], -1, 4).swapaxes(-2, -1).reshape(values.shape)

        return {"kernel": reorder(array(layer.weight)[:, :, 0, 0].T), "bias": reorder(array(layer.bias))}

    def blocks(layers):
        return {f"ConvBlock_{i}": {"Conv_0": conv(b.first), "Conv_1": conv(b.last)} for i, b in enumerate(layers)}

    return {
        "encoder": {f"Dense_{i}": down(layer) for i, layer in enumerate(network.down)} | blocks(network.encoder_blocks),
        "posterior": {"mean": dense(network.mean), "log_variance": dense(network.log_variance)},
        "decoder": {"Dense_0": dense(network.start), **blocks(network.decoder_blocks)}
        | {f"Dense_{i}": up(layer) for i, layer in enumerate(network.up, start=1)},
        "output_bias": array(network.output_bias).reshape(network.image_shape),
    }


def test_the_residual_network_in_torch_is_the_same_function(peers, monkeypatch):
    torch = pytest.importorskip("torch")
    networks = load("benchmarks/trainers/torch_networks")
    task = peers.MODELS["residual"]
    network = networks.make(task, (28, 28, 1))
    hidden = tuple(task["hidden"])
    settings = {"network__hidden": hidden, "network__activation": "gelu", "network__output_channels": 0}
    config = override(Config(), network="residual", **settings)
    model = build_model(config, (28, 28, 1))
    x = np.random.default_rng(0).uniform(size=(2, 28, 28, 1)).astype(np.float32)
    initial = jax.eval_shape(model.init, jax.random.key(0), {"x": x})["params"]
    assert jax.tree.map(jnp.shape, flax_params(network)) == jax.tree.map(jnp.shape, initial)
    assert sum(p.numel() for p in network.parameters()) == sum(p.size for p in jax.tree.leaves(initial))

    with torch.no_grad():
        for weights in network.parameters():  # so that none is zero
            weights += 0.05 * torch.randn_like(weights)
    monkeypatch.setattr(networks, "sample", lambda mean, log_variance: mean + torch.exp(0.5 * log_variance))
    logits, mean, log_variance = (value.detach().numpy() for value in network(torch.from_numpy(x).flatten(1)))
    variables = {"params": flax_params(network)}
    q = model.apply(variables, {"x": x}, method="encode")
    z = q.loc + jnp.exp(q.log_scale)
    p, _ = model.apply(variables, from_values({"z": z}), method="decode")
    np.testing.assert_allclose(mean, q.loc, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(log_variance, 2 * q.log_scale, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(logits, p.logits.reshape(2, -1), rtol=1e-4, atol=1e-4)


def test_the_mlp_in_torch_has_the_same_number_of_parameters(peers):
    pytest.importorskip("torch")
    network = load("benchmarks/trainers/torch_networks").make(peers.MODELS["mlp"], (28, 28, 1))
    settings = {"network__hidden": (400,), "network__activation": "relu", "model__latent_dim": 20}
    model = build_model(override(Config(), **settings), (28, 28, 1))
    initial = jax.eval_shape(model.init, jax.random.key(0), {"x": np.zeros((1, 28, 28, 1), np.float32)})
    assert sum(p.numel() for p in network.parameters()) == sum(p.size for p in jax.tree.leaves(initial))


def ladder_params(network):
    """Convert the weights of a ladder in PyTorch to those of vae_jax."""

    def array(tensor):
        return jnp.asarray(tensor.detach().numpy())

    def dense(layer):
        return {"kernel": array(layer.weight).T, "bias": array(layer.bias)}

    def bottleneck(block):
        layers = [*block.first, block.middle, block.last]
        return {f"Dense_{i}": dense(layer) for i, layer in enumerate(layers)}

    def stochastic(layer):
        parts = {name: bottleneck(getattr(layer, name)) for name in ("prior", "posterior")}
        residual = {"Bottleneck_0": bottleneck(layer.residual)}
        return parts | {"projection": dense(layer.projection), "residual": residual}

    def stacked(tree):
        return jax.tree.map(lambda leaf: leaf[None], tree)

    *lower, top = network.layers
    return {
        "input": dense(network.input),
        "output": dense(network.output),
        "output_bias": array(network.output_bias).reshape(28, 28, 1),
        "top_features": array(network.top),
        "top_block": stochastic(top),
        **{f"blocks_{i}": stacked(stochastic(layer)) for i, layer in enumerate(lower)},
        **{
            f"encoder_blocks_{i}": stacked({"Bottleneck_0": bottleneck(b)})
            for i, b in enumerate(network.encoder_blocks)
        },
        **{f"downsampling_{i}": dense(layer) for i, layer in enumerate(network.down)},
        **{f"upsampling_{i}": dense(layer) for i, layer in enumerate(network.up)},
    }


class OneSigmaAbove:
    """A drawer of the mean plus one standard deviation of each posterior."""

    posterior_first = True

    def __call__(self, name, prior, posterior=None, *, observed=None, index=None):
        q = posterior()
        latent = Latent(name, q.mean() + q.stddev(), posterior=q)
        return dataclasses.replace(latent.with_prior(prior), kl=kl_divergence(q, prior))


def test_the_ladder_in_torch_is_the_same_function(peers, monkeypatch):
    torch = pytest.importorskip("torch")
    networks = load("benchmarks/trainers/torch_networks")
    task = peers.MODELS["ladder"]
    network = networks.make(task, (28, 28, 1))
    model = build_model(PRESETS["mnist-ladder-mlp"], (28, 28, 1))
    x = np.random.default_rng(0).uniform(size=(2, 28, 28, 1)).astype(np.float32)
    initial = jax.eval_shape(model.init, jax.random.key(0), {"x": x})["params"]
    assert jax.tree.map(jnp.shape, ladder_params(network)) == jax.tree.map(jnp.shape, initial)

    with torch.no_grad():
        for weights in network.parameters():  # so that none is zero
            weights += 0.05 * torch.randn_like(weights)
    monkeypatch.setattr(networks, "sample", lambda mean, log_variance: mean + torch.exp(0.5 * log_variance))
    logits, kl = (value.detach().numpy() for value in network(torch.from_numpy(x).flatten(1)))
    variables = {"params": ladder_params(network)}
    evidence = model.apply(variables, {"x": x}, method="encode")
    p_x, latents = model.apply(variables, OneSigmaAbove(), evidence, method="decode")
    expected = sum(latent.kl.reshape(-1, 2).sum(axis=0) for latent in latents)
    np.testing.assert_allclose(kl, expected, rtol=1e-4)
    np.testing.assert_allclose(logits, p_x.logits.reshape(2, -1), rtol=1e-3, atol=1e-3)
