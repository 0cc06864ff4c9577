"""The files of a fitted prior, fitted_prior/ in the directory of a run.

`prior.json` contains the settings, the summary, the weights of the model to which the density belongs, and the name and
the checksum of a `.npz` file with the arrays. It is replaced after that file is complete, so that a reader finds either
the old density or the new one.
"""

import contextlib
import hashlib
import io
import re
import zipfile
from typing import Any

import jax
import numpy as np

from vae_jax.config import Config, apply_overrides, choice
from vae_jax.errors import CheckpointError, InputError, StorageError
from vae_jax.inference import Params
from vae_jax.models import PriorConfig
from vae_jax.runs.experiment.experiment import Experiment
from vae_jax.runs.generation.fitted_prior import (
    FittedModule,
    FittedPrior,
    abstract_params,
    fitted_module,
    prior_settings,
)
from vae_jax.runs.storage import checksums
from vae_jax.runs.storage.directory import RunDirectory
from vae_jax.runtime import atomic_files, lock, multihost

FORMAT = 1
_DESCRIPTION = "prior.json"
_SAMPLED = "samples|samples_by_class|marginals|pairs|mean_variance|zero_fractions"  # figures of `sample`
_RESULT = re.compile(
    r"(samples|labels|conditions)-fitted(-.*)?\.npy|scores-.*-fitted(-K\d+)?\.npz"
    rf"|figures/(({_SAMPLED})-fitted(-.*)?|layers-.*-fitted)\.png"
)


def write_fitted_prior(directory: RunDirectory, fitted: FittedPrior, params: Params, *, step: int) -> None:
    """Write a fitted prior in place of an earlier one, and remove the figures and samples of that one.

    Args:
      directory: the run's directory.
      fitted: the density.
      params: the parameters of the model to whose codes it was fitted.
      step: their step.

    Raises:
      StorageError: the file system refuses a write.
      LockedError: another process writes a fitted prior of the run; a training of the run does not matter.
    """
    with contextlib.ExitStack() as stack:
        multihost.run_on_primary(lambda: stack.enter_context(lock.run_lock(directory.fitted_prior)))
        _write(directory, fitted, params, step)


def _write(directory: RunDirectory, fitted: FittedPrior, params: Params, step: int) -> None:
    folder, buffer = directory.fitted_prior, io.BytesIO()
    np.savez(buffer, allow_pickle=False, **dict(checksums.named_leaves(fitted.params)))
    digest = hashlib.sha256(buffer.getvalue()).hexdigest()
    path = folder / f"arrays-{digest[:16]}.npz"
    atomic_files.write_file(path, lambda file: file.write(buffer.getvalue()))
    content = {
        "format": FORMAT, "step": step, "weights": _weights(params), "prior": prior_settings(fitted.prior),
        "arrays": {"file": path.name, "sha256": digest}, "summary": fitted.summary,
    }  # fmt: skip
    content = checksums.to_json_types(content)
    for name in multihost.broadcast_from_primary(lambda: _results_of(directory)):
        atomic_files.remove(directory.path / name)
    atomic_files.write_json(folder / _DESCRIPTION, content | {"sha256": checksums.combined_checksum(content)})
    for old in multihost.broadcast_from_primary(lambda: sorted(found.name for found in folder.glob("arrays-*.npz"))):
        if old != path.name:
            atomic_files.remove(folder / old)


def _results_of(directory: RunDirectory) -> list[str]:
    """Return the files that `sample` and `evaluate` write with a fitted prior, relative to the run's directory."""
    found = [*directory.figures.glob("*-fitted*.png"), *directory.path.glob("*-fitted*.np[yz]")]
    names = (str(path.relative_to(directory.path)) for path in found)
    return sorted(name for name in names if _RESULT.fullmatch(name))


def read_fitted_prior(directory: RunDirectory, experiment: Experiment, params: Params, *, step: int) -> FittedPrior:
    """Read the fitted prior of a run, if it belongs to the weights of the model.

    Args:
      directory: the run's directory.
      experiment: its model is used.
      params: the parameters of the model.
      step: their step.

    Raises:
      InputError: no prior is fitted, or it was fitted to other weights.
      StorageError: a file cannot be read.
      CheckpointError: a file is damaged.
    """
    folder, fit = directory.fitted_prior, f"`vae-jax fit-prior {directory} --prior NAME`"
    try:
        content = atomic_files.read_json(folder / _DESCRIPTION)
        described = {name: value for name, value in content.items() if name != "sha256"}
        if checksums.combined_checksum(described) != content["sha256"] or content["format"] != FORMAT:
            raise ValueError(f"{_DESCRIPTION} does not match its checksum")
        if content["weights"] != _weights(params):
            raise InputError(
                f"prior=fitted belongs to step {content['step']}, but the weights are now those of "
                f"{'step ' + str(step) if content['step'] != step else 'another training'}; run {fit} again"
            )
        context = choice("prior", content["prior"]["prior"]).context
        prior = apply_overrides(Config(), {**context, **content["prior"]}).prior
        module = fitted_module(prior, experiment, params)
        arrays = _read_arrays(atomic_files.read_file(folder / content["arrays"]["file"]), content["arrays"]["sha256"])
        return _fitted(prior, module, arrays, content["summary"])
    except (FileNotFoundError, NotADirectoryError) as error:
        if not (folder / _DESCRIPTION).exists():
            raise InputError(f"prior=fitted does not exist in {directory}; run {fit} first") from None
        raise CheckpointError(f"{folder} is damaged ({error.strerror}: {error.filename}); run {fit} again") from None
    except OSError as error:
        raise StorageError(f"cannot read {folder}: {error.strerror}") from None
    except (ValueError, TypeError, KeyError, AttributeError, MemoryError, zipfile.BadZipFile) as error:
        raise CheckpointError(f"{folder} is damaged ({error}); run {fit} again") from None


def _weights(params: Params) -> str:
    """Return the checksum of all parameters of a model."""
    return checksums.combined_checksum(checksums.describe_leaves(params))


def _read_arrays(content: bytes, digest: str) -> dict[str, np.ndarray]:
    """Return the arrays of a .npz file by name; raise ValueError if they do not match their checksum."""
    if hashlib.sha256(content).hexdigest() != digest:
        raise ValueError("the arrays do not match their checksum")
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        if sum(member.file_size for member in archive.infolist()) > len(content):
            raise ValueError("the arrays declare more data than their file contains")
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        return dict(arrays)


def _fitted(
    prior: PriorConfig, module: FittedModule, arrays: dict[str, np.ndarray], summary: dict[str, Any]
) -> FittedPrior:
    """Return the density with these parameters; raise ValueError if they are not those of its family."""
    expected = abstract_params(module)
    found = {path: checksums.dtype_and_shape(array) for path, array in arrays.items()}
    specs = {path: checksums.dtype_and_shape(leaf) for path, leaf in checksums.named_leaves(expected)}
    if found != specs:
        raise ValueError(f"the arrays are {found}, but those of prior={prior.name} are {specs}")
    leaves = [arrays[path] for path in specs]
    return FittedPrior(prior, module, jax.tree.unflatten(jax.tree.structure(expected), leaves), summary)
