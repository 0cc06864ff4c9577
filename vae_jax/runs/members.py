"""The members of a sweep: the product of several settings, and the groups of members that one program can train."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple
from urllib.parse import quote

from vae_jax.config import Config, apply_overrides, differences, flatten
from vae_jax.errors import InputError

# Numbers on which no shape, branch or data set depends: one program can train models that differ only in these.
BATCHABLE_SETTINGS = frozenset(
    (
        "seed", "objective.beta", "objective.free_bits", "objective.capacity", "objective.elbo_weight",
        "objective.mmd_weight", "optimizer.learning_rate", "optimizer.b1", "optimizer.b2", "optimizer.eps",
        "optimizer.weight_decay",
    )
)  # fmt: skip


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
        """The member's subdirectory, such as `objective.beta=2.0,seed=1`; path separators in values are quoted."""
        return ",".join(f"{path}={quote(str(value), safe='+')}" for path, value in self.varied.items())


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
    if config.train.patience or "train.patience" in varied:
        patience = varied.get("train.patience", config.train.patience)
        raise InputError(
            f"train.patience={patience} does not work in a sweep, which trains all members equally long; set it to 0"
        )
    if config.mesh.fsdp > 1 or "mesh.fsdp" in varied:
        fsdp = varied.get("mesh.fsdp", config.mesh.fsdp)
        raise InputError(
            f"mesh.fsdp={fsdp} does not work in a sweep, which keeps each member on one device; set it to 1"
        )
    points = [dict(zip(varied, point, strict=True)) for point in itertools.product(*varied.values())]
    members = [Member(point, apply_overrides(config, point)) for point in points]
    if len({member.name for member in members}) < len(members):
        raise InputError("--vary contains a value twice; give each value of a setting once")
    return members


def group_members(sweep: Sequence[Member]) -> list[list[Member]]:
    """Group the members that one program can train.

    The members of a group differ only in `BATCHABLE_SETTINGS` and read the same images.

    Args:
      sweep: all members.

    Returns:
      The groups, in the order of their first members.
    """
    groups: list[list[Member]] = []
    for member in sweep:
        seed_selects_images = member.config.data.binarization == "static"  # which samples them once, from the seed
        batchable = BATCHABLE_SETTINGS - {"seed"} if seed_selects_images else BATCHABLE_SETTINGS
        for group in groups:
            if not differences(flatten(group[0].config), flatten(member.config), ignore=batchable):
                group.append(member)
                break
        else:
            groups.append([member])
    return groups
