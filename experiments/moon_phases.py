"""Interpolation between the codes of a half moon and a full moon: is the midpoint a three-quarter moon, or a blend?

A claim often made in lectures: an autoencoder learns the concept of a moon, and therefore the midpoint between the
codes of a half moon and a full moon decodes to a three-quarter moon. This experiment tests the claim on images with
known truth, moons of 32x32 pixels that `vae_jax.data.moons` renders from their phase, tilt, size, position and shading.

    moons_full_half   the training images are half and full moons only, so that no three-quarter moon is among them
    moons_gap         the training images have all phases from 0.1 to 1, except lit fractions from 0.65 to 0.85

    autoencoder         posterior deterministic, objective reconstruction
    noisy autoencoder   posterior fixed-noise (its scale is 1, and nothing bounds the codes), objective reconstruction
    VAE                 posterior gaussian, objective elbo
    pixel blend         (1 - t) half + t full, without a model

Each model is a 1024-256-128-8 MLP and its mirror. The reconstruction is the cross entropy of the pixels' intensities.
Each is trained for 1500 steps with batches of 64 and Adam. The 16 seeds of one setting and method (weights, order of
the data, noise) are one program: `jax.vmap` over `init_state` and `train_steps` of the library.

The metrics are measured on 64 pairs of a half and a full moon, equal except for the phase, that no training contains.
The codes (posterior means) of a pair are joined by a straight line, and its points at t = 0, 0.1, ..., 1 are decoded:

    error        squared error, summed over the pixels, to the true moon of lit fraction 0.5 + 0.5 t
    lit          lit fraction of the nearest moon in squared error, among the moons with the pair's tilt, size,
                 position and shading and the lit fractions 0, 0.01, ..., 1. (The sum of the pixels is no substitute:
                 it grows along a blend exactly as along the moons.) An even blend has the same distance to all phases
                 from half to full, so that the lit fraction along a blend jumps from 0.5 to 1
    off a moon   squared error to that nearest moon: the part that no phase explains
    off a blend  squared error to the nearest of the blends (1 - w) half + w full, w = 0, 0.01, ..., 1
    sharpness    sum of the squared differences of neighboring pixels inside the disc (within 0.85 of its radius, where
                 the terminator is the only edge), divided by that of the true moon: 1 is as sharp, and an edge of half
                 the contrast has a quarter
    moons        share of random codes that decode to a moon, for 128 codes of each seed from N(0, I) (the prior of the
                 VAE) and from the Gaussian with the mean and covariance of the test images' codes.
                 An image counts as a moon if its squared error to the nearest of 20,000 random moons of all phases,
                 tilts, sizes, positions and shadings is below a threshold, and below half of that of a black image
                 (so that a dark image does not count as a thin crescent). The threshold is the 95 % quantile over 2,000
                 other true moons. For comparison: the share of reconstructed test images that count
    claim        share of the pairs for which the claim is true: the decoded midpoint, t = 0.5, counts as a moon, and
                 its lit fraction is within 0.05 of 0.75

    python experiments/moon_phases.py --output runs/moon_phases

The output folder contains paths.png, curves.png, table.md and results.json; the results are printed as one line of
JSON.

Time: 11 minutes on two cores of an AMD EPYC; 33 minutes on two cores of an Intel Xeon that two trainings shared, with
the same results (2026-11-27, Python 3.11.7, jax 0.10.2).
Results (mean ± standard deviation over the seeds, at t = 0.5; a decoded image with a squared error below 7.4 counts as
a moon):

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

    share of moons among decoded codes of   N(0, I)       fitted codes  test codes
    moons_full_half     autoencoder         0.01 ± 0.01   0.70 ± 0.04   0.95 ± 0.01
                        noisy autoencoder   0.00 ± 0.00   0.72 ± 0.04   0.96 ± 0.01
                        VAE                 0.74 ± 0.04   0.78 ± 0.02   0.96 ± 0.01
    moons_gap           autoencoder         0.10 ± 0.03   0.75 ± 0.03   0.98 ± 0.01
                        noisy autoencoder   0.02 ± 0.01   0.74 ± 0.03   0.99 ± 0.00
                        VAE                 0.74 ± 0.05   0.82 ± 0.02   0.99 ± 0.01

The claim holds if the training images have phases on both sides of the gap: both autoencoders decode the midpoint of
nearly nine pairs in ten to a three-quarter moon of the right phase, although the data contain none. The VAE, whose
decoded images are the least sharp, does so for every second pair. The claim does not hold if the training images are
half and full moons only. No method then learns that there are intermediate phases. The decoded midpoint is neither a
moon nor the blend of the pixels: in paths.png, it is a half moon with patches on its dark side. The mean lit fraction
of 0.72 to 0.76 is misleading there: for a single pair, its mean error is 0.11 for the VAE and 0.08 for the autoencoders
(with the gap: 0.05 and 0.02). The VAE's KL improves the samples from the prior, not the path: about three quarters of
the samples from N(0, I) decode to moons. For the autoencoders, whose codes have another distribution, it is a tenth or
less, and a Gaussian fitted to their codes recovers most of the difference.
"""

import argparse
import functools
import json
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from moon_metrics import CLAIMED, FRAMES, MIDDLE, TOLERANCE, MoonMetrics, gaussian_of

from vae_jax import data, inference
from vae_jax.config import Config, override
from vae_jax.distributions import from_values
from vae_jax.errors import VaeJaxError
from vae_jax.models import VAE
from vae_jax.runs import build_experiment, interpolate_linearly
from vae_jax.runtime import atomic_files

SETTINGS = ("moons_full_half", "moons_gap")
METHODS = {  # (posterior, objective)
    "autoencoder": ("deterministic", "reconstruction"),
    "noisy autoencoder": ("fixed-noise", "reconstruction"),
    "VAE": ("gaussian", "elbo"),
}
BLEND = "pixel blend"


class Scale(NamedTuple):
    """The amount of computation."""

    seeds: int = 16
    steps: int = 1500
    pairs: int = 64  # of a half and a full moon
    codes: int = 128  # decoded for each seed and distribution
    library: int = 20_000  # moons that define what counts as a moon
    calibration: int = 2_000  # moons that determine the threshold


QUICK = Scale(seeds=2, steps=20, pairs=4, codes=8, library=200, calibration=50)


# --- Training --------------------------------------------------------------------------------------------------------


def train(method: str, images: np.ndarray, scale: Scale) -> tuple[VAE, Any]:
    """Train the seeds 0..S-1 in one program; return (model, parameters, each leaf [S, ...]).

    Raises:
      FloatingPointError: a step of a seed was not finite.
    """
    posterior, objective = METHODS[method]
    config = override(
        Config(), preprocess="scale", network__hidden=(256, 128), network__activation="gelu", model__latent_dim=8,
        posterior=posterior, objective=objective, optimizer__learning_rate=2e-3, train__steps=scale.steps,
        train__batch_size=64,
    )  # fmt: skip
    experiment = build_experiment(config, source=data.from_arrays(images, holdout=0))
    examples = experiment.training_data.read_all()
    program = jax.vmap(lambda seed, examples: experiment.train(jax.random.key(seed), examples), in_axes=(0, None))
    state, metrics = jax.jit(program)(jnp.arange(scale.seeds), examples)
    if np.any(metrics["skipped"]):
        raise FloatingPointError(f"{method}: a step was not finite")
    return experiment.model, state.params


@functools.partial(jax.jit, static_argnames="model")
def encode(params: Any, images: jax.Array, *, model: VAE) -> jax.Array:
    """Return the posterior means [S, N, D] of uint8 images [N, H, W, C], for parameters [S, ...]."""
    x = images.astype(jnp.float32) / 255
    return jax.vmap(lambda p: inference.encode(p, {"x": x}, model=model).mean())(params)


@functools.partial(jax.jit, static_argnames="model")
def decode(params: Any, z: jax.Array, *, model: VAE) -> jax.Array:
    """Decode codes [S, ..., D] to images [S, ..., H, W, C] in [0, 1], with parameters [S, ...]."""
    return jax.vmap(lambda p, z: inference.decode(p, from_values({"z": z}), model=model)[0].mean())(params, z)


# --- Experiment ------------------------------------------------------------------------------------------------------


def run_experiment(scale: Scale, data_dir: str | None) -> tuple[dict[str, Any], dict[str, dict[str, np.ndarray]]]:
    """Train all models; return (results, {setting: {row: images on the path of the first seed and pair}}).

    The images of a path are [T, H, W, 1].
    """
    results: dict[str, Any] = {"scale": scale._asdict(), "settings": {}}
    frames: dict[str, dict[str, np.ndarray]] = {}
    metrics = None
    for setting in SETTINGS:
        images = data.load(setting, "train", data_dir=data_dir, holdout=0)
        test = data.load(setting, "test", data_dir=data_dir)
        metrics = metrics or MoonMetrics(
            images.shape[1:3], pairs=scale.pairs, library=scale.library, calibration=scale.calibration
        )
        blend = metrics.blend(np.linspace(0, 1, FRAMES))
        rows = {BLEND: {name: summary(values) for name, values in metrics.measure(blend[None]).items()}}
        frames[setting] = {"truth": metrics.truth[:, 0], BLEND: blend[:, 0]}
        for method in METHODS:
            start = time.perf_counter()
            model, params = train(method, images, scale)
            seconds = time.perf_counter() - start
            paths, shares = decode_paths(model, params, metrics, test, scale.codes)
            measured = metrics.measure(paths) | shares
            rows[method] = {name: summary(values) for name, values in measured.items()} | {"seconds": seconds}
            frames[setting][method] = paths[0, :, 0]
            print(f"{setting}, {method}: trained in {seconds:.0f} s", file=sys.stderr, flush=True)
        results["settings"][setting] = rows
    return results | {"threshold": metrics.threshold}, frames


def decode_paths(
    model: VAE, params: Any, metrics: MoonMetrics, test: np.ndarray, num_codes: int
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Return (decoded paths [S, T, P, H, W, 1], shares of random and of test codes that decode to moons, [S])."""
    to_code = functools.partial(encode, params, model=model)
    to_image = lambda z: np.asarray(decode(params, z, model=model))  # noqa: E731
    ends = [
        np.asarray(to_code(np.rint(255 * end).astype(np.uint8))) for end in (metrics.half, metrics.full)
    ]  # [S, P, D]
    lines = np.stack(
        [interpolate_linearly(*pair, FRAMES).swapaxes(0, 1) for pair in zip(*ends, strict=True)]
    )  # [S, T, P, D]
    codes = np.asarray(to_code(test))  # [S, N, D]
    random = np.random.default_rng(0)
    noise = random.standard_normal((num_codes, codes.shape[1]), np.float32)
    sampled = {
        "moons_prior": random.standard_normal((codes.shape[0], num_codes, codes.shape[2]), np.float32),
        "moons_fitted": gaussian_of(codes, noise),
        "moons_reconstructed": codes[:, :num_codes],
    }
    return to_image(lines), {name: metrics.are_moons(to_image(z)).mean(axis=1) for name, z in sampled.items()}


def summary(values: np.ndarray) -> dict[str, Any]:
    """Return {"mean", "sd"} over the seeds of values [S, ...]; the variance has divisor S - 1, or 1 for one seed."""
    return {"mean": values.mean(axis=0).tolist(), "sd": values.std(axis=0, ddof=min(1, len(values) - 1)).tolist()}


# --- Table and figures -----------------------------------------------------------------------------------------------

COLUMNS = {  # heading: (metric, whether at the midpoint of the path, decimal places)
    "error": ("error", True, 1),
    "lit": ("lit", True, 2),
    "error of lit, mean over the path": ("lit_error", False, 3),
    "off a moon": ("off_moon", True, 1),
    "off a blend": ("off_blend", True, 1),
    "sharpness": ("sharpness", False, 2),
    "claim": ("claim", False, 2),
    "moons of N(0, I)": ("moons_prior", False, 2),
    "of fitted codes": ("moons_fitted", False, 2),
    "reconstructed": ("moons_reconstructed", False, 2),
}


def table(results: dict[str, Any]) -> str:
    """Return the results in Markdown: a table for each setting, a row for each method, mean ± sd over the seeds."""
    lines = []
    for setting, rows in results["settings"].items():
        lines += [f"### {setting}", "", f"| method | {' | '.join(COLUMNS)} |", "|---" * (len(COLUMNS) + 1) + "|"]
        lines += [f"| {' | '.join([row, *cells(measured, row == BLEND)])} |" for row, measured in rows.items()] + [""]
    scale = results["scale"]
    lines.append(
        f"Mean ± standard deviation over {scale['seeds']} seeds of the means over {scale['pairs']} pairs, at the "
        f"midpoint of the path unless stated otherwise. An image whose squared error to the library is below "
        f"{results['threshold']:.1f} counts as a moon. `claim` is the share of pairs whose midpoint is a moon with a "
        f"lit fraction of {CLAIMED} ± {TOLERANCE}."
    )
    return "\n".join(lines) + "\n"


def cells(measured: dict[str, Any], single: bool) -> list[str]:
    """Return the cells of one row of the table, without standard deviations if it is `single`."""

    def cell(name: str, middle: bool, digits: int) -> str:
        if name not in measured:
            return ""
        mean, sd = (np.asarray(measured[name][part]) for part in ("mean", "sd"))
        mean, sd = (mean[MIDDLE], sd[MIDDLE]) if middle else (mean, sd)
        return f"{mean:.{digits}f}" if single else f"{mean:.{digits}f} ± {sd:.{digits}f}"

    return [cell(*column) for column in COLUMNS.values()]


def plot_paths(path: Path, settings: dict[str, dict[str, np.ndarray]]) -> None:
    """Plot the path from the half to the full moon, of the first seed and pair, for each setting and method."""
    from matplotlib.figure import Figure

    rows = next(iter(settings.values()))
    figure = Figure(figsize=(11, 0.95 * len(rows) * len(settings) + 1), dpi=110, layout="constrained")
    for panel, (setting, paths) in zip(figure.subfigures(len(settings), 1), settings.items(), strict=True):
        panel.suptitle(setting)
        for axes, (row, frames) in zip(panel.subplots(len(paths), 1), paths.items(), strict=True):
            gapped = np.pad(frames[..., 0], ((0, 0), (0, 0), (0, 2)), constant_values=1)  # [T, H, W + 2]
            axes.imshow(np.concatenate(gapped, axis=1)[:, :-2], cmap="gray", vmin=0, vmax=1)
            axes.set_ylabel(row, rotation=0, ha="right", va="center")
            axes.set(xticks=[], yticks=[], frame_on=False)
        width = gapped.shape[2]
        axes.set_xticks(width * np.arange(len(frames)) + (width - 2) / 2)
        axes.set_xticklabels([f"t = {t:.1f}" for t in np.linspace(0, 1, len(frames))])
        axes.tick_params(length=0)
    atomic_files.write_file(path, functools.partial(figure.savefig, format="png"))


def plot_curves(path: Path, results: dict[str, Any]) -> None:
    """Plot squared error, lit fraction and residual along the path, ± sd over seeds, in a row for each setting."""
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
    """Run the experiment, write the figures and the table, and print one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--output", type=Path, help="default: runs/moon_phases, or runs/moon_phases-quick")
    parser.add_argument("--quick", action="store_true", help="two seeds of twenty steps, to test the code")
    parser.add_argument("--data-dir", help="folder of data sets")
    options = parser.parse_args(argv)
    output = options.output or Path("runs/moon_phases-quick" if options.quick else "runs/moon_phases")
    try:
        atomic_files.check_writable(output, "--output")
        results, frames = run_experiment(QUICK if options.quick else Scale(), options.data_dir)
        atomic_files.write_json(output / "results.json", results)
        atomic_files.write_file(output / "table.md", lambda file: file.write(table(results).encode()))
        plot_paths(output / "paths.png", frames)
        plot_curves(output / "curves.png", results)
    except VaeJaxError as error:
        raise SystemExit(str(error)) from None
    print(json.dumps(results))


if __name__ == "__main__":
    main()
