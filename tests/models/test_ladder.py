"""Deep hierarchies: against the flat VAE, without `nn.scan` and `nn.remat`, and the settings that they refuse."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jitted import sample_terms
from ladders import CONV, MLP, LoopLadder, ladder, loop_parameters

from vae_jax.config import Config, override
from vae_jax.distributions import Normal, from_means, from_prior, from_values
from vae_jax.errors import InputError
from vae_jax.inference import elbo, iwae, negative_bound
from vae_jax.models.build import build_model, init_params
from vae_jax.models.conv import space_to_depth
from vae_jax.models.export import LayerShape, latent_shapes
from vae_jax.models.ladder import UNROLLED_BLOCKS
from vae_jax.models.vae import VAE

K, B = 3, 4


def dense(p, x):
    return x @ p["kernel"] + p["bias"]


def narrow(p, *inputs):
    """The formula of a `Bottleneck` for vectors."""
    h = sum(dense(p[f"Dense_{i}"], jax.nn.gelu(x)) for i, x in enumerate(inputs))
    for i in range(len(inputs), len(p)):
        h = dense(p[f"Dense_{i}"], jax.nn.gelu(h))
    return h


class Function(nn.Module):
    """A function as a part of a `VAE`."""

    function: object

    def __call__(self, x):
        return self.function(x)


def normal(parameters):
    loc, s = jnp.split(parameters, 2, axis=-1)
    return Normal(loc, jnp.log(jnp.log2(1 + 2.0**s)))


def flat_vae(p, likelihood, shape, form):
    """Return the VAE whose networks are the formulas of a ladder of one block with parameters p."""
    top, h = p["top_block"], p["top_features"]
    prior_outputs = narrow(top["prior"], h)
    prior = normal(prior_outputs[:4])

    def encode(x):
        e = dense(p["input"], x)
        return e + narrow(jax.tree.map(lambda leaf: leaf[0], p["encoder_blocks_0"])["Bottleneck_0"], e)

    def posterior(e):
        q = normal(narrow(top["posterior"], jnp.broadcast_to(h, e.shape), e))
        return Normal(q.loc + prior.loc[None], q.log_scale + prior.log_scale[None]) if form == "residual" else q

    def decode(z):
        features = (h + prior_outputs[4:])[None] + dense(top["projection"], z)
        return dense(p["output"], jax.nn.gelu(features + narrow(top["residual"]["Bottleneck_0"], features)))

    parts = {"encoder": encode, "decoder": decode, "posterior": posterior, "prior": lambda _: prior}
    return VAE(**{name: Function(part) for name, part in parts.items()}, likelihood=likelihood, shape=shape)


@pytest.mark.parametrize("form", ["residual", "free"])
def test_one_layer_is_the_flat_vae_with_the_same_parameters(form):
    settings = {"model": "ladder-mlp", "model__blocks": (1,), "model__channels": (6,), "model__bottleneck": (4,),
                "model__latent_channels": (2,), "model__posterior_form": form}  # fmt: skip
    model, params = ladder((5,), **settings)

    @jax.jit
    def numbers(x, z):
        flat = flat_vae(params, model.likelihood, (5,), form)
        found = []
        for one, p, name in ((model, params, "top"), (flat, {"output_bias": params["output_bias"]}, "z")):
            draw = from_values({name: z}, with_posterior=True)
            apply = functools.partial(one.apply, {"params": p})
            p_x, (latent,) = apply(draw, apply({"x": x}, method="encode"), method="decode")
            found.append((p_x.log_prob(x), latent.log_p, latent.log_q, latent.posterior, latent.prior))
        return found

    x, z = jax.random.bernoulli(jax.random.key(3), 0.4, (B, 5)) * 1.0, jax.random.normal(jax.random.key(4), (B, 2))
    with jax.numpy_rank_promotion("allow"):  # the formulas are written without broadcasts
        found, expected = numbers(x, z)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), found, expected)


def test_the_kl_of_each_layer_in_closed_form_is_that_of_samples():
    model, params = ladder((5,), **MLP)
    x = jnp.ones((1, 5))
    terms = sample_terms(params, jax.random.key(1), x, model=model, num_samples=20_000)
    assert [latent.name for latent in terms.latents] == ["top", "level1"]
    count = 0
    for latent in terms.latents:
        sampled = (latent.log_q - latent.log_p).reshape(-1, 20_000)  # [L, K], for one example
        closed_form = jnp.broadcast_to(latent.kl.reshape(len(sampled), -1), sampled.shape)
        error = np.std(sampled - closed_form, axis=1) / np.sqrt(20_000)
        np.testing.assert_array_less(np.abs(np.mean(sampled - closed_form, axis=1)), 5 * error)
        assert (np.mean(closed_form, axis=1) > 20 * error).all()
        count += len(sampled)
    assert terms.kl.shape == (count, 1) == (3, 1)
    blocks = terms.latents[1]
    noise = (blocks.z - blocks.posterior.mean()) / blocks.posterior.stddev()  # [L, K, 1, Z]
    assert np.abs(np.mean(noise[0] * noise[1])) < 0.05  # blocks of one stack share no noise


def test_an_example_has_no_gradient_to_another_one():
    """Also for images with an odd width."""
    model, params = ladder((4, 3, 2), **CONV)
    x = jax.random.uniform(jax.random.key(3), (B, 4, 3, 2))

    @jax.jit
    @jax.grad
    def gradient(x, weights):
        return weights @ iwae(sample_terms(params, jax.random.key(1), x, model=model, num_samples=2))

    for i in range(B):
        size = np.abs(gradient(x, jax.nn.one_hot(i, B))).max(axis=(1, 2, 3))
        np.testing.assert_array_equal(size > 0, np.arange(B) == i)


def test_the_scan_over_blocks_equals_a_loop_and_rematerialization_changes_nothing():
    """For stacks of blocks that are unrolled, and for a longer one."""
    settings = MLP | {"model__blocks": (UNROLLED_BLOCKS + 1, 1)}
    model, params = ladder((5,), **settings)
    x = jax.random.bernoulli(jax.random.key(3), 0.4, (B, 5)) * 1.0

    @functools.partial(jax.jit, static_argnums=1)
    def loss(params, model):
        loss = functools.partial(negative_bound, model=model, objective=elbo, num_samples=K)
        return jax.value_and_grad(loss, has_aux=True)(params, jax.random.key(1), {"x": x})

    fields = {name: getattr(model, name) for name in ("levels", "style", "likelihood", "shape")}
    value, gradient = loss(params, model)
    for leaf in jax.tree.leaves(gradient):
        for block in leaf if leaf.ndim == 3 else leaf[None]:
            assert np.abs(block).max() > 1e-6
    close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6)
    looped = loss(loop_parameters(params), LoopLadder(**fields))
    jax.tree.map(close, looped, (value, loop_parameters(gradient)))
    recomputed = build_model(override(Config(), **settings, model__remat=True), (5,), training=True)
    jax.tree.map(close, loss(params, recomputed), (value, gradient))
    programs = [str(jax.make_jaxpr(loss, static_argnums=1)(params, m)) for m in (model, recomputed)]
    assert ["remat" in program for program in programs] == [False, True]


@pytest.mark.parametrize("patch", [2, 3])
def test_patches_are_the_places_of_an_image_with_more_channels(patch):
    shape = (2, 3, 2)
    model, params = ladder((shape[0] * patch, shape[1] * patch, 2), **CONV, model__patch=patch)
    same, _ = ladder((*shape[:2], 2 * patch**2), **CONV)
    moved = params | {"output_bias": space_to_depth(params["output_bias"][None], patch)[0]}
    x = jax.random.bernoulli(jax.random.key(3), 0.4, (B, *model.shape)) * 1.0

    @jax.jit
    def numbers(x):
        terms = [
            sample_terms(params, jax.random.key(1), x, model=model, num_samples=K),
            sample_terms(moved, jax.random.key(1), space_to_depth(x, patch), model=same, num_samples=K),
        ]
        return [(t.log_px_z, t.log_pz, t.log_qz) for t in terms]

    found, expected = numbers(x)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), found, expected)


def test_each_place_of_a_level_becomes_a_square_of_different_places():
    model, params = ladder((4, 3, 2), **CONV)
    h = jax.random.normal(jax.random.key(3), (B, 2, 2, 5))
    found = model.apply({"params": params}, h, 0, method="_upsampled")
    layer = jax.tree.map(np.asarray, params["upsampling_0"])
    squares = dense(layer, np.asarray(h)).reshape(B, 2, 2, 2, 2, 4)  # the last axes: in the square, and channels
    assert found.shape == (B, 4, 3, 4)
    for y, x in np.ndindex(4, 3):
        np.testing.assert_allclose(found[:, y, x], squares[:, y // 2, x // 2, y % 2, x % 2], rtol=1e-5, atol=1e-6)


def test_samples_have_the_shape_of_the_data_and_layers_those_of_their_levels():
    settings = CONV | {"model__blocks": (0, 2, 1, 0, 3), "model__channels": (4,), "model__encoder_blocks": (1,)}
    patched, _ = ladder((19, 11, 3), **settings, model__patch=2)
    assert [level.sides for level in patched.levels] == [(10, 6), (5, 3), (3, 2), (2, 1), (1, 1)]
    model, params = ladder((10, 6, 3), **settings)
    shapes = {"top": ((1, 1, 2), None), "level5": ((1, 1, 2), 2), "level3": ((3, 2, 2), 1), "level2": ((5, 3, 2), 2)}
    assert latent_shapes(params, model=model) == {name: LayerShape(*shape) for name, shape in shapes.items()}
    sample = lambda: model.apply({"params": params}, from_prior(jax.random.key(5), 2), method="decode")  # noqa: E731
    assert jax.eval_shape(sample)[0].logits.shape == (2, 10, 6, 3)


def test_the_temperature_scales_the_noise_of_each_layer():
    model, params = ladder((5,), **MLP)

    walk = functools.partial(model.apply, {"params": params}, method="decode")

    @jax.jit
    def noise(temperature):
        _, drawn = walk(from_prior(jax.random.key(5), B, temperature=temperature))
        _, latents = walk(from_values({latent.name: latent.z for latent in drawn}))
        expand = jnp.broadcast_to  # the prior of the highest layer has no examples
        return [(l.z - expand(l.prior.loc, l.z.shape)) / expand(l.prior.stddev(), l.z.shape) for l in latents]

    for half, full in zip(noise(0.5), noise(1.0), strict=True):
        np.testing.assert_allclose(half, full / 2, rtol=1e-3, atol=1e-4)


def test_a_new_model_has_a_standard_normal_prior_in_each_layer():
    model, _ = ladder((5,), **MLP)

    @jax.jit
    def initial_layers():
        variables = init_params(model, jax.random.key(0), {"x": jnp.zeros((1, 5))})
        return model.apply(variables, from_prior(jax.random.key(1), B), method="decode")[1]

    latents = initial_layers()
    for latent in latents:
        np.testing.assert_array_equal(latent.prior.mean(), 0)
        np.testing.assert_allclose(latent.prior.stddev(), 1, rtol=1e-6)


@pytest.mark.parametrize("settings", [MLP, CONV], ids=["mlp", "conv"])
def test_layers_compute_in_bfloat16_and_densities_in_float32(settings):
    shape = (4, 3, 2) if settings is CONV else (5,)
    model, params = ladder(shape, True, **settings, model__compute_dtype="bfloat16")

    def walk(x):
        evidence = model.apply({"params": params}, {"x": x}, method="encode")
        return model.apply({"params": params}, from_means(), evidence, method="decode")

    program, result = jax.make_jaxpr(walk, return_shape=True)(jnp.zeros((B, *shape)))
    assert {leaf.dtype for leaf in jax.tree.leaves(result)} == {jnp.dtype(jnp.float32)}
    products = [line for line in str(program).splitlines() if "= dot_general[" in line or "= conv_general" in line]
    assert len(products) > 10
    assert all(":bf16[" in line for line in products)


PRIORS = {"coupling": {"prior__layers": 2, "prior__hidden": (6,)}, "mixture": {"prior__components": 3}}
PRIORS |= {"autoregressive": PRIORS["coupling"], "spline": PRIORS["coupling"] | {"prior__bins": 3}}


@pytest.mark.parametrize("prior", ["coupling", pytest.param("spline", marks=pytest.mark.thorough)])
def test_a_flow_that_is_the_identity_is_the_normal_prior_of_the_highest_layer(prior):
    model, params = ladder((4, 3, 1), **CONV)
    other, others = ladder((4, 3, 1), **CONV, prior=prior, **PRIORS[prior])
    assert set(others) - set(params) == {"top_prior"}
    same = params | {"top_prior": jax.tree.map(jnp.zeros_like, others["top_prior"])}
    x = jax.random.uniform(jax.random.key(3), (B, 4, 3, 1))

    @functools.partial(jax.jit, static_argnums=1)
    def numbers(params, model):
        terms = sample_terms(params, jax.random.key(1), x, model=model, num_samples=K)
        _, drawn = model.apply({"params": params}, from_prior(jax.random.key(1), B), method="decode")
        return terms.log_px_z, terms.log_pz, terms.log_qz, terms.kl, [latent.z for latent in drawn]

    found, expected = numbers(same, other), numbers(params, model)
    sampled = expected[3].at[0].set(jnp.mean((expected[2] - expected[1]), axis=0) - jnp.sum(found[3][1:], axis=0))
    for a, b in zip(found, (*expected[:3], sampled, expected[4]), strict=True):
        jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-4), a, b)


def test_the_highest_layer_is_a_scaled_value_of_the_learned_prior():
    model, params = ladder((5,), **MLP)
    other, others = ladder((5,), **MLP, prior="coupling", **PRIORS["coupling"])
    both = params | {"top_prior": others["top_prior"]}

    @jax.jit
    def numbers(params):
        _, (top, _) = model.apply({"params": params}, from_prior(jax.random.key(1), B), method="decode")
        _, (drawn, _) = other.apply({"params": both}, from_prior(jax.random.key(1), B), method="decode")
        m, s = top.prior.loc, top.prior.log_scale
        density = other.top_prior.apply({"params": both["top_prior"]}, None)
        noise = (drawn.z - jnp.broadcast_to(m, drawn.z.shape)) * jnp.broadcast_to(jnp.exp(-s), drawn.z.shape)
        return drawn.log_p, density.log_prob(noise) - jnp.sum(s), top.log_p

    found, expected, plain = numbers(params)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    assert np.abs(found - plain).max() > 0.1


@pytest.mark.thorough
@pytest.mark.parametrize("prior", PRIORS)
def test_the_learned_prior_of_the_highest_layer_has_its_density_and_a_gradient(prior):
    model, params = ladder((5,), **MLP, prior=prior, **PRIORS[prior])
    x = jax.random.bernoulli(jax.random.key(3), 0.4, (B, 5)) * 1.0

    @jax.jit
    def numbers(params):
        _, drawn = model.apply({"params": params}, from_prior(jax.random.key(5), B), method="decode")
        values = {latent.name: latent.z for latent in drawn}
        _, given = model.apply({"params": params}, from_values(values), method="decode")
        loss = functools.partial(negative_bound, model=model, objective=elbo, num_samples=K)
        return (
            drawn[0].log_p,
            given[0].log_p,
            jax.value_and_grad(loss, has_aux=True)(params, jax.random.key(1), {"x": x}),
        )

    log_p, again, ((loss, metrics), gradient) = numbers(params)
    np.testing.assert_allclose(log_p, again, rtol=1e-4, atol=1e-4)
    parts = metrics["reconstruction"] - sum(metrics[f"kl_{i}"] for i in (1, 2, 3))
    np.testing.assert_allclose(-loss, parts, rtol=1e-5)
    for part in ("top_prior", "top_block"):
        assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(gradient[part])), part


@pytest.mark.fault
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model__blocks": ()}, r"model.blocks=\(\) must be one or more numbers, the last of them greater than 0"),
        ({"model__blocks": (2, 0)}, r"model.blocks=\(2, 0\) must be one or more numbers, the last"),
        ({"model__channels": (2, 2, 2)}, r"model.channels=\(2, 2, 2\) must be one number, or 2 as in model.blocks"),
        ({"objective": "beta-tc"}, "objective=beta-tc must be another objective with model=ladder; beta-tc needs a "),
        ({"prior": "vamp"}, "prior=vamp must be another prior with model=ladder: it is made of posteriors"),
        ({"model__patch": 0}, "model.patch=0 must be greater than 0"),
        ({"network": "conv"}, "network=conv has no effect with model=ladder; remove it or use another model"),
    ],
)
def test_settings_that_do_not_agree_are_refused(settings, message):
    with pytest.raises(InputError, match=f"^{message}"):
        override(Config(), **{"model": "ladder"} | settings)


@pytest.mark.fault
def test_shapes_that_a_hierarchy_does_not_support_are_refused():
    with pytest.raises(InputError, match=r"^model=ladder must be ladder-mlp for examples of shape \[5\], no images"):
        build_model(override(Config(), **CONV), (5,))
    config = override(Config(), model="ladder", model__blocks=(1, 1, 1, 1))
    with pytest.raises(
        InputError, match=r"^model.blocks=\(1, 1, 1, 1\) has 4 levels; use 3 or fewer for images of 4x3"
    ):
        build_model(config, (4, 3, 1))
