"""Compare the samples of a GAN and of a VAE with one generator network, by the same scores.

    vae-jax data prepare mnist
    python experiments/gan_comparison.py

The generator is the decoder of a convolutional VAE followed by a sigmoid. For each seed, both trainings start from the
same weights, make the same number of updates with the same batch size, and sample with the same codes z ~ N(0, I).

    VAE    the training of this library: ELBO, Bernoulli likelihood, images binarized again in each epoch; the image of
           a code is the mean of p(x|z)
    GAN    a discriminator with the architecture of the VAE's encoder and spectral normalization (see gan.py); one
           update of the discriminator and one of the generator in each step, on grey images, many steps in one program

Images are compared with the 10,000 test images by 64 features of a classifier that is trained on half of the training
images: Fréchet distance, precision and recall (k = 3), and sharpness, the variance of the Laplacian (see
image_scores.py). The row `training images` is the best score that can be expected: images of the other half, a third
for each seed. The row `VAE, reconstructions` decodes the codes of training images instead of codes from the prior. It
separates the decoder's part of the VAE's distance from the prior's part. The mean of a Bernoulli is grey where the
decoder is uncertain, and the GAN is trained on grey images. Therefore every score is computed twice: for the grey
images, and for images thresholded at one half, each against test images with the same preprocessing. The classifier is
never trained on thresholded images. Scores are the mean ± standard deviation over three seeds.

Output in DIR (runs/gan_comparison): gan_comparison.png, gan_comparison.md, gan_comparison.json, and the images of each
trained model. If the experiment is interrupted, the same command continues with the first model that is not finished.

Time: 60 minutes on two shared cores, 22 minutes of processor time.
Results of 2026-11-24 (Python 3.11.7, jax 0.10.2), mean ± sd over three seeds. The classifier's accuracy is 99.31 % on
the grey test images and 99.07 % on the thresholded ones:

                              Fréchet distance   precision        recall           sharpness (test images: 1)
    grey
      training images           2.25 ±  0.09     0.863 ± 0.004    0.882 ± 0.001    1.017 ± 0.001
      VAE                     409.05 ± 23.86     0.643 ± 0.003    0.695 ± 0.021    0.512 ± 0.003
      VAE, reconstructions     14.62 ±  0.63     0.860 ± 0.003    0.825 ± 0.000    0.650 ± 0.005
      GAN                     112.76 ± 33.58     0.498 ± 0.012    0.829 ± 0.017    1.217 ± 0.082
    thresholded
      training images           2.36 ±  0.13     0.858 ± 0.002    0.877 ± 0.001    1.012 ± 0.002
      VAE                     299.41 ± 18.66     0.611 ± 0.002    0.780 ± 0.019    0.929 ± 0.008
      VAE, reconstructions      4.18 ±  0.09     0.842 ± 0.001    0.867 ± 0.002    0.950 ± 0.001
      GAN                     115.34 ± 32.72     0.551 ± 0.010    0.820 ± 0.018    1.027 ± 0.016

    VAE: ELBO -95.97 ± 0.26 nats, of which the KL is 30.97 ± 0.17. Seconds of training, the minimum over the seeds:
    VAE 191, GAN 504 (both on shared cores).

The GAN's samples are closer to the distribution of the test images, cover more of it, and are as sharp. A larger share
of the VAE's samples lies within the test images (precision). The VAE's reconstructions score nearly as well as images:
the deficit of its samples comes from the prior, which does not match the codes of images, and not from the decoder.
"""

import argparse
import dataclasses
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
from gan import Discriminator, Gan, gan_step, generate, init_gan
from image_scores import BATCH, DOMAINS, Scorer, score_tables, score_text, summarize
from jax import Array

from vae_jax import random
from vae_jax.config import Config, flatten, override
from vae_jax.data import PreprocessConfig
from vae_jax.distributions import Batch
from vae_jax.errors import VaeJaxError
from vae_jax.inference import Params, encode
from vae_jax.models import VAE
from vae_jax.runs import Experiment, build_experiment, image_grids, mean_and_sd
from vae_jax.runtime import atomic_files
from vae_jax.training import (
    Evaluator,
    TrainState,
    evaluate_examples,
    make_optimizer,
    make_train_step,
    train_classifier,
    train_steps,
)

DISPATCH = 250  # steps in one program


@dataclasses.dataclass(frozen=True)
class Settings:
    """The trainings, and the number of images in the comparison."""

    vae: Config  # its decoder is the generator of both; batch size and number of steps hold for the GAN too
    generator_optimizer: dict[str, Any]  # settings that differ from those of the VAE
    discriminator_optimizer: dict[str, Any]
    seeds: int
    count: int  # images on each side of a comparison
    classifier_images: int  # the first training images; the row `training images` uses the others
    classifier_channels: tuple[int, ...]
    classifier_steps: int
    classifier_shift: int  # largest random shift of the classifier's images, in pixels

    def description(self) -> dict[str, Any]:
        """Return all settings as JSON values."""
        return json.loads(json.dumps(vars(self) | {"vae": flatten(self.vae)}))


_CONV = {"network": "conv", "network__activation": "gelu", "preprocess": "dynamic-binarization"}
_GAN_OPTIMIZER = {"optimizer__learning_rate": 5e-4, "optimizer__b1": 0.5, "optimizer__b2": 0.99}
FULL = Settings(
    vae=override(
        Config(), **_CONV, data__name="mnist", data__holdout=0.0, network__hidden=(16, 64), model__latent_dim=32,
        optimizer__learning_rate=2e-3, train__steps=6000, train__batch_size=64,
    ),
    generator_optimizer=_GAN_OPTIMIZER,
    discriminator_optimizer=_GAN_OPTIMIZER,
    seeds=3,
    count=10_000,
    classifier_images=30_000,
    classifier_channels=(32, 64),
    classifier_steps=2000,
    classifier_shift=2,
)  # fmt: skip
QUICK = dataclasses.replace(
    FULL,
    vae=override(
        Config(), **_CONV, data__name="digits", data__holdout=0.2, network__hidden=(16,), model__latent_dim=8,
        optimizer__learning_rate=5e-3, train__steps=200, train__batch_size=32,
    ),
    seeds=2,
    count=200,
    classifier_images=700,
    classifier_channels=(16,),
    classifier_steps=100,
    classifier_shift=0,
)  # fmt: skip


# --- Training and sampling -------------------------------------------------------------------------------------------


class ModelOutput(NamedTuple):
    """Numbers of a trained model, and its uint8 images by name."""

    numbers: dict[str, float]
    images: dict[str, np.ndarray]


def make_program(step: Callable[..., Any], *, batch_size: int) -> Callable[..., Any]:
    """Return program(state, data, num_steps) -> (state, metrics), at most DISPATCH steps, with a donated state."""
    program = functools.partial(train_steps, step=step, batch_size=batch_size, max_steps=DISPATCH)
    return jax.jit(program, donate_argnums=0)


def train(name: str, program: Callable[..., Any], state: Any, data: Batch, steps: int) -> Any:
    """Return the state after `steps` steps, with progress on stderr; raise FloatingPointError if it diverges."""
    start = time.perf_counter()
    for done in range(0, steps, DISPATCH):
        count = min(DISPATCH, steps - done)
        state, metrics = program(state, data, count)
        means = {key: float(np.asarray(values)[:count].mean()) for key, values in metrics.items()}
        line = "  ".join(f"{key} {value:.4g}" for key, value in means.items())
        print(f"{name}: step {done + count}, {time.perf_counter() - start:.0f} s  {line}", file=sys.stderr)
        if not np.isfinite(list(means.values())).all():
            raise FloatingPointError(f"{name}: a metric is not finite at step {done + count}")
    return state


def evaluation_keys(seed: int) -> Array:
    """Return the keys [3] of the test bound, of the codes of the samples, and of the reconstructions."""
    return jax.random.split(jax.random.fold_in(jax.random.key(seed), random.EVALUATION_STREAM), 3)


def decode(params: Params, keys: Array, batch: Batch, *, model: VAE) -> dict[str, Array]:
    """Decode codes {"z": [B, D]} to images {"x": uint8 [B, H, W, C]}; all scores are computed on 8-bit images."""
    del keys
    return {"x": jnp.round(255 * generate(params, batch["z"], model=model)).astype(jnp.uint8)}


def reconstruct(
    params: Params, keys: Array, batch: Batch, *, model: VAE, preprocess: PreprocessConfig
) -> dict[str, Array]:
    """Decode codes z ~ q(z|x) of images {"x": uint8 [B, H, W, C]}, with a key for each image, [B]."""
    inputs = preprocess(random.fold_in(keys, 0), batch)
    z = encode(params, inputs, model=model).sample(random.fold_in(keys, 1))
    return decode(params, keys, {"z": z}, model=model)


def sampler(model: VAE, count: int) -> Callable[[Params, Array], np.ndarray]:
    """Return (params, key) -> uint8 images [count, H, W, C] of codes from the prior; compiled once."""
    program = jax.jit(functools.partial(decode, model=model))

    def sample(params: Params, key: Array) -> np.ndarray:
        z = np.asarray(jax.random.normal(key, (count, model.posterior.size)))
        return evaluate_examples(program, params, key, {"z": z}, batch_size=BATCH)["x"]

    return sample


def vae_initialiser(experiment: Experiment) -> Callable[[int], TrainState]:
    """Return seed -> the initial state of a VAE's training; its decoder is the GAN's initial generator."""
    init, mean = jax.jit(experiment.initial_state), experiment.data_mean()
    return lambda seed: init(jax.random.key(seed), mean)


def vae_trainer(
    settings: Settings, experiment: Experiment, init: Callable[[int], TrainState], images: np.ndarray, test: np.ndarray
) -> Callable[[int], ModelOutput]:
    """Return seed -> numbers and images of a trained VAE.

    The numbers are those of the test images. The images are `samples` from the prior, and `decoded`, the
    reconstructions of the last training images.
    """
    model, preprocess, training = experiment.model, experiment.preprocess, experiment.training
    step = make_train_step(experiment.loss(), experiment.optimizer)
    program = make_program(step, batch_size=training.batch_size)
    evaluator, sample = Evaluator(model, preprocess, batch_size=BATCH), sampler(model, settings.count)
    reconstruction = jax.jit(functools.partial(reconstruct, model=model, preprocess=preprocess))
    on_device = {"x": jnp.asarray(images)}

    def make(seed: int) -> ModelOutput:
        start, keys = time.perf_counter(), evaluation_keys(seed)
        state = train(f"VAE, seed {seed}", program, init(seed), on_device, training.steps)
        seconds = time.perf_counter() - start
        numbers = evaluator.bound(state.params, keys[0], {"x": test}) | {"seconds": seconds}
        last = {"x": images[-settings.count :]}
        decoded = evaluate_examples(reconstruction, state.params, keys[2], last, batch_size=BATCH)["x"]
        return ModelOutput(numbers, {"samples": sample(state.params, keys[1]), "decoded": decoded})

    return make


def gan_trainer(
    settings: Settings, model: VAE, init: Callable[[int], TrainState], images: np.ndarray
) -> Callable[[int], ModelOutput]:
    """Return seed -> `samples` of a trained GAN, and its training time: a GAN has no density to evaluate."""
    config, steps = settings.vae, settings.vae.train.steps
    gan = Gan(
        model,
        Discriminator(config.network.hidden),
        make_optimizer(override(config, **settings.generator_optimizer)),
        make_optimizer(override(config, **settings.discriminator_optimizer)),
    )
    program = make_program(functools.partial(gan_step, gan=gan), batch_size=config.train.batch_size)
    sample, on_device = sampler(model, settings.count), {"x": jnp.asarray(images)}
    initial_state = jax.jit(functools.partial(init_gan, gan=gan))

    def make(seed: int) -> ModelOutput:
        start, keys = time.perf_counter(), evaluation_keys(seed)
        state = initial_state(jax.random.key(seed), init(seed).params)
        state = train(f"GAN, seed {seed}", program, state, on_device, steps)
        seconds = time.perf_counter() - start
        return ModelOutput({"seconds": seconds}, {"samples": sample(state.generator, keys[1])})

    return make


# --- Stored results and the report -----------------------------------------------------------------------------------


def cached(path: Path, settings: dict[str, Any], make: Callable[[], ModelOutput]) -> ModelOutput:
    """Return the output stored at `path` if its settings are the same; otherwise call `make` and store its output."""
    if path.exists():
        with np.load(path, allow_pickle=False) as file:
            about = json.loads(str(file["about"]))
            if about["settings"] == settings:
                return ModelOutput(about["numbers"], {name: file[name] for name in file.files if name != "about"})
    output = make()
    about = json.dumps({"settings": settings, "numbers": output.numbers})
    atomic_files.write_file(path, lambda file: np.savez_compressed(file, about=np.array(about), **output.images))
    return output


def markdown(result: dict[str, Any]) -> str:
    """Return the report's tables in Markdown."""
    vae = {name: score_text(value, 2) for name, value in result["vae"].items()}
    return "\n".join(
        [
            *score_tables(result["scores"], result["classifier_accuracy"]),
            "| other results | VAE | GAN |",
            "|---|---|---|",
            f"| code of an image, reconstruction | {vae['reconstruction']} nats (log p(x given z)), "
            f"{vae['kl']} nats (KL) | no encoder: no reconstruction, no latent code |",
            f"| likelihood of binarized test images | {vae['elbo']} nats (ELBO) | no likelihood: no NLL |",
            f"| seconds of training, minimum over the seeds | {result['seconds']['VAE']:.0f} | "
            f"{result['seconds']['GAN']:.0f} |",
            "",
        ]
    )


def make_scorer(settings: Settings, images: np.ndarray, labels: np.ndarray, test: np.ndarray) -> Scorer:
    """Return the scorer of a classifier that is trained on the first training images, against test images."""
    split = settings.classifier_images
    trained = train_classifier(
        images[:split],
        labels[:split],
        channels=settings.classifier_channels,
        steps=settings.classifier_steps,
        max_shift=settings.classifier_shift,
    )
    return Scorer(trained.module, trained.params, test[: settings.count])


def plot(path: Path, panels: dict[str, np.ndarray]) -> None:
    """Write a figure with a column for each set of images [N, H, W, C], by name: grey above, thresholded below."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.2 * len(panels), 7.4), dpi=110, layout="constrained")
    for j, (name, images) in enumerate(panels.items()):
        for i, (domain, preprocess) in enumerate(DOMAINS.items()):
            axes = figure.add_subplot(len(DOMAINS), len(panels), 1 + i * len(panels) + j)
            x = np.asarray(preprocess(jax.random.key(0), {"x": images})["x"])
            axes.imshow(image_grids.image_grid(x, 10, scale=2), interpolation="nearest")
            axes.set_title(f"{name}, {domain}", fontsize=13)
            axes.axis("off")
    atomic_files.write_file(path, FigureCanvasAgg(figure).print_png)


def compare(settings: Settings, output: Path) -> dict[str, Any]:
    """Train the models that `output` lacks, score all of them, and write gan_comparison.json, .md and .png."""
    experiment = build_experiment(settings.vae)
    images, labels, test, test_labels = (
        experiment.dataset(split).arrays[name] for split in ("train", "test") for name in ("x", "y")
    )
    init = vae_initialiser(experiment)
    make_vae = vae_trainer(settings, experiment, init, images, test)
    make_gan = gan_trainer(settings, experiment.model, init, images)
    seeds = range(settings.seeds)
    described = settings.description()
    vaes = [cached(output / f"vae-{seed}.npz", described, functools.partial(make_vae, seed)) for seed in seeds]
    gans = [cached(output / f"gan-{seed}.npz", described, functools.partial(make_gan, seed)) for seed in seeds]

    scorer = make_scorer(settings, images, labels, test)
    others = np.array_split(images[settings.classifier_images :], settings.seeds)  # not used to train the classifier
    rows = {
        "training images": [part[: settings.count] for part in others],
        "VAE": [trained.images["samples"] for trained in vaes],
        "VAE, reconstructions": [trained.images["decoded"] for trained in vaes],
        "GAN": [trained.images["samples"] for trained in gans],
    }
    scores = {row: [scorer.scores(images) for images in sets] for row, sets in rows.items()}
    result = {
        "settings": described,
        "classifier_accuracy": {d: scorer.accuracy(test_labels[: settings.count], d) for d in DOMAINS},
        "scores": {row: summarize(seeds) for row, seeds in scores.items()},
        "scores_of_seeds": scores,
        "vae": {n: mean_and_sd([trained.numbers[n] for trained in vaes]) for n in ("elbo", "reconstruction", "kl")},
        # The minimum over the seeds: the time of the first seed includes compilation.
        "seconds": {
            name: min(trained.numbers["seconds"] for trained in models)
            for name, models in (("VAE", vaes), ("GAN", gans))
        },
    }
    atomic_files.write_json(output / "gan_comparison.json", result)
    atomic_files.write_file(output / "gan_comparison.md", lambda file: file.write(markdown(result).encode()))
    shown = {"test images": test[:60], "VAE": rows["VAE"][0][:60], "GAN": rows["GAN"][0][:60]}
    plot(output / "gan_comparison.png", shown)
    return result


def main(argv: list[str] | None = None) -> None:
    """Run the comparison, and print the tables and, on the last line, JSON."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="8x8 digits and short trainings, to test the code")
    parser.add_argument("--output", type=Path, help="default: runs/gan_comparison, or runs/gan_comparison-quick")
    options = parser.parse_args(argv)
    output = options.output or Path("runs/gan_comparison-quick" if options.quick else "runs/gan_comparison")
    try:
        atomic_files.check_writable(output, "--output")
        result = compare(QUICK if options.quick else FULL, output)
    except (VaeJaxError, FloatingPointError) as error:
        raise SystemExit(str(error)) from None
    print(markdown(result))
    print(json.dumps({"output": str(output), "scores": result["scores"], "vae": result["vae"]}))


if __name__ == "__main__":
    main()
