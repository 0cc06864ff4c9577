"""The signal-to-noise ratio (SNR) of the encoder's gradient against the number of samples K of the IWAE bound.

    vae-jax data prepare mnist
    python experiments/gradient_snr.py

As K grows, the IWAE bound tightens and its gradient with respect to the decoder improves. The gradient with respect to
the encoder vanishes as 1/K, and its standard deviation only as 1/sqrt(K). Its SNR therefore falls as 1/sqrt(K), until
the encoder is trained on noise (Rainforth et al., arXiv 1802.04537). Two other estimators of the same gradient pass it
through the samples only: sticking the landing (Roeder et al., arXiv 1703.09194), which is biased for K > 1, and the
doubly reparameterized estimator (Tucker et al., arXiv 1810.04152), which is unbiased and whose SNR does not fall. These
powers of K hold for many samples with nearly equal weights, for example in a linear-Gaussian model
(tests/inference/test_estimators.py).

One VAE is trained on IWAE with K = 8. Then its parameters and a batch of images are held fixed. For each K and each
estimator, the gradient of the IWAE bound with respect to all encoder parameters is sampled many times
(`gradient_statistics`):

    SNR          ‖E g‖ / sqrt(Σ Var g), over all parameters of the encoder; of the decoder too, for comparison
    bias         ‖E g - E g'‖ / ‖E g'‖ with g' doubly reparameterized: the relative error of the mean gradient

In both, the variance of the estimated means is subtracted from their squares; g and g' use the same codes. A slope is
that of log SNR against log K for K >= 4.

Output in DIR (runs/gradient_snr): gradient_snr.png, gradient_snr.md, gradient_snr.json.

Time: 625 s on two cores that two trainings shared (2026-11-27, Intel Xeon, Python 3.11.7, jax 0.10.2).
Results of that run, MNIST, SNR of the encoder's gradient:

| K | pathwise | sticking-the-landing | doubly-reparameterized | bias of sticking-the-landing | decoder, pathwise |
|---|---|---|---|---|---|
| 1 | 0.571 | 0.768 | 0.768 | 0.000 | 2.73 |
| 2 | 0.424 | 0.718 | 0.648 | 0.202 | 3.29 |
| 4 | 0.379 | 0.835 | 0.671 | 0.588 | 4.44 |
| 8 | 0.293 | 0.992 | 0.690 | 1.389 | 5.97 |
| 16 | 0.204 | 1.246 | 0.718 | 3.113 | 8.04 |
| 32 | 0.166 | 1.657 | 0.883 | 6.418 | 10.92 |
| 64 | 0.105 | 2.394 | 1.061 | 12.016 | 14.82 |
| 128 | 0.073 | 3.353 | 1.360 | 24.066 | 20.95 |
| slope | -0.47 | 0.41 | 0.21 | | |

From 1 sample to 128, the pathwise SNR falls by a factor of eight, while that of the doubly reparameterized estimator
rises. The gain of sticking the landing is bias, not signal: with 128 samples, the error of its mean is 24 times the
norm of the true gradient.
"""

import argparse
import functools
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vae_jax.config import PRESETS, Config, override
from vae_jax.errors import VaeJaxError
from vae_jax.inference import (
    GradientStatistics,
    Params,
    doubly_reparameterized,
    gradient_statistics,
    iwae,
    negative_bound,
    pathwise,
    signal_to_noise,
    sticking_the_landing,
)
from vae_jax.models import VAE
from vae_jax.runs import build_experiment
from vae_jax.runtime import atomic_files

ESTIMATORS = {
    "pathwise": pathwise,
    "sticking-the-landing": sticking_the_landing,
    "doubly-reparameterized": doubly_reparameterized,
}
DECODER = ("decoder", "output_bias")
UNBIASED = "doubly-reparameterized"


class Scale(NamedTuple):
    """The amount of computation."""

    num_samples: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64, 128)
    gradients: int = 400  # sampled for each K and estimator
    chunk: int = 20  # gradients computed at a time
    images: int = 4  # in the fixed batch


MODEL = {"network__hidden": (200,), "model__latent_dim": 4, "objective": "iwae", "objective__num_samples": 8,
         "estimator": "pathwise", "preprocess": "dynamic-binarization", "train__log_every": 100,
         "train__save_every": 100, "train__evaluate_every": 0}  # fmt: skip
FULL = MODEL | {"train__steps": 1500}
QUICK = MODEL | {"network__hidden": (32,), "train__steps": 200}


def train_model(config: Config) -> tuple[VAE, Params, jax.Array]:
    """Train a model; return (model, parameters, binarized held-out images)."""
    experiment = build_experiment(config)
    state, _ = jax.jit(experiment.train)(experiment.key, experiment.training_data.read_all())
    held_out = experiment.preprocess(jax.random.key(config.seed + 1), experiment.dataset("validation").arrays)
    return experiment.model, state.params, held_out["x"]


def statistics_of(
    model: VAE,
    params: Params,
    x: jax.Array,
    *,
    estimator: str,
    subtract: str | None = None,
    num_samples: int,
    scale: Scale,
) -> GradientStatistics:
    """Return moments of the gradient of minus the IWAE bound with respect to all parameters.

    With `subtract`, they are those of the difference to the gradient of another estimator with the same codes.
    """

    def loss_of(name: str, params: Params, key: jax.Array) -> jax.Array:
        settings = {"objective": iwae, "num_samples": num_samples, "estimator": ESTIMATORS[name]}
        return negative_bound(params, key, {"x": x}, model=model, **settings)[0]

    def loss(params: Params, key: jax.Array) -> jax.Array:
        return loss_of(estimator, params, key) - (0 if subtract is None else loss_of(subtract, params, key))

    keys = jax.random.split(jax.random.key(num_samples), scale.gradients)
    return jax.jit(lambda keys: gradient_statistics(loss, params, keys, chunk=scale.chunk))(keys)


def part(statistics: GradientStatistics, *, decoder: bool) -> GradientStatistics:
    """Select the statistics of the decoder's parameters, or of the encoder's."""
    keep = lambda tree: {name: leaf for name, leaf in tree.items() if (name in DECODER) == decoder}  # noqa: E731
    return GradientStatistics(*(None if tree is None else keep(tree) for tree in statistics))


def relative_bias(difference: GradientStatistics, unbiased: GradientStatistics, count: int) -> float:
    """Compute ‖E (g - g')‖ / ‖E g'‖ from statistics of g - g' and g', without the variance of the means."""

    def signal(statistics: GradientStatistics) -> float:
        squares = sum(float(jnp.sum(leaf**2)) for leaf in jax.tree.leaves(statistics.mean))
        return squares - sum(float(jnp.sum(leaf)) for leaf in jax.tree.leaves(statistics.variance)) / count

    return float(np.sqrt(max(signal(difference), 0.0) / max(signal(unbiased), 1e-30)))


def measure(model: VAE, params: Params, x: jax.Array, scale: Scale) -> list[dict[str, Any]]:
    """Return a row for each estimator and K: SNR of encoder and decoder, and the bias of the encoder's gradient."""
    rows = []
    for k in scale.num_samples:
        compute = functools.partial(statistics_of, model, params, x, num_samples=k, scale=scale)
        measured = {name: compute(estimator=name) for name in ESTIMATORS}
        for name, statistics in measured.items():
            encoder, bias = part(statistics, decoder=False), None
            if name != UNBIASED:
                difference = compute(estimator=name, subtract=UNBIASED)
                pair = (part(s, decoder=False) for s in (difference, measured[UNBIASED]))
                bias = relative_bias(*pair, scale.gradients)
            rows.append(
                {
                    "estimator": name,
                    "num_samples": k,
                    "encoder_snr": float(signal_to_noise(encoder, scale.gradients)),
                    "decoder_snr": float(signal_to_noise(part(statistics, decoder=True), scale.gradients)),
                    "encoder_bias": bias,
                }
            )
        print(f"K = {k}: " + ", ".join(f"{r['estimator']} {r['encoder_snr']:.3g}" for r in rows[-3:]), file=sys.stderr)
    return rows


def slopes(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Fit log SNR of the encoder against log K for K >= 4; estimators with fewer than two SNRs above 0 are omitted."""
    result = {}
    for name in ESTIMATORS:
        points = np.array(
            [(r["num_samples"], r["encoder_snr"]) for r in rows
             if r["estimator"] == name and r["num_samples"] >= 4 and r["encoder_snr"] > 0]
        )  # fmt: skip
        if len(points) > 1:
            result[name] = float(np.polyfit(*np.log(points.T), 1)[0])
    return result


def table(rows: list[dict[str, Any]], slope: dict[str, float]) -> str:
    """Return the encoder's SNR and the bias of sticking the landing as a Markdown table with a line for each K."""
    lines = [f"| K | {' | '.join(ESTIMATORS)} | bias of sticking-the-landing | decoder, pathwise |", "|---" * 6 + "|"]
    for k in sorted({row["num_samples"] for row in rows}):
        at = {row["estimator"]: row for row in rows if row["num_samples"] == k}
        cells = [f"{at[name]['encoder_snr']:.3f}" for name in ESTIMATORS]
        cells += [f"{at['sticking-the-landing']['encoder_bias']:.3f}", f"{at['pathwise']['decoder_snr']:.2f}"]
        lines.append(f"| {k} | {' | '.join(cells)} |")
    lines.append("| slope | " + " | ".join(f"{slope[r]:.2f}" if r in slope else "" for r in ESTIMATORS) + " | | |")
    return "\n".join(lines) + "\n"


def plot(path: Path, rows: list[dict[str, Any]]) -> None:
    """Plot the encoder's SNR against K on log scales, with a line for each estimator."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.2), dpi=110, layout="constrained")
    axes = figure.add_subplot()
    for name in ESTIMATORS:
        points = [(r["num_samples"], r["encoder_snr"]) for r in rows if r["estimator"] == name and r["encoder_snr"] > 0]
        if points:
            axes.plot(*zip(*points, strict=True), marker="o", markersize=4, label=name)
    axes.set(xscale="log", yscale="log", xlabel="number of samples K", ylabel="SNR of the encoder's gradient")
    axes.set_title("Gradients of the IWAE bound")
    axes.grid(alpha=0.3, which="both")
    axes.legend()
    atomic_files.write_file(path, lambda file: FigureCanvasAgg(figure).print_png(file))


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Train and measure; write the figure and the table, print the table, and return the content of the JSON file."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--quick", action="store_true", help="small digits and few gradients, to test the code in seconds"
    )
    parser.add_argument("--data-dir", help="folder of prepared data sets")
    parser.add_argument("--output", type=Path, help="default: runs/gradient_snr, or runs/gradient_snr-quick")
    options = parser.parse_args(argv)
    output = options.output or Path("runs/gradient_snr-quick" if options.quick else "runs/gradient_snr")
    scale = Scale((1, 16), gradients=40, chunk=20, images=4) if options.quick else Scale()
    started = time.perf_counter()
    try:
        atomic_files.check_writable(output, "--output")
        base = PRESETS["digits" if options.quick else "mnist"]
        config = override(base, data__data_dir=options.data_dir, **(QUICK if options.quick else FULL))
        model, params, x = train_model(config)
        rows = measure(model, params, x[: scale.images], scale)
        slope = slopes(rows)
        plot(output / "gradient_snr.png", rows)
        text = table(rows, slope)
        atomic_files.write_file(output / "gradient_snr.md", lambda file: file.write(text.encode()))
        result = {"data": config.data.name, "scale": scale._asdict(), "slopes": slope, "rows": rows}
        atomic_files.write_json(output / "gradient_snr.json", result)
    except VaeJaxError as error:
        raise SystemExit(str(error)) from None
    print(f"{text}\n{time.perf_counter() - started:.0f} s", file=sys.stderr)
    return result


if __name__ == "__main__":
    print(json.dumps(main()))
