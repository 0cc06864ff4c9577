"""More samples make a better bound and a worse gradient: signal to noise at the encoder against K.

    vae-jax data prepare mnist
    python experiments/gradient_snr.py

The IWAE bound tightens as its number of samples K grows, and its gradient to the decoder gets better. To the encoder
the gradient itself vanishes as 1/K, its standard deviation only as 1/sqrt(K): the ratio falls as 1/sqrt(K), and the
encoder learns from noise (Rainforth et al., arXiv 1802.04537). Two other rules for the same bound send the gradient
through the samples alone: sticking the landing (Roeder et al., arXiv 1703.09194), which for K > 1 is biased, and the
doubly reparameterised one (Tucker et al., arXiv 1810.04152), which is not, and whose ratio does not fall. The powers
of K are those of many samples with weights nearly equal: a linear-Gaussian model has them (tests/test_estimators.py).

One VAE is trained on IWAE with K = 8. Then its parameters and a batch of images are held fixed, and for each K and each
rule the gradient of the IWAE bound to all encoder parameters is drawn many times (`gradient_statistics`):

    SNR          ‖E g‖ / sqrt(Σ Var g), over all parameters of the encoder; of the decoder too, for comparison
    bias         ‖E g - E g'‖ / ‖E g'‖ with g' doubly reparameterised: how much of the gradient is wrong

both with the noise of their means taken off their squares; g and g' are of the same codes. A slope is that of log SNR
against log K from K = 4 on.

Results go to DIR (runs/gradient_snr): gradient_snr.png, gradient_snr.md, gradient_snr.json.

Time: 625 s on two cores that two trainings shared (2026-11-27, Intel Xeon, Python 3.11.7, jax 0.10.2).
Numbers of that run, MNIST, SNR at the encoder:

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

The pathwise ratio falls eight times from 1 sample to 128; the doubly reparameterised one does not, it rises. What
sticking the landing gains is not signal: with 128 samples its mean lies 24 lengths of the true gradient away from it.
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
from vae_jax.data import load_images, mean_image, read_images
from vae_jax.errors import VaeJaxError
from vae_jax.inference import (
    ESTIMATORS,
    GradientStatistics,
    Params,
    gradient_statistics,
    iwae,
    negative_bound,
    signal_to_noise,
)
from vae_jax.models import VAE, build_model
from vae_jax.runtime import atomic_files
from vae_jax.training import init_state, make_loss, make_optimizer, make_train_step, train_steps

DECODER = ("decoder", "output_bias")
UNBIASED = "doubly-reparameterized"


class Scale(NamedTuple):
    """How much is computed."""

    num_samples: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64, 128)
    gradients: int = 400  # drawn for each K and rule
    chunk: int = 20  # of them at once
    images: int = 4  # in the batch that is held fixed


MODEL = {"model__hidden": (200,), "model__latent_dim": 4, "objective__name": "iwae", "objective__num_samples": 8,
         "objective__estimator": "pathwise", "data__binarization": "dynamic", "train__log_every": 100,
         "train__save_every": 100, "train__evaluate_every": 0}  # fmt: skip
FULL = MODEL | {"train__steps": 1500}
QUICK = MODEL | {"model__hidden": (32,), "model__likelihood": "bernoulli", "train__steps": 200}


def trained(config: Config) -> tuple[VAE, Params, jax.Array]:
    """(model, its trained parameters, the binarised held-out images)."""
    images, held_out = (load_images(config, split) for split in ("train", "validation"))
    model = build_model(config.model, images.shape[1:])
    optimizer = make_optimizer(config.optimizer, config.train.steps)
    program = functools.partial(
        train_steps,
        step=make_train_step(make_loss(model, config.objective, config.data), optimizer),
        batch_size=config.train.batch_size,
        max_steps=config.train.steps,
    )
    start = functools.partial(init_state, model=model, optimizer=optimizer)
    average = mean_image(images, binarization=config.data.binarization)
    state = jax.jit(start)(jax.random.key(config.seed), mean_image=average)
    state, _ = jax.jit(program, donate_argnums=0)(state, jax.device_put(images), config.train.steps)
    x = read_images(jax.random.key(config.seed + 1), held_out, binarization=config.data.binarization)
    return model, state.params, x


def statistics_of(
    model: VAE, params: Params, x: jax.Array, *, rule: str, less: str | None = None, num_samples: int, scale: Scale
) -> GradientStatistics:
    """Moments of the gradient of minus the IWAE bound to all parameters, `less` that of another rule, codes alike."""

    def loss_of(rule: str, params: Params, key: jax.Array) -> jax.Array:
        settings = {"objective": iwae, "num_samples": num_samples, "estimator": ESTIMATORS[rule]}
        return negative_bound(params, key, x, model=model, **settings)[0]

    def loss(params: Params, key: jax.Array) -> jax.Array:
        return loss_of(rule, params, key) - (0 if less is None else loss_of(less, params, key))

    keys = jax.random.split(jax.random.key(num_samples), scale.gradients)
    return jax.jit(lambda keys: gradient_statistics(loss, params, keys, chunk=scale.chunk))(keys)


def part(statistics: GradientStatistics, *, decoder: bool) -> GradientStatistics:
    """The statistics of the decoder's parameters, or of the encoder's."""
    keep = lambda tree: {name: leaf for name, leaf in tree.items() if (name in DECODER) == decoder}  # noqa: E731
    return GradientStatistics(*(None if tree is None else keep(tree) for tree in statistics))


def relative_bias(difference: GradientStatistics, unbiased: GradientStatistics, count: int) -> float:
    """‖E (g - g')‖ / ‖E g'‖ from the statistics of g - g' and of g', the noise of both means taken off the squares."""

    def signal(found: GradientStatistics) -> float:
        squares = sum(float(jnp.sum(leaf**2)) for leaf in jax.tree.leaves(found.mean))
        return squares - sum(float(jnp.sum(leaf)) for leaf in jax.tree.leaves(found.variance)) / count

    return float(np.sqrt(max(signal(difference), 0.0) / max(signal(unbiased), 1e-30)))


def measure(model: VAE, params: Params, x: jax.Array, scale: Scale) -> list[dict[str, Any]]:
    """A row for each rule and K: SNR at encoder and decoder, and the encoder's bias."""
    rows = []
    for k in scale.num_samples:
        measured = functools.partial(statistics_of, model, params, x, num_samples=k, scale=scale)
        found = {rule: measured(rule=rule) for rule in ESTIMATORS}
        for rule, statistics in found.items():
            own, bias = part(statistics, decoder=False), None
            if rule != UNBIASED:
                pair = (part(s, decoder=False) for s in (measured(rule=rule, less=UNBIASED), found[UNBIASED]))
                bias = relative_bias(*pair, scale.gradients)
            rows.append(
                {
                    "estimator": rule,
                    "num_samples": k,
                    "encoder_snr": float(signal_to_noise(own, scale.gradients)),
                    "decoder_snr": float(signal_to_noise(part(statistics, decoder=True), scale.gradients)),
                    "encoder_bias": bias,
                }
            )
        print(f"K = {k}: " + ", ".join(f"{r['estimator']} {r['encoder_snr']:.3g}" for r in rows[-3:]), file=sys.stderr)
    return rows


def slopes(rows: list[dict[str, Any]]) -> dict[str, float]:
    """The slope of log SNR at the encoder against log K from K = 4 on, for each rule that has two ratios above 0."""
    result = {}
    for rule in ESTIMATORS:
        points = np.array(
            [(r["num_samples"], r["encoder_snr"]) for r in rows
             if r["estimator"] == rule and r["num_samples"] >= 4 and r["encoder_snr"] > 0]
        )  # fmt: skip
        if len(points) > 1:
            result[rule] = float(np.polyfit(*np.log(points.T), 1)[0])
    return result


def table(rows: list[dict[str, Any]], slope: dict[str, float]) -> str:
    """SNR at the encoder as a Markdown table, a line for each K; the bias of sticking the landing beside it."""
    lines = [f"| K | {' | '.join(ESTIMATORS)} | bias of sticking-the-landing | decoder, pathwise |", "|---" * 6 + "|"]
    for k in sorted({row["num_samples"] for row in rows}):
        at = {row["estimator"]: row for row in rows if row["num_samples"] == k}
        cells = [f"{at[rule]['encoder_snr']:.3f}" for rule in ESTIMATORS]
        cells += [f"{at['sticking-the-landing']['encoder_bias']:.3f}", f"{at['pathwise']['decoder_snr']:.2f}"]
        lines.append(f"| {k} | {' | '.join(cells)} |")
    lines.append("| slope | " + " | ".join(f"{slope[r]:.2f}" if r in slope else "" for r in ESTIMATORS) + " | | |")
    return "\n".join(lines) + "\n"


def draw(path: Path, rows: list[dict[str, Any]]) -> None:
    """SNR at the encoder against K, both on log scales, a line for each rule."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.2), dpi=110, layout="constrained")
    axes = figure.add_subplot()
    for rule in ESTIMATORS:
        points = [(r["num_samples"], r["encoder_snr"]) for r in rows if r["estimator"] == rule and r["encoder_snr"] > 0]
        if points:
            axes.plot(*zip(*points, strict=True), marker="o", markersize=4, label=rule)
    axes.set(xscale="log", yscale="log", xlabel="number of samples K", ylabel="SNR of the encoder's gradient")
    axes.set_title("Gradients of the IWAE bound")
    axes.grid(alpha=0.3, which="both")
    axes.legend()
    atomic_files.write_file(path, lambda file: FigureCanvasAgg(figure).print_png(file))


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Trains, measures, writes the figure and the table, prints the table, and returns what is in the JSON file."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="small digits, few gradients: the same code in seconds")
    parser.add_argument("--data-dir", help="where prepared data sets are")
    parser.add_argument("--output", type=Path, help="runs/gradient_snr, or runs/gradient_snr-quick, if not given")
    asked = parser.parse_args(argv)
    output = asked.output or Path("runs/gradient_snr-quick" if asked.quick else "runs/gradient_snr")
    scale = Scale((1, 16), gradients=40, chunk=20, images=4) if asked.quick else Scale()
    started = time.perf_counter()
    try:
        atomic_files.check_writable(output, "--output")
        base = PRESETS["digits" if asked.quick else "mnist"]
        config = override(base, data__data_dir=asked.data_dir, **(QUICK if asked.quick else FULL))
        model, params, x = trained(config)
        rows = measure(model, params, x[: scale.images], scale)
        slope = slopes(rows)
        draw(output / "gradient_snr.png", rows)
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
