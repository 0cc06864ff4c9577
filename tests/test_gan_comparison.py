"""experiments/gan_comparison.py and picture_scores.py: the measures, the two players' steps, and the quick form."""

import dataclasses
import functools
import json
import math
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from PIL import Image
from scripts import EXPERIMENTS, load

from vae_jax.config import ModelConfig
from vae_jax.models import build_model


@pytest.fixture(scope="module")
def measures():
    return load("picture_scores")


@pytest.fixture(scope="module")
def script(measures):
    return load("gan_comparison")


# --- The numbers that pictures are judged by -------------------------------------------------------------------------


def points_with(mean, covariance, count=200):
    """Points whose sample mean and covariance are exactly these."""
    x = np.random.default_rng(len(mean)).normal(size=(count, len(mean)))
    x -= x.mean(axis=0)
    x = x @ np.linalg.inv(np.linalg.cholesky(np.cov(x, rowvar=False))).T
    return x @ np.linalg.cholesky(covariance).T + mean


def test_frechet_distance_of_axis_parallel_gaussians(measures):
    a, b = np.array([1.0, 2.0, 0.5]), np.array([2.0, 0.1, 0.5])  # standard deviations
    found = measures.frechet_distance(points_with(np.zeros(3), np.diag(a**2)), points_with(np.ones(3), np.diag(b**2)))
    assert found == pytest.approx(3 + ((a - b) ** 2).sum(), rel=1e-9)


def test_frechet_distance_where_covariances_do_not_commute(measures):
    import scipy.linalg

    rng = np.random.default_rng(0)
    cov_a, cov_b = (m @ m.T + 0.1 * np.eye(4) for m in rng.normal(size=(2, 4, 4)))
    a, b = points_with(np.arange(4.0), cov_a), points_with(np.zeros(4), cov_b)
    expected = 14 + np.trace(cov_a + cov_b - 2 * scipy.linalg.sqrtm(cov_a @ cov_b).real)
    assert measures.frechet_distance(a, b) == pytest.approx(expected, rel=1e-6)
    assert measures.frechet_distance(b, a) == pytest.approx(expected, rel=1e-6)
    assert measures.frechet_distance(a, a) == pytest.approx(0, abs=1e-9)


def test_frechet_distance_with_a_feature_that_is_always_zero(measures):
    a = points_with(np.zeros(2), np.eye(2))
    dead = np.zeros((len(a), 1))
    found = measures.frechet_distance(np.hstack([a, dead]), np.hstack([2 * a, dead]))
    assert found == pytest.approx(2, rel=1e-6)


def test_precision_is_the_fakes_share_and_recall_the_real_ones(measures):
    cluster = np.random.default_rng(0).normal(size=(3, 20, 2))
    real = np.concatenate([cluster[0], cluster[0] + 100])
    inside = cluster[0] + 1e-3
    assert measures.precision_recall(real, inside) == (1.0, 0.5)  # a mode is missed
    assert measures.precision_recall(inside, real) == (0.5, 1.0)
    three = np.concatenate([real, cluster[0] - 100, cluster[0] + [0, 300]]) + 1e-3
    assert measures.precision_recall(real, three) == (0.5, 1.0)  # two of four clusters are no real one's
    assert measures.precision_recall(real, real - 1000) == (0.0, 0.0)


def test_the_balls_reach_to_the_kth_neighbour(measures):
    real, fake = np.array([[0.0], [1], [3]]), np.array([[-2.5], [5.5], [1], [2]])
    assert measures.precision_recall(real, fake, k=1)[0] == 0.5  # [-1, 1], [0, 2], [1, 5]
    assert measures.precision_recall(real, fake, k=2)[0] == 1.0  # [-3, 3], [-1, 3], [0, 6]


def test_precision_and_recall_do_not_depend_on_chunks(measures):
    rng = np.random.default_rng(0)
    real, fake = rng.normal(size=(1203, 2)), rng.normal(1, 0.5, size=(1101, 2))

    def inside(points, balls):
        among = np.linalg.norm(balls[:, None] - balls[None], axis=-1)
        radii = np.sort(among, axis=1)[:, 3]
        return (np.linalg.norm(points[:, None] - balls[None], axis=-1) <= radii).any(axis=1).mean()

    expected = inside(fake, real), inside(real, fake)
    assert 0.5 < expected[1] < expected[0] < 1
    assert measures.precision_recall(real, fake) == pytest.approx(expected, abs=1e-12)


def test_the_judge_tells_a_missed_mode_from_a_wrong_picture(measures):
    """Half of the test images are dark and half bright; pictures of one kind are precise and recall a half."""

    class Pixels:
        @staticmethod
        def apply(variables, x):
            return x.reshape(len(x), -1), x.reshape(len(x), -1)

    rng = np.random.default_rng(0)
    dark, bright = (rng.integers(low, low + 40, (60, 3, 3, 1), np.uint8) for low in (108, 210))
    judge = measures.Judge(Pixels, {}, np.concatenate([dark, bright]))
    one = judge.scores(dark)["grey"]
    assert (one["precision"], one["recall"]) == (1.0, 0.5)
    more = judge.scores(np.concatenate([dark, bright, np.zeros((120, 3, 3, 1), np.uint8)]))["grey"]
    assert (more["precision"], more["recall"]) == (0.5, 1.0)


def test_sharpness(measures):
    x = np.zeros((2, 5, 5, 1))
    x[0, 2, 2] = 1  # Laplacian: -4 there, 1 at its four neighbours
    assert measures.sharpness(x) == pytest.approx((20 / 25 + 0) / 2, rel=1e-6)
    assert measures.sharpness(np.full((1, 5, 5, 1), 0.7)) == pytest.approx(0, abs=1e-12)


# --- The GAN ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def gan(script):
    model = build_model(ModelConfig(network="conv", hidden=(4,), latent_dim=3, activation="gelu"), (6, 6, 1))
    return script.Gan(model, script.Discriminator((4,)), optax.sgd(0.1), optax.sgd(0.1))


@pytest.fixture(scope="module")
def state(script, gan):
    vae = jax.jit(gan.model.init)(jax.random.key(5), jnp.zeros((1, 6, 6, 1)))["params"]
    return jax.jit(functools.partial(script.init_gan, gan=gan))(jax.random.key(0), vae)


@pytest.fixture(scope="module")
def z():
    return jax.random.normal(jax.random.key(1), (8, 3))


@pytest.fixture(scope="module")
def x():
    return jax.random.uniform(jax.random.key(2), (8, 6, 6, 1))


def converged(script, params, directions):
    iterate = jax.jit(lambda _, directions: script.spectral_normalise(params, directions)[1])
    return jax.lax.fori_loop(0, 300, iterate, directions)


def test_the_power_iteration_finds_the_largest_singular_value(script):
    rng = np.random.default_rng(0)
    shapes = {"dense": (7, 4), "conv": (3, 3, 2, 5), "one": (6, 1)}
    params = {n: {"kernel": jnp.asarray(rng.normal(size=s)), "bias": jnp.ones(s[-1])} for n, s in shapes.items()}
    start = script.init_directions(jax.random.key(0), params)
    normalised, _ = script.spectral_normalise(params, converged(script, params, start))
    for name, shape in shapes.items():
        kernel = np.asarray(params[name]["kernel"])
        largest = np.linalg.svd(kernel.reshape(-1, shape[-1]), compute_uv=False)[0]
        np.testing.assert_allclose(normalised[name]["kernel"], kernel / largest, rtol=1e-4, atol=1e-6)
        np.testing.assert_array_equal(normalised[name]["bias"], 1)


def test_one_call_is_one_iteration(script):
    kernel = np.random.default_rng(0).normal(size=(7, 4)).astype(np.float32)
    v = np.array([1.0, 0, 0, 0], np.float32)
    normalised, found = script.spectral_normalise({"kernel": jnp.asarray(kernel)}, {"kernel": jnp.asarray(v)})
    u = kernel @ v / np.linalg.norm(kernel @ v)
    expected = kernel.T @ u / np.linalg.norm(kernel.T @ u)
    np.testing.assert_allclose(found["kernel"], expected, rtol=1e-5)
    np.testing.assert_allclose(normalised["kernel"], kernel / (u @ kernel @ expected), rtol=1e-5)


def test_gradients_flow_through_the_singular_value(script):
    rng = np.random.default_rng(0)
    kernel, weights = jnp.asarray(rng.normal(size=(2, 7, 4)), jnp.float32)
    params = {"kernel": kernel}
    directions = converged(script, params, script.init_directions(jax.random.key(0), params))
    found = jax.grad(lambda p: jnp.sum(weights * script.spectral_normalise(p, directions)[0]["kernel"]))(params)
    expected = jax.grad(lambda k: jnp.sum(weights * k / jnp.linalg.svd(k, compute_uv=False)[0]))(kernel)
    np.testing.assert_allclose(found["kernel"], expected, rtol=1e-4, atol=1e-5)


def test_the_generator_is_the_vae_s_decoder(script, gan, state, z):
    whole = jax.jit(gan.model.init)(jax.random.key(5), jnp.zeros((1, 6, 6, 1)))["params"]
    assert set(whole) - set(state.generator) == {"encoder", "posterior_mean", "posterior_log_variance"}
    expected = gan.model.apply({"params": whole}, z, method="decode").mean()
    np.testing.assert_array_equal(script.generate(state.generator, z, model=gan.model), expected)


def changed(old, new):
    """The fields of two states that differ in any number."""
    differs = {
        field: any(
            not np.array_equal(a, b)
            for a, b in zip(jax.tree.leaves(getattr(old, field)), jax.tree.leaves(getattr(new, field)), strict=True)
        )
        for field in old._fields
        if field != "key"
    }
    return {field for field, differ in differs.items() if differ}


def test_each_player_moves_in_its_own_step_only(script, gan, state, z, x):
    after, _ = jax.jit(functools.partial(script.discriminator_step, gan=gan))(state, z, x)
    assert changed(state, after) == {"discriminator", "directions"}
    after, _ = jax.jit(functools.partial(script.generator_step, gan=gan))(state, z)
    assert changed(state, after) == {"generator"}
    after, metrics = jax.jit(functools.partial(script.gan_step, gan=gan))(state, (255 * x).astype(jnp.uint8))
    assert changed(state, after) == {"discriminator", "directions", "generator", "step"}
    assert set(metrics) == {"discriminator_loss", "generator_loss"}


def test_the_losses_are_those_of_the_paper(script, gan, state, z, x):
    normalised, _ = script.spectral_normalise(state.discriminator, state.directions)

    def odds(images):
        logits = gan.discriminator.apply({"params": normalised}, images)
        return 1 / (1 + np.exp(-np.asarray(logits, np.float64)))

    of_real, of_fake = odds(x), odds(script.generate(state.generator, z, model=gan.model))
    _, metrics = script.discriminator_step(state, z, x, gan=gan)
    expected = -np.log(of_real).mean() - np.log(1 - of_fake).mean()
    assert float(metrics["discriminator_loss"]) == pytest.approx(expected, rel=1e-4)
    _, metrics = script.generator_step(state, z, gan=gan)
    assert float(metrics["generator_loss"]) == pytest.approx(-np.log(of_fake).mean(), rel=1e-4)


def test_each_step_lowers_its_own_loss(script, gan, state, z, x):
    for step, name in (
        (jax.jit(lambda s: script.discriminator_step(s, z, x, gan=gan)), "discriminator_loss"),
        (jax.jit(lambda s: script.generator_step(s, z, gan=gan)), "generator_loss"),
    ):
        run, losses = state._replace(directions=converged(script, state.discriminator, state.directions)), []
        for _ in range(5):
            run, metrics = step(run)
            losses.append(float(metrics[name]))
        assert losses == sorted(losses, reverse=True)
        assert losses[-1] < losses[0] - 1e-3


# --- The whole -------------------------------------------------------------------------------------------------------


def test_what_is_kept_is_not_made_again_unless_settings_change(script, tmp_path):
    calls = []

    def make():
        calls.append(1)
        return script.Made({"elbo": -1.5}, {"samples": np.full((2, 3, 3, 1), len(calls), np.uint8)})

    path = tmp_path / "vae-0.npz"
    first, again = (script.kept(path, script.QUICK, make) for _ in range(2))
    assert len(calls) == 1
    assert again.numbers == first.numbers == {"elbo": -1.5}
    np.testing.assert_array_equal(again.pictures["samples"], first.pictures["samples"])
    other = script.kept(path, dataclasses.replace(script.QUICK, count=1), make)
    assert len(calls) == 2
    assert (other.pictures["samples"] == 2).all()


def test_the_quick_form(tmp_path, data_dir):
    done = subprocess.run(
        [sys.executable, str(EXPERIMENTS / "gan_comparison.py"), "--quick", "--output", str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
        env=os.environ | {"TFDS_DATA_DIR": data_dir},
    )
    assert done.returncode == 0, done.stderr
    *table, last = done.stdout.splitlines()
    said = json.loads(last)
    assert list(said["scores"]) == ["training images", "VAE", "VAE, reconstructions", "GAN"]
    for found in said["scores"].values():
        for scores in found.values():
            assert all(math.isfinite(value["mean"]) and math.isfinite(value["sd"]) for value in scores.values())
            assert 0 <= scores["precision"]["mean"] <= 1
            assert 0 <= scores["recall"]["mean"] <= 1
    # The floor is the least distance, and the classifier has learnt something to tell.
    distances = {row: found["grey"]["frechet_distance"]["mean"] for row, found in said["scores"].items()}
    assert min(distances, key=distances.get) == "training images"
    result = json.loads((tmp_path / "gan_comparison.json").read_text())
    assert result["classifier_accuracy"]["grey"] > 0.8
    text = (tmp_path / "gan_comparison.md").read_text()
    assert text.splitlines() == table[: len(text.splitlines())]
    assert "no encoder: no reconstruction, no latent code" in text
    assert "no likelihood: no NLL" in text
    with Image.open(tmp_path / "gan_comparison.png") as picture:
        assert picture.size[0] > 1000
    assert {path.name for path in tmp_path.glob("*.npz")} == {f"{k}-{s}.npz" for k in ("vae", "gan") for s in (0, 1)}
