"""Are a GAN's pictures better than a VAE's? One generator network, trained in both ways, judged by the same numbers.

    vae-jax data prepare mnist
    python experiments/gan_comparison.py

The generator is the decoder of a convolutional VAE and the sigmoid of what it puts out; for a seed both trainings
start from the same weights, take as many updates of as many images each, and draw from the same codes z ~ N(0, I).

    VAE    the library's own: ELBO, Bernoulli likelihood, images binarised anew at each read; its picture of a code
           is the mean of p(x|z)
    GAN    a discriminator built as the VAE's encoder is, spectrally normalised, against the generator (see gan.py): an
           update of each in turn, on grey images, many of them in one program

Pictures are judged against the 10,000 test images by 64 features of a classifier that is trained on half of the
training images: Fréchet distance, precision and recall (k = 3), and sharpness, the variance of the Laplacian (see
picture_scores.py). The row `training images` is the floor: images of the other half, a third for each seed. The row
`VAE, reconstructions` has codes of training images in place of codes from the prior, and so tells the decoder's share
of the VAE's distance from the prior's. The means of a Bernoulli are grey where it is in doubt, and grey is what the
GAN learns from: so all is judged twice, as it is and thresholded at one half, against test images read alike.
Mean ± standard deviation over three seeds. The classifier never sees thresholded pictures in training.

Results go to DIR (runs/gan_comparison): gan_comparison.png, gan_comparison.md, gan_comparison.json, and the pictures
of each trained model. The same command goes on after an interruption, at the first model that is not finished.

Time: 60 minutes on two cores with much other work beside it, of which it had 22 minutes of processor time.
Numbers of 2026-11-24 (Python 3.11.7, jax 0.10.2), mean ± sd over three seeds; the classifier is right on 99.31 % of the
grey test images and 99.07 % of the thresholded ones:

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

    VAE: -95.97 ± 0.26 nats (ELBO), 30.97 ± 0.17 of them code; seconds of training, the least of the seeds: VAE 191,
    GAN 504 (both beside other work).

The GAN's samples are nearer to the test images as a whole, cover more of them, and are as sharp; the VAE's, one by one,
lie more often among the test images. The VAE's reconstructions are nearly as good as images: what its samples lack is
not the decoder's fault but the prior's, whose codes are not those of images.
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
from jax import Array
from picture_scores import BATCH, DOMAINS, SCORES, Judge, Scores, train_classifier

from vae_jax import data, random
from vae_jax.config import Config, DataConfig, ModelConfig, OptimizerConfig, TrainConfig
from vae_jax.data import mean_image, read_images
from vae_jax.errors import VaeJaxError
from vae_jax.inference import Params
from vae_jax.models import VAE, build_model
from vae_jax.runs import image_grid, mean_and_sd
from vae_jax.runtime import atomic_files
from vae_jax.training import (
    Evaluator,
    TrainState,
    evaluate_examples,
    init_state,
    make_loss,
    make_optimizer,
    make_train_step,
    train_steps,
)

DISPATCH = 250  # steps in one program
DIGITS = {"frechet_distance": 2, "precision": 3, "recall": 3, "sharpness": 3}  # behind the point, in the tables


@dataclasses.dataclass(frozen=True)
class Settings:
    """What is trained, for how long, and on how much it is judged."""

    vae: Config  # its decoder is the generator of both; its batch size and number of steps are the GAN's too
    generator_optimizer: OptimizerConfig
    discriminator_optimizer: OptimizerConfig
    seeds: int
    count: int  # images on each side of a comparison
    classifier_images: int  # the first of the training images; the floor is measured on others
    classifier_channels: tuple[int, ...]
    classifier_steps: int
    classifier_shift: int  # pixels by which the classifier's images are moved at random


FULL = Settings(
    vae=Config(
        data=DataConfig(name="mnist", holdout=0.0, binarization="dynamic"),
        model=ModelConfig(network="conv", hidden=(16, 64), latent_dim=32, activation="gelu"),
        optimizer=OptimizerConfig(learning_rate=2e-3),
        train=TrainConfig(steps=6000, batch_size=64),
    ),
    generator_optimizer=OptimizerConfig(learning_rate=5e-4, b1=0.5, b2=0.99),
    discriminator_optimizer=OptimizerConfig(learning_rate=5e-4, b1=0.5, b2=0.99),
    seeds=3,
    count=10_000,
    classifier_images=30_000,
    classifier_channels=(32, 64),
    classifier_steps=2000,
    classifier_shift=2,
)
QUICK = dataclasses.replace(
    FULL,
    vae=Config(
        data=DataConfig(name="digits", holdout=0.2, binarization="dynamic"),
        model=ModelConfig(network="conv", hidden=(16,), latent_dim=8, activation="gelu"),
        optimizer=OptimizerConfig(learning_rate=5e-3),
        train=TrainConfig(steps=400, batch_size=32),
    ),
    seeds=2,
    count=300,
    classifier_images=700,
    classifier_channels=(16,),
    classifier_steps=200,
    classifier_shift=0,
)


# --- Training and drawing --------------------------------------------------------------------------------------------


class Made(NamedTuple):
    """What a trained model leaves: numbers, and uint8 pictures by name."""

    numbers: dict[str, float]
    pictures: dict[str, np.ndarray]


def make_program(step: Callable[..., Any], *, batch_size: int) -> Callable[..., Any]:
    """program(state, images, num_steps) -> (state, metrics): DISPATCH steps at most, donating the state."""
    program = functools.partial(train_steps, step=step, batch_size=batch_size, max_steps=DISPATCH)
    return jax.jit(program, donate_argnums=0)


def train(name: str, program: Callable[..., Any], state: Any, images: Array, steps: int) -> Any:
    """The state after `steps` steps, said on stderr as they go; raises FloatingPointError where it diverges."""
    start = time.perf_counter()
    for done in range(0, steps, DISPATCH):
        count = min(DISPATCH, steps - done)
        state, metrics = program(state, images, count)
        means = {key: float(np.asarray(values)[:count].mean()) for key, values in metrics.items()}
        told = "  ".join(f"{key} {value:.4g}" for key, value in means.items())
        print(f"{name}: step {done + count}, {time.perf_counter() - start:.0f} s  {told}", file=sys.stderr)
        if not np.isfinite(list(means.values())).all():
            raise FloatingPointError(f"{name}: not finite by step {done + count}")
    return state


def evaluation_keys(seed: int) -> Array:
    """The keys [3] of the test bound, of the codes that samples are made of, and of the reconstructions."""
    return jax.random.split(jax.random.fold_in(jax.random.key(seed), random.EVALUATION_STREAM), 3)


def picture(params: Params, key: Array, z: Array, *, model: VAE) -> dict[str, Array]:
    """{"x": the images of codes z [B, D] as 8-bit pictures, uint8 [B, H, W, C], which is how all are judged}."""
    del key
    return {"x": jnp.round(255 * generate(params, z, model=model)).astype(jnp.uint8)}


def reconstruct(params: Params, key: Array, images: Array, *, model: VAE, binarization: str) -> dict[str, Array]:
    """`picture` of codes z ~ q(z|x) of uint8 images [B, H, W, C]."""
    read_key, noise_key = jax.random.split(key)
    x = read_images(read_key, images, binarization=binarization)
    z = model.apply({"params": params}, x, method="encode").sample(noise_key)
    return picture(params, key, z, model=model)


def sampler(model: VAE, count: int) -> Callable[[Params, Array], np.ndarray]:
    """(params, key) -> pictures of `count` codes from the prior, uint8 [count, H, W, C]; compiled once."""
    program = jax.jit(functools.partial(picture, model=model))

    def sample(params: Params, key: Array) -> np.ndarray:
        z = np.asarray(jax.random.normal(key, (count, model.latent_dim)))
        return evaluate_examples(program, params, key, z, batch_size=BATCH)["x"]

    return sample


def vae_initialiser(settings: Settings, model: VAE, images: np.ndarray) -> Callable[[int], TrainState]:
    """seed -> the state that a VAE's training starts from; its decoder is where the GAN's generator starts."""
    config = settings.vae
    optimizer = make_optimizer(config.optimizer, config.train.steps)
    average = mean_image(images, binarization=config.data.binarization)
    init = jax.jit(functools.partial(init_state, model=model, optimizer=optimizer, mean_image=average))
    return lambda seed: init(jax.random.key(seed))


def vae_trainer(
    settings: Settings, model: VAE, init: Callable[[int], TrainState], images: np.ndarray, test: np.ndarray
) -> Callable[[int], Made]:
    """seed -> what a VAE trained from it makes: its `numbers` on the test images, its prior `samples`, its `decoded`
    reconstructions of the last training images."""
    config, binarization = settings.vae, settings.vae.data.binarization
    optimizer = make_optimizer(config.optimizer, config.train.steps)
    step = make_train_step(make_loss(model, config.objective, config.data), optimizer)
    program = make_program(step, batch_size=config.train.batch_size)
    evaluator, sample = Evaluator(model, binarization, batch_size=BATCH), sampler(model, settings.count)
    decode = jax.jit(functools.partial(reconstruct, model=model, binarization=binarization))
    on_device = jnp.asarray(images)

    def make(seed: int) -> Made:
        start, keys = time.perf_counter(), evaluation_keys(seed)
        state = train(f"VAE, seed {seed}", program, init(seed), on_device, config.train.steps)
        seconds = time.perf_counter() - start
        numbers = evaluator.bound(state.params, keys[0], test) | {"seconds": seconds}
        last = images[-settings.count :]
        decoded = evaluate_examples(decode, state.params, keys[2], last, batch_size=BATCH)["x"]
        return Made(numbers, {"samples": sample(state.params, keys[1]), "decoded": decoded})

    return make


def gan_trainer(
    settings: Settings, model: VAE, init: Callable[[int], TrainState], images: np.ndarray
) -> Callable[[int], Made]:
    """seed -> what a GAN trained from it makes: `samples`, and no numbers of its own, for it has no density."""
    config, steps = settings.vae, settings.vae.train.steps
    gan = Gan(
        model,
        Discriminator(config.model.hidden),
        make_optimizer(settings.generator_optimizer, steps),
        make_optimizer(settings.discriminator_optimizer, steps),
    )
    program = make_program(functools.partial(gan_step, gan=gan), batch_size=config.train.batch_size)
    sample, on_device = sampler(model, settings.count), jnp.asarray(images)
    begin = jax.jit(functools.partial(init_gan, gan=gan))

    def make(seed: int) -> Made:
        start, keys = time.perf_counter(), evaluation_keys(seed)
        state = begin(jax.random.key(seed), init(seed).params)
        state = train(f"GAN, seed {seed}", program, state, on_device, steps)
        seconds = time.perf_counter() - start
        return Made({"seconds": seconds}, {"samples": sample(state.generator, keys[1])})

    return make


# --- What is kept, and the report ------------------------------------------------------------------------------------


def kept(path: Path, settings: Settings, make: Callable[[], Made]) -> Made:
    """What `make` makes; read from `path` where a run with the same settings has left it, else made and left there."""
    described = json.loads(json.dumps(dataclasses.asdict(settings)))
    if path.exists():
        with np.load(path, allow_pickle=False) as file:
            about = json.loads(str(file["about"]))
            if about["settings"] == described:
                return Made(about["numbers"], {name: file[name] for name in file.files if name != "about"})
    made = make()
    about = json.dumps({"settings": described, "numbers": made.numbers})
    atomic_files.write_file(path, lambda file: np.savez_compressed(file, about=np.array(about), **made.pictures))
    return made


def summarise(seeds: list[Scores]) -> dict[str, dict[str, dict[str, float]]]:
    """{domain: {score: its mean and sd}} of the scores of each seed."""
    return {d: {score: mean_and_sd([scores[d][score] for scores in seeds]) for score in SCORES} for d in DOMAINS}


def markdown(result: dict[str, Any]) -> str:
    """The report's tables."""

    def shown(value: dict[str, float], digits: int) -> str:
        return f"{value['mean']:.{digits}f} ± {value['sd']:.{digits}f}"

    accuracy = result["classifier_accuracy"]
    lines = []
    for domain in DOMAINS:
        lines += [
            f"{domain.capitalize()} pictures against test images read in the same way "
            f"(the classifier's accuracy on these: {accuracy[domain]:.2%})",
            "",
            "| pictures | Fréchet distance ↓ | precision ↑ | recall ↑ | sharpness (test images: 1) |",
            "|---|---|---|---|---|",
        ]
        for row, found in result["scores"].items():
            cells = [shown(found[domain][score], DIGITS[score]) for score in SCORES]
            lines.append(f"| {row} | " + " | ".join(cells) + " |")
        lines.append("")
    vae = {name: shown(value, 2) for name, value in result["vae"].items()}
    return "\n".join(
        [
            *lines,
            "| what else it gives | VAE | GAN |",
            "|---|---|---|",
            f"| code of an image, reconstruction | {vae['reconstruction']} nats (log p(x given z)), "
            f"{vae['kl']} nats of code | no encoder: no reconstruction, no latent code |",
            f"| likelihood of binarised test images | {vae['elbo']} nats (ELBO) | no likelihood: no NLL |",
            f"| seconds of training, the least of the seeds | {result['seconds']['VAE']:.0f} | "
            f"{result['seconds']['GAN']:.0f} |",
            "",
        ]
    )


def draw(path: Path, pictures: dict[str, np.ndarray]) -> None:
    """Writes a panel for each set of pictures [N, H, W, C], titled by its name: grey above, thresholded below."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.2 * len(pictures), 7.4), dpi=110, layout="constrained")
    for j, (name, images) in enumerate(pictures.items()):
        for i, (domain, binarization) in enumerate(DOMAINS.items()):
            axes = figure.add_subplot(len(DOMAINS), len(pictures), 1 + i * len(pictures) + j)
            x = np.asarray(read_images(jax.random.key(0), images, binarization=binarization))
            axes.imshow(image_grid(x, 10, scale=2), interpolation="nearest")
            axes.set_title(f"{name}, {domain}", fontsize=13)
            axes.axis("off")
    atomic_files.write_file(path, FigureCanvasAgg(figure).print_png)


def compare(settings: Settings, output: Path) -> dict[str, Any]:
    """Trains what `output` does not hold yet, judges all of it, and writes gan_comparison.json, .md and .png."""
    name, holdout = settings.vae.data.name, settings.vae.data.holdout
    images, labels, test, test_labels = (
        read(name, split, holdout=holdout) for split in ("train", "test") for read in (data.load, data.load_labels)
    )
    model = build_model(settings.vae.model, images.shape[1:])
    init = vae_initialiser(settings, model, images)
    make_vae, make_gan = vae_trainer(settings, model, init, images, test), gan_trainer(settings, model, init, images)
    seeds = range(settings.seeds)
    vaes = [kept(output / f"vae-{seed}.npz", settings, functools.partial(make_vae, seed)) for seed in seeds]
    gans = [kept(output / f"gan-{seed}.npz", settings, functools.partial(make_gan, seed)) for seed in seeds]

    seen = settings.classifier_images
    classifier, params = train_classifier(
        images[:seen],
        labels[:seen],
        channels=settings.classifier_channels,
        steps=settings.classifier_steps,
        most=settings.classifier_shift,
    )
    judge = Judge(classifier, params, test[: settings.count])
    unseen = np.array_split(images[seen:], settings.seeds)  # by the classifier
    rows = {
        "training images": [part[: settings.count] for part in unseen],
        "VAE": [made.pictures["samples"] for made in vaes],
        "VAE, reconstructions": [made.pictures["decoded"] for made in vaes],
        "GAN": [made.pictures["samples"] for made in gans],
    }
    scores = {row: [judge.scores(pictures) for pictures in sets] for row, sets in rows.items()}
    result = {
        "settings": dataclasses.asdict(settings),
        "classifier_accuracy": {d: judge.accuracy(test_labels[: settings.count], d) for d in DOMAINS},
        "scores": {row: summarise(seeds) for row, seeds in scores.items()},
        "scores_of_seeds": scores,
        "vae": {n: mean_and_sd([made.numbers[n] for made in vaes]) for n in ("elbo", "reconstruction", "kl")},
        # The least: that of the first seed holds the compilation.
        "seconds": {n: min(made.numbers["seconds"] for made in sets) for n, sets in (("VAE", vaes), ("GAN", gans))},
    }
    atomic_files.write_json(output / "gan_comparison.json", result)
    atomic_files.write_file(output / "gan_comparison.md", lambda file: file.write(markdown(result).encode()))
    draw(
        output / "gan_comparison.png",
        {"test images": test[:60], "VAE": rows["VAE"][0][:60], "GAN": rows["GAN"][0][:60]},
    )
    return result


def main(argv: list[str] | None = None) -> None:
    """Compares, prints the tables, and last one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="8 x 8 digits and short trainings: does it run at all?")
    parser.add_argument("--output", type=Path, help="runs/gan_comparison, or runs/gan_comparison-quick, if not given")
    asked = parser.parse_args(argv)
    output = asked.output or Path("runs/gan_comparison-quick" if asked.quick else "runs/gan_comparison")
    try:
        atomic_files.check_writable(output, "--output")
        result = compare(QUICK if asked.quick else FULL, output)
    except (VaeJaxError, FloatingPointError) as error:
        raise SystemExit(str(error)) from None
    print(markdown(result))
    print(json.dumps({"output": str(output), "scores": result["scores"], "vae": result["vae"]}))


if __name__ == "__main__":
    main()
