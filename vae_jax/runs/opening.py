"""Open an existing run from its directory, or check that an experiment can be trained in a new or existing one."""

import dataclasses
import functools
import math
import os
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from vae_jax.config import Config, DataConfig, differences, flatten, from_flat, override, validate
from vae_jax.data import (
    ConfiguredSource,
    Dataset,
    Source,
    Summary,
    describe,
    describe_held_out,
    open_source,
    resolve_name,
)
from vae_jax.errors import InputError, VaeJaxError
from vae_jax.runs.changes import (
    DATA_SETTINGS,
    changed_data,
    changed_settings,
    check_allowed,
    data_changed_message,
    data_differences,
    describe_data,
    state_arrays,
)
from vae_jax.runs.config_file import StoredRun, read_stored_run
from vae_jax.runs.experiment.experiment import Experiment, build_experiment
from vae_jax.runs.experiment.labels import check_conditions, reads_conditions
from vae_jax.runs.experiment.programs import is_streamed, num_microbatches
from vae_jax.runs.restoring import has_steps, refuse_lost_checkpoints
from vae_jax.runs.storage.directory import RunDirectory
from vae_jax.runs.storage.step_folders import check_path
from vae_jax.runtime import Placement, atomic_files, sharding

Log = Callable[[str], None]


def _silent(line: str) -> None:
    del line


class OpenedRun(NamedTuple):
    """An existing run.

    Attributes:
      experiment: what it trains; its training data are read only when they are needed.
      directory: its files.
      placement: the devices.
      changed: the settings and fields of the data that earlier starts have changed.
    """

    experiment: Experiment
    directory: RunDirectory
    placement: Placement
    changed: frozenset[str]


class DescribedDataset:
    """Training examples of which a run has stored the description; they are read when they are needed.

    Attributes:
      kind: images, vectors or counts.
      spec: shape and dtype of each array of one example.
    """

    def __init__(self, description: dict[str, Any], open_data: Callable[[], Dataset]):
        self.kind: str = description["kind"]
        self.spec = {
            name: jax.ShapeDtypeStruct(tuple(array["shape"]), np.dtype(array["dtype"]))
            for name, array in description["arrays"].items()
        }
        self._length, self._open = description["num_examples"], functools.cache(open_data)

    def __len__(self) -> int:
        return self._length

    @property
    def nbytes(self) -> int:
        """The size of all examples in bytes."""
        return self._open().nbytes

    @property
    def summary(self) -> Summary:
        """Checksums and sums of all examples."""
        return self._open().summary

    def read(self, positions: np.ndarray) -> dict[str, np.ndarray]:
        """Return the examples at some positions, [n, ...] each."""
        return self._open().read(positions)

    def read_all(self) -> dict[str, np.ndarray]:
        """Return all examples, [N, ...] each."""
        return self._open().read_all()


def open_run(directory: str | os.PathLike | RunDirectory, **settings: Any) -> OpenedRun:
    """Return the run in a directory.

    The mesh may have fewer devices than in training: the size of its axis fsdp is the greatest common divisor of
    mesh.fsdp and the number of devices.

    Args:
      directory: the run's directory.
      **settings: settings that differ from the stored ones, see `override`, such as evaluation__num_samples. With
        others that select the examples, such as data__name, the experiment has no checksums of held-out examples.

    Raises:
      InputError: the directory contains no run, or one that a script has trained without a config.
      StorageError: config.json cannot be read.
      CheckpointError: config.json is not the configuration of a run.
    """
    directory = RunDirectory(directory)
    stored = read_stored_run(directory)
    if stored is None:
        raise InputError(
            f"{directory} contains no run ({directory.config.name} is missing); `vae-jax train --workdir DIRECTORY` "
            "creates one"
        )
    if not stored.has_config:
        raise InputError(
            f"{directory} was trained by a script on a hand-made experiment, which {directory.config.name} cannot "
            "rebuild; call `vae_jax.evaluate_run` and its like in that script"
        )
    trained_with = from_flat(stored.settings)
    config = override(trained_with, **settings)
    experiment = _described(config, stored)
    if DATA_SETTINGS.intersection(differences(flatten(trained_with), flatten(config))):
        vars(experiment)["held_out"] = {}  # config.json describes other examples
    mesh = sharding.make_mesh(fsdp=math.gcd(config.mesh.fsdp, jax.device_count()))
    return OpenedRun(experiment, directory, Placement(mesh), frozenset(c["setting"] for c in stored.changes))


def _described(config: Config, stored: StoredRun, source: Source | None = None) -> Experiment:
    """Return the experiment of a config on data of which only the description is known; no data are read."""
    source = open_source(config.data) if source is None else source
    data = DescribedDataset(stored.data, lambda: build_experiment(config, source=source).training_data)
    experiment = build_experiment(config, source=source, training_data=data)
    vars(experiment).update(data=stored.data, held_out=stored.held_out)  # the caches of the properties
    return experiment


def prepare_experiment(
    config: Config,
    directory: str | os.PathLike | RunDirectory,
    *,
    allow_change: Sequence[str] | None = (),
    log: Log = _silent,
    sources: dict[DataConfig, Source] | None = None,
) -> tuple[Experiment, Placement]:
    """Return the experiment that a config describes, if it can be trained in a directory; nothing is written.

    All of its examples are read, and what a person should know about them is reported.

    Args:
      config: the settings.
      directory: the run's directory; it may be absent, or contain a run that is to be resumed.
      allow_change: settings that may differ from those of the stored run; None if the caller has no option for it.
      log: called with a line before work that may take minutes, and with notes about the data.
      sources: the sources of earlier calls, which are read once for all runs with the same section `data`, apart
        from the choice of labelled examples; this call adds a source that is missing. None opens it for this call only.

    Raises:
      InputError: a setting or the data is invalid, or differs from the stored run without being in `allow_change`.
      StorageError: the directory cannot be written to, or data cannot be read.
      CheckpointError: the stored config.json is not the configuration of a run.
    """
    validate(config)
    directory = RunDirectory(directory)
    placement = Placement(sharding.make_mesh(config.mesh.data, config.mesh.fsdp))
    stored = read_stored_run(directory)
    name = resolve_name(config.data.name, data_dir=config.data.data_dir)
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, name=name))
    _check_changes(stored, config, directory, allow_change, log)  # before the data are read
    sources = {} if sources is None else sources
    read = dataclasses.replace(config.data, labelled=0, labelled_draw=0)  # they select labels of the same examples
    is_new = read not in sources
    if is_new:
        sources[read] = open_source(read, log=log)
    experiment = build_experiment(config, source=sources[read])
    if is_new and is_streamed(experiment):
        data = experiment.training_data
        size = f"{len(data):,} examples, {data.nbytes / 2**30:.2f} GiB"
        log(f"{name}: {size}, streamed from disk; the first start with a data set scans all of it")
    check_experiment(experiment, directory, placement, allow_change=allow_change)
    if is_new:
        _log_held_out(experiment, config, log)
    return experiment, placement


def _check_changes(
    stored: StoredRun | None, config: Config, directory: RunDirectory, allow_change: Sequence[str] | None, log: Log
) -> None:
    """Refuse settings that differ from those of a run with steps; report if there is none whose settings may change."""
    if stored is None or not has_steps(directory):
        if allow_change:
            check_allowed(allow_change, flatten(config), {})
            log(f"--allow-change {' '.join(allow_change)} has no effect, because {directory} contains no step of a run")
    elif stored.has_config:
        same_state = functools.partial(_same_state, stored, config)
        # data.name may differ, because files can move.
        ignore = {"data.name"}
        changed_settings(stored, flatten(config), directory, allow_change, same_state=same_state, ignore=ignore)


def _log_held_out(experiment: Experiment, config: Config, log: Log) -> None:
    """Read the held-out examples; report the notes about all splits, and if no bound of validation examples follows."""
    held_out = experiment.held_out
    log_notes(experiment.source, log)
    if config.train.evaluate_every and list(held_out) == ["test"]:
        log(f"data.holdout={config.data.holdout} results in no validation examples, so no bound of them is computed")


def log_notes(source: Source, log: Log) -> None:
    """Report what a person should know about the splits of a source that are read.

    Args:
      source: the source.
      log: called with a line for each note.
    """
    if isinstance(source, ConfiguredSource):
        for note in source.notes():
            log(note)


def _same_state(stored: StoredRun, config: Config | None) -> bool:
    """Return whether the training states of a stored run and of a config have the same arrays; reads no data.

    False if one of the experiments has no config, because its state is unknown.
    """
    if config is None or not stored.has_config:
        return False
    try:
        before, after = (_described(c, stored) for c in (from_flat(stored.settings), config))
        return state_arrays(before.abstract_state) == state_arrays(after.abstract_state)
    except VaeJaxError:  # the stored data do not suit the new settings
        return False


def check_experiment(
    experiment: Experiment, directory: RunDirectory, placement: Placement, *, allow_change: Sequence[str] | None = ()
) -> list[dict[str, Any]]:
    """Check that an experiment can be trained on some devices, in a directory that may contain its run; write nothing.

    Args:
      experiment: what is trained.
      directory: the run's directory.
      placement: the devices.
      allow_change: as for `prepare_experiment`.

    Returns:
      The changes of earlier starts and of this one: dictionaries with "setting", "from" and "to", and with "step" if an
      earlier start has made the change.

    Raises:
      InputError: the batch does not suit the devices or the data, a setting or the data differ from the stored run, or
        the directory is inside of the folder of training images.
      StorageError: the directory cannot be written to, or data cannot be read.
      CheckpointError: the stored config.json is not the configuration of a run.
    """
    _check_batch_size(experiment, placement)
    _refuse_directory_of_images(experiment, directory)
    stored, settings = read_stored_run(directory), experiment.description()
    check_allowed(allow_change or (), settings, stored.settings if stored else {})
    refuse_lost_checkpoints(stored, directory)
    changes = []
    if stored and has_steps(directory):
        changes += stored.changes
        if stored.has_config != (experiment.config is not None):
            made = ("by hand", "from a config")
            raise InputError(
                f"{directory} contains a run whose experiment is made {made[stored.has_config]}, and this one is made "
                f"{made[not stored.has_config]}; choose another directory"
            )
        before, now = (describe_data(run.data, run.held_out) for run in (stored, experiment))
        ignore = set() if data_differences(before, now) else {"data.name"}
        same_state = functools.partial(_same_state, stored, experiment.config)
        changes += changed_settings(stored, settings, directory, allow_change, same_state=same_state, ignore=ignore)
        changes += changed_data(before, now, settings, directory, allow_change, stored_settings=stored.settings)
    if experiment.training.patience:
        experiment.dataset("validation")  # raises if there are none: training could never stop early
    if reads_conditions(experiment.model):
        check_conditions(experiment.model, experiment.training_data, experiment.source.name, experiment.labelled)
        for split in experiment.held_out:
            experiment.dataset(split)  # raises if the conditions are of another kind
    check_path(directory.path)
    atomic_files.check_writable(directory.path)
    return changes


def _check_batch_size(experiment: Experiment, placement: Placement) -> None:
    """Raise InputError if the batch does not suit the devices, or has more examples than there are."""
    training, parts = experiment.training, num_microbatches(experiment, placement)
    setting = "train.batch_size" + (" / train.microbatches" if training.microbatches > 1 else "")
    sharding.check_batch_size(training.batch_size // parts, placement.mesh, setting=setting)
    count = len(experiment.training_data)
    if training.batch_size > count:
        raise InputError(f"train.batch_size={training.batch_size} must be at most the {count} training examples")


def _refuse_directory_of_images(experiment: Experiment, directory: RunDirectory) -> None:
    """Raise InputError if the figures of a run would be read as training images."""
    folder = experiment.source.image_folder if isinstance(experiment.source, ConfiguredSource) else None
    if folder is not None and directory.path.resolve().is_relative_to(folder.resolve()):
        raise InputError(
            f"{directory} is inside of data.name={str(folder)!r}, whose images are the examples, and a run contains "
            "figures; choose a --workdir outside of it"
        )


def check_data(run: OpenedRun, log: Log = _silent) -> None:
    """Check that the data source still contains the examples of a run, by their checksums.

    Args:
      run: the run.
      log: called with notes about the data.

    Raises:
      InputError: the source is missing, or contains other examples.
    """
    experiment, directory = run.experiment, run.directory
    config = experiment.config
    assert config is not None, "open_run requires it"
    retrain = f"`vae-jax train --workdir {directory}"
    try:
        training_data = build_experiment(config, source=experiment.source).training_data
        actual = describe_data(describe(training_data), describe_held_out(experiment.source))
    except InputError as error:
        raise InputError(
            f"{error}; {directory.config} contains this name; if the data have moved, pass the new one: {retrain} "
            "--data.name NAME`"
        ) from None
    stored = describe_data(experiment.data, experiment.held_out)
    if data_differences(stored, actual):
        raise InputError(
            f"{data_changed_message(config.data.name, directory, stored, actual)}; restore them, evaluate the model on "
            f"other examples with --data.name NAME, or continue the training with the new examples: {retrain} "
            "--allow-change data.name`"
        )
    log_notes(experiment.source, log)


def require_in_memory(experiment: Experiment, what: str) -> dict[str, np.ndarray]:
    """Return the training examples of an experiment that is not streamed, [N, ...] each.

    Args:
      experiment: the experiment.
      what: what needs all examples in memory, for the error.

    Raises:
      InputError: the experiment is streamed.
    """
    if is_streamed(experiment):
        raise InputError(
            f"data.streaming does not work with {what}, which holds all {len(experiment.training_data)} examples in "
            "memory; use data.streaming=never on a machine where they fit"
        )
    return experiment.training_data.read_all()
