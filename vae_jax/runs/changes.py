"""Differences between a stored run and the settings or data of its next start: which are refused, which recorded."""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from vae_jax.config import choices, differences, resumable_settings, suggestion
from vae_jax.errors import InputError
from vae_jax.runs.config_file import CHANGE_FIELDS, StoredRun
from vae_jax.runs.storage.checksums import dtype_and_shape, flatten_mapping, named_leaves, to_json_types
from vae_jax.runs.storage.directory import RunDirectory
from vae_jax.training import TrainState

# Settings that select the training examples.
DATA_SETTINGS = {"data.name", "data.holdout", "data.kind", "data.duplicates", "data.resize", "preprocess"}


def data_changed_message(
    name: str, directory: RunDirectory, stored: Mapping[str, Any], given: Mapping[str, Any]
) -> str:
    """Return the error for examples that differ from those of a run, with the differences.

    Args:
      name: the value of data.name.
      directory: the run's directory.
      stored: the description of the run's examples, see `describe_data`.
      given: that of the examples now.
    """
    old, new = flatten_mapping(stored), flatten_mapping(given)
    changed = data_differences(stored, given)
    counts = [field for field in changed if field.endswith("num_examples")]
    lines = [f"{_split_of(field)}: {old.get(field, 0)} examples then, {new.get(field, 0)} now" for field in counts]
    counted = {_split_of(field) for field in counts}
    others = dict.fromkeys(_split_of(field) for field in changed if _split_of(field) not in counted)
    lines += [f"{split}: other contents" for split in others]
    return (
        f"data.name={name} no longer contains the examples that {directory} was trained on and evaluated on "
        f"({'; '.join(lines)})"
    )


def _split_of(field: str) -> str:
    """Return the split that a field of `describe_data` belongs to."""
    return field.split(".")[1] if field.startswith("held_out.") else "train"


def describe_data(data: Mapping[str, Any], held_out: Mapping[str, Any]) -> dict[str, Any]:
    """Return the description of all examples: of the training examples, and of those that are held out."""
    return {**data, "held_out": held_out}


def data_differences(stored: Mapping[str, Any], given: Mapping[str, Any]) -> list[str]:
    """Return the fields in which two results of `describe_data` differ; unknown held-out examples are not compared."""
    ignored = () if stored.get("held_out") and given.get("held_out") else ("held_out",)
    old, new = flatten_mapping(stored), flatten_mapping(given)
    compared = [field for field in {**old, **new} if field.partition(".")[0] not in ignored]
    return [field for field in compared if old.get(field) != new.get(field)]


def check_allowed(allow_change: Sequence[str], settings: Mapping[str, Any], stored: Mapping[str, Any]) -> None:
    """Raise InputError unless settings that may change exist.

    Args:
      allow_change: settings that may differ from those of the stored run.
      settings: the flat settings of this start.
      stored: those of the stored run; {} without one.

    Raises:
      InputError: neither the run nor this start has one of the settings.
    """
    for path in allow_change:
        if path not in settings and path not in stored and path not in _data_settings(settings):
            raise InputError(f"--allow-change={path}: no such setting{suggestion(path, settings)}")


def changed_settings(
    stored: StoredRun,
    settings: Mapping[str, Any],
    directory: RunDirectory,
    allow_change: Sequence[str] | None,
    *,
    same_state: Callable[[], bool] = lambda: False,
    ignore: Collection[str] = (),
) -> list[dict[str, Any]]:
    """Return a record for each setting that differs from the stored run, and that the run records.

    Resumable settings may differ without a record. The exception is train.steps under a learning rate schedule that
    spans all steps: it may differ, and is recorded. Any other setting may differ only if `allow_change` lists it.

    Args:
      stored: the stored run.
      settings: the flat settings of this start.
      directory: the run's directory, for errors.
      allow_change: settings that may differ; None if there is no option to allow a change, as in a sweep.
      same_state: returns whether the training states of both have the same arrays, so that a change could be allowed.
      ignore: settings that are not compared.

    Returns:
      Dictionaries with the keys of `CHANGE_FIELDS`.

    Raises:
      InputError: another setting differs, or `allow_change` contains an unknown setting.
    """
    before, given, listed = stored.settings, to_json_types(dict(settings)), allow_change or ()
    check_allowed(listed, given, before)
    # A choice and its settings change together, so allowing the choice allows them.
    allowed = {path for path in {*before, *given} if path in listed or path.partition(".")[0] in listed}
    changed = differences(before, given, ignore=resumable_settings().union(ignore))
    if _spans_steps(given):
        changed += ["train.steps"] if before.get("train.steps") != given["train.steps"] else []
    refused = [path for path in changed if path not in {*allowed, "train.steps"}]
    if refused := [path for path in refused if path.partition(".")[0] not in refused or "." not in path]:
        conflicts = ", ".join(
            f"{path}={given.get(path)} differs from {before.get(path)} in {directory}" for path in refused
        )
        can_allow = allow_change is not None
        raise InputError(f"{conflicts}; {_advice(stored, refused, can_allow=can_allow, same_state=same_state)}")
    return [dict(zip(CHANGE_FIELDS, (path, before.get(path), given.get(path)), strict=True)) for path in changed]


def _advice(stored: StoredRun, refused: Sequence[str], *, can_allow: bool, same_state: Callable[[], bool]) -> str:
    """Return what to do if settings are refused; arguments as for `changed_settings`."""
    if not can_allow:
        return f"choose another {'--workdir' if stored.has_config else 'directory'}, or the values of the stored run"
    if not stored.has_config:
        return f"choose another directory, or allow the change with allow_change={refused}"
    option = f", or allow the change with --allow-change {' '.join(refused)}" if same_state() else ""
    return f"choose another --workdir, or pass --workdir alone to keep the run's settings{option}"


def _spans_steps(settings: Mapping[str, Any]) -> bool:
    """Return whether the learning rate of a step depends on the number of all steps."""
    name = settings.get("schedule")
    return name is not None and getattr(choices("schedule")[name], "spans_steps", False)


def state_arrays(state: TrainState) -> dict[str, str]:
    """Return dtype and shape of each array in a training state."""
    return {path: dtype_and_shape(leaf) for path, leaf in named_leaves(state)}


def changed_data(
    stored: Mapping[str, Any],
    given: Mapping[str, Any],
    settings: Mapping[str, Any],
    directory: RunDirectory,
    allow_change: Sequence[str] | None,
    *,
    stored_settings: Mapping[str, Any],
) -> list[dict[str, Any]]:
    """Return a record for each field of the data description that differs from the stored run.

    Args:
      stored: the description of the run's examples, see `describe_data`.
      given: that of the examples of this start.
      settings: the flat settings of this start.
      directory: the run's directory, for errors.
      allow_change: as for `changed_settings`.
      stored_settings: the flat settings of the run, for the error.

    Returns:
      Dictionaries with the keys of `CHANGE_FIELDS`.

    Raises:
      InputError: the arrays of an example differ, or `allow_change` lists no setting that selects the examples.
    """
    old, new = flatten_mapping(stored), flatten_mapping(given)
    changed = data_differences(stored, given)
    reshaped = any(not field.endswith(("sha256", "num_examples")) for field in changed)
    if reshaped or (changed and not _data_settings(settings).intersection(allow_change or ())):
        fixed = reshaped or allow_change is None
        if "data.name" not in settings:
            option = "" if fixed else ", or allow the change with allow_change=['data']"
            raise InputError(f"{directory} was trained on other examples than these; choose another directory{option}")
        problem, path = _why_data_differ(stored_settings, to_json_types(dict(settings)), directory)
        problem = problem or data_changed_message(settings["data.name"], directory, stored, given)
        option = "" if fixed else f", or allow the change with --allow-change {path}"
        raise InputError(f"{problem}; choose another --workdir{option}")
    return [dict(zip(CHANGE_FIELDS, (field, old.get(field), new.get(field)), strict=True)) for field in changed]


def _why_data_differ(
    stored: Mapping[str, Any], given: Mapping[str, Any], directory: RunDirectory
) -> tuple[str | None, str]:
    """Return which settings of the data differ, if any, and the name of one that allows other examples."""
    differing = [path for path in sorted(DATA_SETTINGS) if given.get(path) != stored.get(path)]
    if not differing:
        return None, "data.name"
    values = ", ".join(f"{path}={given.get(path)} differs from {stored.get(path)}" for path in differing)
    return f"{values} in {directory}, which changes its examples", differing[0]


def _data_settings(settings: Mapping[str, Any]) -> set[str]:
    """Return the settings that select the training examples; the seed does if it binarizes them once.

    The data of an experiment that is made by hand are no setting; a change of them is allowed as "data".
    """
    if "data.name" not in settings:
        return {"data"}
    preprocess = choices("preprocess").get(settings.get("preprocess", ""))
    return DATA_SETTINGS | ({"seed"} if getattr(preprocess, "in_memory", False) else set())


def describe_changes(changes: Sequence[Mapping[str, Any]], settings: Mapping[str, Any], step: int) -> list[str]:
    """Return a line for each change that this start of a run makes.

    Args:
      changes: all changes; those of earlier starts have a "step" and are skipped.
      settings: the flat settings of this start.
      step: the first step of this start.

    Returns:
      Lines such as "seed changes from 0 to 1 at step 20, as allowed by --allow-change".
    """

    def reason(setting: str) -> str:
        if setting == "train.steps":
            return f"and with it the learning rate (schedule={settings.get('schedule')} spans all steps)"
        return "as allowed by --allow-change"

    new = [(c["setting"], c["from"], c["to"]) for c in changes if "step" not in c]
    return [f"{name} changes from {old} to {now} at step {step}, {reason(name)}" for name, old, now in new]
