"""The members of a sweep over settings: their product, and the groups of members that one program can train."""

import itertools
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar
from urllib.parse import quote

from vae_jax.config import Config, apply_overrides, batchable_settings, differences, flatten
from vae_jax.errors import InputError
from vae_jax.runs.storage.directory import RunDirectory
from vae_jax.runtime import atomic_files

T = TypeVar("T")


class Member(NamedTuple):
    """One model of a sweep.

    Attributes:
      varied: the settings that the sweep varies, with this member's values.
      config: all settings of this member.
    """

    varied: dict[str, Any]
    config: Config

    @property
    def name(self) -> str:
        """The member's subdirectory, see `member_name`."""
        return member_name(self.varied)


def member_name(varied: Mapping[str, Any]) -> str:
    """Return the subdirectory of a member, such as `objective.beta=2.0,seed=1`; path separators are quoted."""
    return ",".join(f"{path}={quote(str(value), safe='+')}" for path, value in varied.items())


def make_points(varied: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """Return the product of the values of several settings; the last setting varies fastest.

    Raises:
      InputError: a value is given twice.
    """
    points = [dict(zip(varied, point, strict=True)) for point in itertools.product(*varied.values())]
    if len({member_name(point) for point in points}) < len(points):
        raise InputError("--vary contains a value twice; give each value of a setting once")
    return points


def refuse_patience(patience: int | Sequence[int]) -> None:
    """Raise InputError if a sweep uses early stopping, or varies it."""
    if patience:
        raise InputError(
            f"train.patience={patience} does not work in a sweep, which trains all members equally long; set it to 0"
        )


def make_members(config: Config, varied: Mapping[str, Sequence[Any]]) -> list[Member]:
    """Return the product of the values of several settings.

    Args:
      config: the settings that all members share.
      varied: setting -> values. The last setting varies fastest.

    Returns:
      One member for each combination of values.

    Raises:
      InputError: a value is invalid or given twice, or the sweep uses early stopping or shards over mesh.fsdp.
    """
    refuse_patience(varied.get("train.patience", config.train.patience))
    if config.mesh.fsdp > 1 or "mesh.fsdp" in varied:
        fsdp = varied.get("mesh.fsdp", config.mesh.fsdp)
        raise InputError(
            f"mesh.fsdp={fsdp} does not work in a sweep, which keeps each member on one device; set it to 1"
        )
    return [Member(point, apply_overrides(config, point)) for point in make_points(varied)]


def group_members(sweep: Sequence[Member]) -> list[list[Member]]:
    """Group the members that one program can train.

    The members of a group differ only in `batchable_settings()` and read the same examples.

    Args:
      sweep: all members.

    Returns:
      The groups, in the order of their first members.
    """
    groups: list[list[Member]] = []
    all_batchable = batchable_settings()
    for member in sweep:
        batchable = all_batchable
        if member.config.preprocess.in_memory:  # it samples the examples once, from the seed
            batchable -= {"seed"}
        for group in groups:
            if not differences(flatten(group[0].config), flatten(member.config), ignore=batchable):
                group.append(member)
                break
        else:
            groups.append([member])
    return groups


def require_one_group(members: Sequence[Member]) -> None:
    """Raise InputError unless one program can train all of these members, see `group_members`."""
    if len(groups := group_members(members)) > 1:
        a, b = (group[0].name for group in groups[:2])
        raise InputError(f"one program cannot train {a} and {b}; use a group that group_members returns")


def group_by_step(started: Sequence[T], steps_of: Callable[[T], Collection[int]]) -> list[list[T]]:
    """Group started members such that all members of a group have saved a common step, from which they resume.

    Args:
      started: the members.
      steps_of: returns the saved steps of a member.

    Returns:
      The groups, in the order of their first members.
    """
    groups: list[tuple[set[int], list[T]]] = []
    for member in started:
        steps = set(steps_of(member))
        for common, members in groups:
            if common & steps:
                common &= steps
                members.append(member)
                break
        else:
            groups.append((steps, [member]))
    return [members for _, members in groups]


def read_failure(directory: RunDirectory) -> str | None:
    """Return why the member of a sweep in a directory diverged in an earlier call; None if it did not."""
    try:
        return str(atomic_files.read_json(directory.failure)["failure"])
    except (OSError, ValueError, TypeError, KeyError):
        return None
