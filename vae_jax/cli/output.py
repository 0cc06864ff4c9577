"""The output folder of the commands on a run, and the figures of the images of a split."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vae_jax.cli.messages import log
from vae_jax.cli.parsing import OutputOptions, require_positive
from vae_jax.errors import InputError
from vae_jax.runtime import atomic_files

if TYPE_CHECKING:
    from vae_jax.runs import Run


def output_folder(options: OutputOptions, run: "Run") -> Path:
    """Return the folder that a command writes to, checked before anything is computed."""
    folder = run.directory if options.to is None else Path(options.to)
    atomic_files.check_writable(folder, "--to")
    return folder


def plot_split(
    directory: Path,
    options: OutputOptions,
    *,
    split: str,
    flag: str,
    requested: int | None,
    default: int,
    plot: Callable[..., Path],
    images_per_item: int = 1,
) -> dict[str, Any]:
    """Plot the first images of a split: `images_per_item` for each of --FLAG, or of the default number, or of all.

    Args:
      directory: the run's directory.
      options: where to write.
      split: train, validation or test.
      flag: name of the option that gives the number of items, for errors.
      requested: the value of this option; None if it is absent.
      default: the number of items then, unless the split has fewer.
      plot: (run, params, images, key=...) -> path of the figure.
      images_per_item: number of images of one item.

    Raises:
      InputError: more items are requested than the split has.
    """
    from vae_jax.runs import check_images, evaluation_key, open_run, restored_params

    wanted = default if requested is None else requested
    require_positive(**{flag: wanted})
    run = open_run(directory)
    folder = output_folder(options, run)
    check_images(run)
    images = run.images(split)
    most = len(images) // images_per_item
    count = min(wanted, most) if requested is None else wanted
    if not 0 < count <= most:
        raise InputError(f"--{flag}={wanted} must be at most {most}: the split {split} has {len(images)} image(s)")
    with restored_params(run, log) as (step, params):
        key, shown = evaluation_key(run, split), images[: count * images_per_item]
        path = plot(dataclasses.replace(run, directory=folder), params, shown, key=key)
    return {"workdir": str(directory), "step": step, "figure": str(path)}
