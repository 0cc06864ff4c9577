"""What the VAE's penalty is for: take it away, and the noise on the code dies.

    vae-jax data prepare mnist
    python experiments/penalty.py

The encoder gives a mean m and s = log σ² for each number of the code, and z = m + exp(s/2) e. Trained on the
reconstruction alone, nothing pays for a small σ, and noise only hurts: σ falls, and the means spread, until the code
is that of a plain autoencoder. Lecture notes write the penalty as Σ exp(s) - (1 + s) + m². Its least value, 0, is at
s = 0 and m = 0; -s grows without bound as σ falls, so that the noise stays alive; m² keeps the means where the noise
reaches them. That sum is twice the KL divergence of N(m, σ²) from N(0, 1), which is what the bound on log p(x) asks for
(Kingma & Welling, arXiv 1312.6114): beside the cross entropy, which is -log p(x|z), the notes' form is a beta-VAE with
beta = 2. (Beside |x - x̂|², twice the -log p(x|z) of a Gaussian with σ = 1, it would be twice the bound: beta = 1.)

Preset `vae` (784-1000-500-250-30) is trained three times from the same weights on the same batches and noise: without
the penalty, with the KL, and with twice the KL. Every epoch the noise is compared with the spread of the means over
1,000 held-out images: σ = sqrt(mean of σ²) and sd(m), both over images, for each of the 30 numbers; the figure draws
the quartiles over the 30. At σ = 1 and sd(m) = 0 a number carries nothing.

Results go to DIR (runs/penalty): penalty.png, penalty.md, penalty.json.

Time: 97 seconds on two cores, with tests beside it.
Numbers of 2026-11-24 (Python 3.11.7, jax 0.10.2) after four epochs, each the median over the 30 numbers of the code:

                    σ         sd(m)     σ / sd(m)
    no penalty      0.0028    2.29       0.0012
    KL              0.98      0.18       5.6
    twice the KL    0.996     0.043     23

With a penalty the median number carries nothing; a quarter of them have σ below 0.25 (KL) and 0.55 (twice the KL).
Without it the noise falls below 1/800 of the spread of the means, and is still falling.
"""

import argparse
import functools
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from vae_jax.config import PRESETS, Config, override
from vae_jax.data import load_images, mean_image
from vae_jax.errors import VaeJaxError
from vae_jax.models import build_model
from vae_jax.runtime import atomic_files
from vae_jax.training import init_state, make_loss, make_optimizer, make_train_step, train_steps

PENALTIES = {
    "no penalty": {"objective__name": "reconstruction"},
    "KL": {"objective__name": "elbo"},
    "twice the KL": {"objective__name": "elbo", "objective__beta": 2.0},
}
QUICK = {"data__name": "digits", "data__holdout": 0.1, "model__hidden": (64, 32), "model__latent_dim": 8,
         "optimizer__learning_rate": 5e-3}  # fmt: skip


def noise_and_spread(config: Config, *, epochs: int) -> np.ndarray:
    """[epochs + 1, 2, D]: sqrt(E σ²) and sd(m) for each number of the code, before training and after each epoch."""
    images, held_out = (load_images(config, split) for split in ("train", "validation"))
    held_out = held_out[:1000] / np.float32(255)
    steps = len(images) // config.train.batch_size
    config = override(config, train__steps=epochs * steps)
    model = build_model(config.model, images.shape[1:])
    optimizer = make_optimizer(config.optimizer, config.train.steps)
    program = jax.jit(
        functools.partial(
            train_steps,
            step=make_train_step(make_loss(model, config.objective, config.data), optimizer),
            batch_size=config.train.batch_size,
            max_steps=steps,
        ),
        donate_argnums=0,
    )
    start = functools.partial(init_state, model=model, optimizer=optimizer)
    state = jax.jit(start)(jax.random.key(config.seed), mean_image=mean_image(images, binarization="none"))
    encode = jax.jit(functools.partial(model.apply, method="encode"))

    def measure() -> np.ndarray:
        q = encode({"params": state.params}, held_out)
        mean, variance = np.asarray(q.loc, np.float64), np.exp(2 * np.asarray(q.log_scale, np.float64))
        return np.stack([np.sqrt(variance.mean(axis=0)), mean.std(axis=0)])

    measured, images = [measure()], jax.device_put(images)
    for _ in range(epochs):
        state, _ = program(state, images, steps)
        measured.append(measure())
    return np.stack(measured)


def draw(path: Path, measured: dict[str, np.ndarray]) -> None:
    """Two panels against the epoch, on log scales: σ, and sd(m); median and quartiles over the numbers of the code."""
    figure = Figure(figsize=(10, 4), dpi=110, layout="constrained")
    for panel, title in enumerate(("Noise on the code, σ", "Spread of the means over images, sd(m)")):
        axes = figure.add_subplot(1, 2, panel + 1)
        for name, values in measured.items():
            low, median, high = np.quantile(values[:, panel], [0.25, 0.5, 0.75], axis=1)
            epochs = np.arange(len(median))
            axes.plot(epochs, median, marker="o", markersize=3, label=name)
            axes.fill_between(epochs, low, high, alpha=0.2)
        axes.set(title=title, xlabel="epoch", yscale="log")
        axes.grid(alpha=0.3, which="both")
        axes.legend()
    atomic_files.write_file(path, FigureCanvasAgg(figure).print_png)


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Trains the three, writes the figure, the table and what was measured in each epoch; returns the table's rows."""
    parser = argparse.ArgumentParser(description="What the VAE's penalty is for.")
    parser.add_argument("--quick", action="store_true", help="small digits, few epochs: the same code in seconds")
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--output", type=Path, help="runs/penalty, or runs/penalty-quick, if not given")
    asked = parser.parse_args(argv)
    output = asked.output or Path("runs/penalty-quick" if asked.quick else "runs/penalty")
    atomic_files.check_writable(output, "--output")
    base = override(PRESETS["vae"], **(QUICK if asked.quick else {}))
    epochs = asked.epochs or (3 if asked.quick else 4)
    measured = {name: noise_and_spread(override(base, **penalty), epochs=epochs) for name, penalty in PENALTIES.items()}
    draw(output / "penalty.png", measured)
    at_end = [
        {"penalty": name}
        | {k: float(np.median(v)) for k, v in (("noise", noise), ("spread", spread), ("ratio", noise / spread))}
        for name, (noise, spread) in ((name, values[-1]) for name, values in measured.items())
    ]
    lines = ["| penalty | σ, median over the code | sd(m), median | σ / sd(m), median |", "|---|---|---|---|"]
    lines += [f"| {r['penalty']} | {r['noise']:.4f} | {r['spread']:.4f} | {r['ratio']:.4f} |" for r in at_end]
    text = "\n".join(lines) + "\n"
    atomic_files.write_file(output / "penalty.md", lambda file: file.write(text.encode()))
    each_epoch = {name: values.tolist() for name, values in measured.items()}
    atomic_files.write_json(output / "penalty.json", {"epochs": epochs, "noise_and_spread": each_epoch})
    print(text, file=sys.stderr)
    return {"epochs": epochs, "at_end": at_end, "output": str(output)}


if __name__ == "__main__":
    try:
        print(json.dumps(main()))
    except VaeJaxError as error:
        raise SystemExit(str(error)) from None
