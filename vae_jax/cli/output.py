"""The output folder of the commands on a run, the examples that they read, and figures of the images of a split."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vae_jax.cli.messages import log
from vae_jax.cli.parsing import ExampleOptions, OutputOptions, require_positive
from vae_jax.errors import InputError
from vae_jax.runtime import atomic_files

if TYPE_CHECKING:
    from vae_jax.data import ArrayDataset, Source
    from vae_jax.runs import OpenedRun, RunDirectory


def open_for_examples(directory: Path, options: ExampleOptions, **settings: Any) -> "OpenedRun":
    """Return the run in a directory, which reads the data that it was trained on, or others; nothing is read yet.

    Args:
      directory: the run's directory.
      options: which data.
      **settings: settings that differ from the stored ones, see `open_run`.

    Raises:
      InputError: the data are resized without a name, or cannot be resized; or as `open_run`.
    """
    from vae_jax.data import can_resize
    from vae_jax.runs import RunDirectory, open_run, read_stored_run

    name, resize = options.data.name, options.data.resize
    if name is None:
        if resize is not None:
            raise InputError(f"--data.resize={resize} has no effect without --data.name; remove it, or add --data.name")
        return open_run(directory, **settings)
    stored = read_stored_run(RunDirectory(directory))
    data_dir = stored.settings.get("data.data_dir") if stored else None
    settings |= {"data__streaming": "auto", "data__workers": 0}  # other data may not be prepared on disk
    if resize is not None:
        settings |= {"data__resize": resize}
    elif not can_resize(name, data_dir):
        settings |= {"data__resize": None}
    return open_run(directory, data__name=name, **settings)


def read_examples(run: "OpenedRun", options: ExampleOptions) -> "ArrayDataset":
    """Return the examples of the split, after a check of the run's data, or of the other data."""
    from vae_jax.runs import check_data, log_notes

    if options.data.name is None:
        check_data(run, log)
    dataset = run.experiment.dataset(options.chosen_split)
    if options.data.name is not None:
        log_notes(run.experiment.source, log)
    return dataset


def log_changed_files(source: "Source") -> None:
    """Report if the files of a source have changed since they were read."""
    from vae_jax.data import ConfiguredSource

    if isinstance(source, ConfiguredSource) and (line := source.changed_files()) is not None:
        log(line)


def output_folder(options: OutputOptions, directory: "RunDirectory", variant: str = "") -> "RunDirectory":
    """Return the folder that a command writes to, checked before anything is computed.

    Args:
      options: with the folder, if it is not the run's.
      directory: the run's.
      variant: the end of the names of the figures, see `RunDirectory`.
    """
    from vae_jax.runs import RunDirectory

    folder = RunDirectory(directory if options.to is None else options.to, variant)
    atomic_files.check_writable(folder.path, "--to")
    return folder


def plot_split(
    command: str,
    directory: Path,
    options: ExampleOptions,
    *,
    flag: str,
    requested: int | None,
    default: int,
    plot: Callable[..., Path],
    images_per_item: int = 1,
) -> dict[str, Any]:
    """Plot the first images of a split: `images_per_item` for each of --FLAG, or of the default number, or of all.

    Args:
      command: the command, for errors.
      directory: the run's directory.
      options: which examples, and where to write.
      flag: name of the option that gives the number of items, for errors.
      requested: the value of this option; None if it is absent.
      default: the number of items then, unless the split has fewer.
      plot: (experiment, params, directory, arrays, placement, key=...) -> path of the figure.
      images_per_item: number of images of one item.

    Raises:
      InputError: the run is not trained on images, or more items are requested than the split has.
    """
    from vae_jax.runs import restored_params

    wanted = default if requested is None else requested
    require_positive(**{flag: wanted})
    run = open_for_examples(directory, options)
    experiment, _, placement, changed = run
    _check_kind(command, directory, experiment.kind)
    folder = output_folder(options, run.directory, options.variant)
    arrays, split = read_examples(run, options).arrays, options.chosen_split
    images = len(arrays["x"])
    most = images // images_per_item
    count = min(wanted, most) if requested is None else wanted
    if not 0 < count <= most:
        raise InputError(f"--{flag}={wanted} must be at most {most}: the split {split} has {images} image(s)")
    shown = {name: array[: count * images_per_item] for name, array in arrays.items()}
    with restored_params(experiment, run.directory, placement, log, changed=changed) as (step, params):
        path = plot(experiment, params, folder, shown, placement, key=experiment.evaluation_key(split))
    return {"workdir": str(directory), "step": step, "figure": str(path)}


def _check_kind(command: str, directory: Path, kind: str) -> None:
    if kind != "images":
        raise InputError(
            f"{command} {directory} needs a model of images, but this one is trained on {kind}; use "
            f"`vae-jax sample {directory}` or `vae-jax encode {directory}`"
        )
