"""Where arrays are: a mesh of devices, and the shardings of training states, batches and data on it."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding

from vae_jax.runtime import sharding


@dataclasses.dataclass(frozen=True)
class Placement:
    """The devices of a run and the shardings on them; `Placement()` uses all devices for the batch.

    Attributes:
      mesh: the mesh with the axes `data` and `fsdp`, see `make_mesh`.
    """

    mesh: Mesh = dataclasses.field(default_factory=sharding.make_mesh)

    @property
    def replicated(self) -> NamedSharding:
        """The sharding that puts a complete copy of an array on each device."""
        return sharding.replicated(self.mesh)

    @property
    def batch(self) -> NamedSharding:
        """The sharding of a batch [B, ...]: the leading axis over all devices."""
        return sharding.batch_sharding(self.mesh)

    def steps(self, microbatches: int) -> NamedSharding:
        """Return the sharding of the batches of several steps, [steps, B, ...] or [steps, M, B/M, ...]."""
        return sharding.steps_sharding(self.mesh, microbatches=microbatches)

    def state(self, state: Any) -> Any:
        """Return the sharding of each leaf of a training state, which is a pytree of arrays or of their shapes."""
        return sharding.state_shardings(state, self.mesh)

    def place_batch(self, batch: Any) -> Any:
        """Constrain each leaf [B, ...] of a batch to `batch`, inside of a jitted program."""
        return jax.tree.map(lambda leaf: jax.lax.with_sharding_constraint(leaf, self.batch), batch)

    def gather_params(self, loss: Callable[..., Any]) -> Callable[..., Any]:
        """Return a loss whose parameters are gathered from the devices of `fsdp`, see `sharding.gather_params`."""
        return sharding.gather_params(loss, self.mesh)

    @property
    def compiler_options(self) -> dict[str, int] | None:
        """The options of XLA for training and evaluation on these devices."""
        return sharding.compiler_options(self.mesh)

    @property
    def static_step_count(self) -> bool:
        """Whether a program must be compiled for a fixed number of steps."""
        return sharding.needs_static_step_count(self.mesh)
