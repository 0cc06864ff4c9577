"""runs.members."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple
from urllib.parse import quote

from vae_jax.config import Config, apply_overrides, differences, flatten
from vae_jax.errors import InputError

# Numbers that no shape, branch or data set depends on: models that differ in these alone can be one program.
BATCHABLE_SETTINGS = frozenset(
    (
        "seed", "objective.beta", "objective.free_bits", "objective.capacity", "objective.elbo_weight",
        "objective.mmd_weight", "optimizer.learning_rate", "optimizer.b1", "optimizer.b2", "optimizer.eps",
        "optimizer.weight_decay",
    )
)  # fmt: skip


class Member(NamedTuple):
    """One model of a sweep."""

    varied: dict[str, Any]  # path -> value, of the settings that the sweep varies
    config: Config

    @property
    def name(self) -> str:
        """The member's directory within the sweep's, `objective.beta=2.0,seed=1`; what separates paths is quoted."""
        return ",".join(f"{path}={quote(str(value), safe='+')}" for path, value in self.varied.items())


def make_members(config: Config, varied: Mapping[str, Sequence[Any]]) -> list[Member]:
    """The product of all values, the last setting varying fastest; raises InputError as `validate` does."""
    if config.train.patience or "train.patience" in varied:
        raise InputError("train.patience: a sweep's members are trained for the same steps; set it to 0")
    if config.mesh.fsdp > 1 or "mesh.fsdp" in varied:
        raise InputError("mesh.fsdp: a sweep spreads its members over the devices, each whole; set it to 1")
    points = [dict(zip(varied, point, strict=True)) for point in itertools.product(*varied.values())]
    found = [Member(point, apply_overrides(config, point)) for point in points]
    if len({member.name for member in found}) < len(found):
        raise InputError("--vary: a value is given twice")
    return found


def group_members(sweep: Sequence[Member]) -> list[list[Member]]:
    """Members that can be one program: those that differ in `SIDE_BY_SIDE` alone, and read the same images."""
    found: list[list[Member]] = []
    for member in sweep:
        own_data = member.config.data.binarization == "static"  # drawn once, from the seed
        apart = BATCHABLE_SETTINGS - {"seed"} if own_data else BATCHABLE_SETTINGS
        for group in found:
            if not differences(flatten(group[0].config), flatten(member.config), ignore=apart):
                group.append(member)
                break
        else:
            found.append([member])
    return found
