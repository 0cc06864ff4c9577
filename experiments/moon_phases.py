"""What lies half-way between the code of a half moon and that of a full moon: a three-quarter moon, or a blend?

The claim, often told in lectures: an autoencoder has learned what a moon is, so the point half-way between the codes
of a half and of a full moon decodes to a moon of three quarters. Here it is put to the test where the truth is known,
on moons of 32x32 pixels that `vae_jax.data.moons` draws from their phase, tilt, size, position and shading.

    moons_full_half   only half and full moons are seen in training, so a three-quarter moon is never one of them
    moons_gap         all phases from 0.1 to 1 are seen, but for lit fractions from 0.65 to 0.85

    autoencoder         posterior deterministic, objective reconstruction
    noisy autoencoder   posterior fixed-noise (its scale 1, and nothing keeps the codes small), objective reconstruction
    VAE                 posterior gaussian, objective elbo
    pixel blend         (1 - t) half + t full, no model at all

Each is a 1024-256-128-8 MLP and its mirror, with the cross entropy of the pixels' intensities as the reconstruction,
trained for 1500 steps of 64 by Adam. The 16 seeds of one setting and method (weights, order of the data, noise) are
one program: `jax.vmap` over the library's own `init_state` and `train_steps`.

What is measured, on 64 pairs of a half and a full moon alike in all but the phase, which no training has seen. The
codes (posterior means) of a pair are joined by a straight line, and its points at t = 0, 0.1, ..., 1 are decoded:

    error        squared error, summed over the pixels, to the true moon of lit fraction 0.5 + 0.5 t
    lit          lit fraction: that of the moon nearest in squared error among those with the pair's own tilt, size,
                 position and shading and the lit fractions 0, 0.01, ..., 1. (The sum of the pixels would not do: it
                 grows along a blend just as along the moons.) An even blend is equally far from all phases from half
                 to full, so the lit fraction along a blend jumps from 0.5 to 1
    off a moon   squared error to that nearest moon: what no phase explains
    off a blend  the same to the nearest of the blends w half + (1 - w) full, w = 0, 0.01, ..., 1
    sharpness    sum of the squared differences of neighbouring pixels inside the disc (within 0.85 of its radius,
                 where only the terminator is an edge), over that of the true moon: 1 is as sharp, and an edge of half
                 the contrast counts a quarter
    moons        share of random codes that decode to a moon at all, for 128 codes of each seed from N(0, I) (what the
                 VAE is trained for) and from the Gaussian with mean and covariance of the test images' codes.
                 An image counts as a moon if its squared error to the nearest of 20,000 moons drawn at random from
                 all phases, tilts, sizes, positions and shadings is below a threshold that 95 % of 2,000 other true
                 moons meet, and below half of what a black image would have (darkness is no thin crescent). For
                 comparison: the share of reconstructed test images that count
    claim        share of the pairs for which it is true: the decoding at t = 0.5 counts as a moon, and its lit
                 fraction is within 0.05 of 0.75

    python experiments/moon_phases.py --output runs/moon_phases

writes paths.png, curves.png, table.md and results.json there, and prints the results as one line of JSON.

Time: 11 minutes on two cores of an AMD EPYC, 33 on an Intel Xeon's that two trainings shared (2026-11-27, Python
3.11.7, jax 0.10.2: the same numbers).
Numbers (mean ± standard deviation over the seeds, at t = 0.5; a decoding below 7.4 squared errors counts as a moon):

                                error         lit           off a moon   off a blend  sharpness    claim
    moons_full_half
        pixel blend             28.9          0.71          28.5          0.0         0.31         0.00
        autoencoder             20.3 ± 2.2    0.76 ± 0.01   11.6 ± 2.5   24.4 ± 3.0   0.50 ± 0.04  0.16 ± 0.11
        noisy autoencoder       20.9 ± 1.0    0.76 ± 0.02   12.5 ± 2.1   22.3 ± 1.7   0.50 ± 0.04  0.13 ± 0.10
        VAE                     25.4 ± 1.6    0.72 ± 0.01   13.1 ± 3.0   15.9 ± 3.4   0.33 ± 0.02  0.04 ± 0.04
    moons_gap
        pixel blend             28.9          0.71          28.5          0.0         0.31         0.00
        autoencoder              6.2 ± 0.9    0.76 ± 0.01    4.5 ± 0.5   27.1 ± 0.6   0.57 ± 0.03  0.86 ± 0.06
        noisy autoencoder        6.3 ± 0.7    0.76 ± 0.01    4.9 ± 0.6   26.5 ± 0.4   0.56 ± 0.02  0.87 ± 0.05
        VAE                     11.2 ± 1.1    0.72 ± 0.01    6.7 ± 1.3   21.6 ± 1.0   0.39 ± 0.02  0.49 ± 0.10

    share of moons among the decodings of   N(0, I)       fitted codes  test codes
    moons_full_half     autoencoder         0.01 ± 0.01   0.70 ± 0.04   0.95 ± 0.01
                        noisy autoencoder   0.00 ± 0.00   0.72 ± 0.04   0.96 ± 0.01
                        VAE                 0.74 ± 0.04   0.78 ± 0.02   0.96 ± 0.01
    moons_gap           autoencoder         0.10 ± 0.03   0.75 ± 0.03   0.98 ± 0.01
                        noisy autoencoder   0.02 ± 0.01   0.74 ± 0.03   0.99 ± 0.00
                        VAE                 0.74 ± 0.05   0.82 ± 0.02   0.99 ± 0.01

Where the claim holds: with phases on both sides of the gap, both autoencoders put a true three-quarter moon half-way
for nearly nine pairs in ten, at the right phase though none like it was in the data; the VAE, whose decodings are the
softest, does for every second pair. Where it does not: seeing only half and full moons, no method has learned that
there is anything between. What it decodes half-way is neither a moon nor the blend of the pixels: in paths.png, a half
moon whose dark side fills with patches. The mean lit fraction of 0.72 to 0.76 there flatters: of a single pair it is
off by 0.11 on average for the VAE, by 0.08 for the autoencoders (with the gap: by 0.05 and 0.02). What the VAE's
penalty buys is not the path but the prior: about three quarters of what N(0, I) draws decodes to moons, a tenth or
less for the autoencoders, whose codes lie elsewhere; a Gaussian fitted to their codes makes up for most of it.
"""

import argparse
import functools
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vae_jax import data
from vae_jax.config import Config, DataConfig, ModelConfig, ObjectiveConfig, OptimizerConfig, TrainConfig, validate
from vae_jax.data import Moons, mean_image, moon_parameters, render_moons
from vae_jax.errors import VaeJaxError
from vae_jax.models import VAE, build_model
from vae_jax.runs import interpolate_linearly
from vae_jax.runtime import atomic_files
from vae_jax.training import init_state, make_loss, make_optimizer, make_train_step, train_steps

SETTINGS = ("moons_full_half", "moons_gap")
METHODS = {  # (posterior, objective)
    "autoencoder": ("deterministic", "reconstruction"),
    "noisy autoencoder": ("fixed-noise", "reconstruction"),
    "VAE": ("gaussian", "elbo"),
}
BLEND = "pixel blend"
FRAMES = 11
MIDDLE = FRAMES // 2
PHASES = np.linspace(0, 1, 101)  # the lit fractions, and the weights of blends, that are tried
UNSEEN = 12_000  # numbers of moons from here on are in no data set
CLAIMED, TOLERANCE = 0.75, 0.05


class Scale(NamedTuple):
    """How much is done."""

    seeds: int = 16
    steps: int = 1500
    pairs: int = 64
    codes: int = 128
    library: int = 20_000
    calibration: int = 2_000


QUICK = Scale(seeds=2, steps=20, pairs=4, codes=8, library=200, calibration=50)


# --- Training --------------------------------------------------------------------------------------------------------


@functools.cache
def make_program(method: str, steps: int, shape: tuple[int, int, int]) -> tuple[VAE, Callable]:
    """(model, program(seeds [S], images, their mean) -> (parameters, each leaf [S, ...], steps skipped [S, steps])).

    The program is a whole training of S seeds at once, compiled once for both settings.
    """
    posterior, objective = METHODS[method]
    config = validate(
        Config(
            data=DataConfig(binarization="none"),
            model=ModelConfig(hidden=(256, 128), latent_dim=8, activation="gelu", posterior=posterior),
            objective=ObjectiveConfig(name=objective),
            optimizer=OptimizerConfig(learning_rate=2e-3),
            train=TrainConfig(steps=steps, batch_size=64),
        )
    )
    model, optimizer = build_model(config.model, shape), make_optimizer(config.optimizer, steps)
    step = make_train_step(make_loss(model, config.objective, config.data), optimizer)
    run = functools.partial(train_steps, step=step, batch_size=config.train.batch_size, max_steps=steps)

    def program(seed: jax.Array, images: jax.Array, average: jax.Array) -> tuple[Any, jax.Array]:
        state = init_state(jax.random.key(seed), model=model, optimizer=optimizer, mean_image=average)
        state, metrics = run(state, images, steps)
        return state.params, metrics["skipped"]

    return model, jax.jit(jax.vmap(program, in_axes=(0, None, None)))


def train(method: str, images: np.ndarray, scale: Scale) -> tuple[VAE, Any]:
    """(model, its parameters after training, each leaf [S, ...]) for the seeds 0..S-1.

    Raises FloatingPointError where a step of a seed was not finite.
    """
    model, program = make_program(method, scale.steps, images.shape[1:])
    params, skipped = program(jnp.arange(scale.seeds), images, mean_image(images, binarization="none"))
    if np.any(skipped):
        raise FloatingPointError(f"{method}: a step was not finite")
    return model, params


@functools.partial(jax.jit, static_argnames="model")
def encode(params: Any, images: jax.Array, *, model: VAE) -> jax.Array:
    """The posterior means [S, N, D] of uint8 images [N, H, W, C], for parameters [S, ...]."""
    x = images.astype(jnp.float32) / 255
    return jax.vmap(lambda p: model.apply({"params": p}, x, method="encode").mean())(params)


@functools.partial(jax.jit, static_argnames="model")
def decode(params: Any, z: jax.Array, *, model: VAE) -> jax.Array:
    """The images [S, ..., H, W, C] in [0, 1] of codes [S, ..., D], for parameters [S, ...]."""
    return jax.vmap(lambda p, z: model.apply({"params": p}, z, method="decode").mean())(params, z)


# --- Measuring: images are floats in [0, 1] --------------------------------------------------------------------------


def squared_error(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Σ (x - y)² over the pixels of images [..., H, W, C] and [..., H, W, C]: [...]."""
    return np.sum((x - y) ** 2, axis=(-3, -2, -1))


def match(images: np.ndarray, family: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(number of the nearest, squared error to it), each [..., P]: images [..., P, H, W, C], each among its own F.

    `family` is [F, P, H, W, C]: member f of the family of pair p. |x - m|² = |x|² - 2 x·m + |m|², by matrix products.
    """
    count, pairs, lead = family.shape[0], family.shape[1], images.shape[:-4]
    x = images.reshape(-1, pairs, family[0, 0].size).swapaxes(0, 1)  # [P, M, pixels]
    m = family.reshape(count, pairs, -1).transpose(1, 2, 0)  # [P, pixels, F]
    errors = np.sum(x**2, axis=2)[..., None] - 2 * x @ m + np.sum(m**2, axis=1)[:, None]  # [P, M, F]
    nearest = errors.argmin(axis=2)
    least = np.take_along_axis(errors, nearest[..., None], axis=2)[..., 0]
    return nearest.T.reshape(*lead, pairs), np.maximum(least, 0).T.reshape(*lead, pairs)


def sharpness(images: np.ndarray, truth: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """Squared differences of neighbouring pixels in images [..., P, H, W, 1] over those in the truth [P, H, W, 1].

    Both are summed over the pixels of `inside`, bool [P, H, W]; returns [..., P].
    """

    def energy(x: np.ndarray) -> np.ndarray:
        x = x[..., 0]
        squares = np.diff(x, axis=-1)[..., :-1, :] ** 2 + np.diff(x, axis=-2)[..., :-1] ** 2
        return np.sum(squares * inside[:, :-1, :-1], axis=(-2, -1))

    return energy(images) / energy(truth)


def within_disc(moons: Moons, shape: tuple[int, int], share: float = 0.85) -> np.ndarray:
    """The pixels within `share` of the radius of each of N moons, bool [N, H, W]."""
    full = moons._replace(lit_fraction=np.ones_like(moons.radius), radius=share * moons.radius)
    return render_moons(full._replace(shading=np.zeros_like(moons.radius)), shape)[..., 0] == 255


def gaussian_of(codes: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """Draws [S, n, D] from N(mean, covariance) of codes [S, N, D] by standard normal `noise` [n, N].

    mean + Σ_i noise_i (z_i - mean) / sqrt(N): no factor of the covariance is needed, so unused latents do no harm.
    """
    mean = codes.mean(axis=1, keepdims=True)
    return mean + noise @ (codes - mean) / np.sqrt(np.float32(codes.shape[1]))


class Ruler:
    """The true moons that decodings are held against: the pairs, their families, and a library of all moons."""

    def __init__(self, scale: Scale, shape: tuple[int, int]):
        def drawn(moons: Moons) -> np.ndarray:
            return render_moons(moons, shape) / np.float32(255)

        pairs = moon_parameters(np.arange(UNSEEN, UNSEEN + scale.pairs))
        phases = [drawn(pairs._replace(lit_fraction=np.full(scale.pairs, f))) for f in PHASES]
        self.family = np.stack(phases)  # [F, P, H, W, 1]
        self.truth = self.family[[round(100 * (0.5 + 0.5 * t)) for t in np.linspace(0, 1, FRAMES)]]  # [T, P, ...]
        self.half, self.full = self.truth[0], self.truth[-1]
        self.blends = self.between(PHASES)
        self.inside = within_disc(pairs, shape)
        first = UNSEEN + scale.pairs
        self.library = drawn(moon_parameters(np.arange(first, first + scale.library)))  # [N, H, W, 1]
        others = drawn(moon_parameters(np.arange(first + scale.library, first + scale.library + scale.calibration)))
        self.threshold = float(np.quantile(self.nearest_moon(others)[1], 0.95))

    def between(self, weights: np.ndarray) -> np.ndarray:
        """The blends (1 - w) half + w full for weights [F]: [F, P, H, W, 1]."""
        w = weights.astype(np.float32)[:, None, None, None, None]
        return (1 - w) * self.half + w * self.full

    def nearest_moon(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(number of the nearest moon of the library, squared error to it), each [...], for images [..., H, W, 1]."""
        number, off = match(images[..., None, :, :, :], self.library[:, None])
        return number[..., 0], off[..., 0]

    def are_moons(self, images: np.ndarray) -> np.ndarray:
        """Which images [..., H, W, 1] count as moons: bool [...]."""
        number, off = self.nearest_moon(images)
        light = np.sum(self.library**2, axis=(1, 2, 3))  # [N]
        return (off < self.threshold) & (off < 0.5 * light[number])

    def measure(self, paths: np.ndarray) -> dict[str, np.ndarray]:
        """What the docstring names, for decoded paths [S, T, P, H, W, 1]: means over the pairs, [S, T] or [S]."""
        nearest, off_moon = match(paths, self.family)  # [S, T, P]
        lit, middle = PHASES[nearest], paths[:, MIDDLE]
        wanted = np.linspace(0.5, 1, FRAMES)[:, None]
        right = self.are_moons(middle) & (np.abs(lit[:, MIDDLE] - CLAIMED) < TOLERANCE + 1e-9)
        measured = {
            "error": squared_error(paths, self.truth),
            "lit": lit,
            "lit_error": np.abs(lit - wanted).mean(axis=1),
            "off_moon": off_moon,
            "off_blend": match(paths, self.blends)[1],
            "sharpness": sharpness(middle, self.truth[MIDDLE], self.inside),
            "claim": right.astype(float),
        }
        return {name: values.mean(axis=-1) for name, values in measured.items()}


# --- The study -------------------------------------------------------------------------------------------------------


def study(scale: Scale, data_dir: str | None) -> tuple[dict[str, Any], dict[str, dict[str, np.ndarray]]]:
    """(results, {setting: {row: path of the first seed and pair, [T, H, W, 1]}}), training all that is compared."""
    results: dict[str, Any] = {"scale": scale._asdict(), "settings": {}}
    pictures: dict[str, dict[str, np.ndarray]] = {}
    ruler = None
    for setting in SETTINGS:
        images = data.load(setting, "train", data_dir=data_dir, holdout=0)
        test = data.load(setting, "test", data_dir=data_dir)
        ruler = ruler or Ruler(scale, images.shape[1:3])
        blend = ruler.between(np.linspace(0, 1, FRAMES))
        rows = {BLEND: {name: summary(values) for name, values in ruler.measure(blend[None]).items()}}
        pictures[setting] = {"truth": ruler.truth[:, 0], BLEND: blend[:, 0]}
        for method in METHODS:
            start = time.perf_counter()
            model, params = train(method, images, scale)
            seconds = time.perf_counter() - start
            paths, shares = explore(model, params, ruler, test, scale.codes)
            measured = ruler.measure(paths) | shares
            rows[method] = {name: summary(values) for name, values in measured.items()} | {"seconds": seconds}
            pictures[setting][method] = paths[0, :, 0]
            print(f"{setting}, {method}: trained in {seconds:.0f} s", file=sys.stderr, flush=True)
        results["settings"][setting] = rows
    return results | {"threshold": ruler.threshold}, pictures


def explore(model: VAE, params: Any, ruler: Ruler, test: np.ndarray, num_codes: int) -> tuple[np.ndarray, dict]:
    """(decoded paths [S, T, P, H, W, 1], shares of random and of test codes that decode to moons, [S])."""
    to_code = functools.partial(encode, params, model=model)
    to_image = lambda z: np.asarray(decode(params, z, model=model))  # noqa: E731
    ends = [np.asarray(to_code(np.rint(255 * end).astype(np.uint8))) for end in (ruler.half, ruler.full)]  # [S, P, D]
    lines = np.stack(
        [interpolate_linearly(*pair, FRAMES).swapaxes(0, 1) for pair in zip(*ends, strict=True)]
    )  # [S, T, P, D]
    codes = np.asarray(to_code(test))  # [S, N, D]
    random = np.random.default_rng(0)
    noise = random.standard_normal((num_codes, codes.shape[1]), np.float32)
    drawn = {
        "moons_prior": random.standard_normal((codes.shape[0], num_codes, codes.shape[2]), np.float32),
        "moons_fitted": gaussian_of(codes, noise),
        "moons_reconstructed": codes[:, :num_codes],
    }
    return to_image(lines), {name: ruler.are_moons(to_image(z)).mean(axis=1) for name, z in drawn.items()}


def summary(values: np.ndarray) -> dict[str, Any]:
    """{"mean", "sd"} over the seeds, values [S, ...]; the divisor of the variance is S - 1, and one seed has none."""
    return {"mean": values.mean(axis=0).tolist(), "sd": values.std(axis=0, ddof=min(1, len(values) - 1)).tolist()}


# --- What people look at ---------------------------------------------------------------------------------------------

COLUMNS = {  # heading: (measure, at the middle of the path?, digits)
    "error": ("error", True, 1),
    "lit": ("lit", True, 2),
    "error of lit, whole path": ("lit_error", False, 3),
    "off a moon": ("off_moon", True, 1),
    "off a blend": ("off_blend", True, 1),
    "sharpness": ("sharpness", False, 2),
    "claim": ("claim", False, 2),
    "moons of N(0, I)": ("moons_prior", False, 2),
    "of fitted codes": ("moons_fitted", False, 2),
    "reconstructed": ("moons_reconstructed", False, 2),
}


def table(results: dict[str, Any]) -> str:
    """The results in Markdown: a table for each setting, a row for each method, mean ± sd over the seeds."""
    lines = []
    for setting, rows in results["settings"].items():
        lines += [f"### {setting}", "", f"| method | {' | '.join(COLUMNS)} |", "|---" * (len(COLUMNS) + 1) + "|"]
        lines += [f"| {' | '.join([row, *cells(measured, row == BLEND)])} |" for row, measured in rows.items()] + [""]
    scale = results["scale"]
    lines.append(
        f"Mean ± standard deviation over {scale['seeds']} seeds of the means over {scale['pairs']} pairs; at the "
        f"middle of the path unless it says otherwise. An image whose squared error to the library is below "
        f"{results['threshold']:.1f} counts as a moon. `claim` is the share of pairs whose middle is a moon lit to "
        f"{CLAIMED} ± {TOLERANCE}."
    )
    return "\n".join(lines) + "\n"


def cells(measured: dict[str, Any], single: bool) -> list[str]:
    """The cells of one row of the table; `single` has no seeds to vary over."""

    def cell(name: str, middle: bool, digits: int) -> str:
        if name not in measured:
            return ""
        mean, sd = (np.asarray(measured[name][part]) for part in ("mean", "sd"))
        mean, sd = (mean[MIDDLE], sd[MIDDLE]) if middle else (mean, sd)
        return f"{mean:.{digits}f}" if single else f"{mean:.{digits}f} ± {sd:.{digits}f}"

    return [cell(*column) for column in COLUMNS.values()]


def draw_paths(path: Path, pictures: dict[str, dict[str, np.ndarray]]) -> None:
    """For each setting, a row for each method: the path from the half moon to the full one, first seed, first pair."""
    from matplotlib.figure import Figure

    rows = next(iter(pictures.values()))
    figure = Figure(figsize=(11, 0.95 * len(rows) * len(pictures) + 1), dpi=110, layout="constrained")
    for panel, (setting, found) in zip(figure.subfigures(len(pictures), 1), pictures.items(), strict=True):
        panel.suptitle(setting)
        for axes, (row, frames) in zip(panel.subplots(len(found), 1), found.items(), strict=True):
            gapped = np.pad(frames[..., 0], ((0, 0), (0, 0), (0, 2)), constant_values=1)  # [T, H, W + 2]
            axes.imshow(np.concatenate(gapped, axis=1)[:, :-2], cmap="gray", vmin=0, vmax=1)
            axes.set_ylabel(row, rotation=0, ha="right", va="center")
            axes.set(xticks=[], yticks=[], frame_on=False)
        width = gapped.shape[2]
        axes.set_xticks(width * np.arange(len(frames)) + (width - 2) / 2)
        axes.set_xticklabels([f"t = {t:.1f}" for t in np.linspace(0, 1, len(frames))])
        axes.tick_params(length=0)
    atomic_files.write_file(path, functools.partial(figure.savefig, format="png"))


def draw_curves(path: Path, results: dict[str, Any]) -> None:
    """A row of panels for each setting: squared error, lit fraction and residual along the path, ± sd over seeds."""
    from matplotlib.figure import Figure

    panels = {
        "error": "squared error to the true moon",
        "lit": "lit fraction of the nearest moon",
        "off_moon": "squared error to the nearest moon",
    }
    t = np.linspace(0, 1, FRAMES)
    figure = Figure(figsize=(12, 3.4 * len(results["settings"])), dpi=110, layout="constrained")
    grid = figure.subplots(len(results["settings"]), len(panels), squeeze=False)
    for line, (setting, rows) in zip(grid, results["settings"].items(), strict=True):
        for axes, (name, title) in zip(line, panels.items(), strict=True):
            for row, measured in rows.items():
                mean, sd = (np.asarray(measured[name][part]) for part in ("mean", "sd"))
                (curve,) = axes.plot(t, mean, label=row, linestyle=":" if row == BLEND else "-")
                axes.fill_between(t, mean - sd, mean + sd, alpha=0.2, color=curve.get_color())
            if name == "lit":
                axes.plot(t, 0.5 + 0.5 * t, color="black", linewidth=0.8, label="truth")
            axes.set(title=f"{setting}: {title}", xlabel="t, from half to full")
            axes.title.set_fontsize(9)
            axes.grid(alpha=0.3)
    grid[0][1].legend(fontsize=8)
    atomic_files.write_file(path, functools.partial(figure.savefig, format="png"))


def main(argv: list[str] | None = None) -> None:
    """Trains, measures, writes the figures and tables, and prints one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--output", type=Path, help="runs/moon_phases, or runs/moon_phases-quick, if not given")
    parser.add_argument("--quick", action="store_true", help="two seeds of twenty steps: does it run at all?")
    parser.add_argument("--data-dir", help="where data sets are")
    asked = parser.parse_args(argv)
    output = asked.output or Path("runs/moon_phases-quick" if asked.quick else "runs/moon_phases")
    try:
        atomic_files.check_writable(output, "--output")
        results, pictures = study(QUICK if asked.quick else Scale(), asked.data_dir)
        atomic_files.write_json(output / "results.json", results)
        atomic_files.write_file(output / "table.md", lambda file: file.write(table(results).encode()))
        draw_paths(output / "paths.png", pictures)
        draw_curves(output / "curves.png", results)
    except VaeJaxError as error:
        raise SystemExit(str(error)) from None
    print(json.dumps(results))


if __name__ == "__main__":
    main()
