"""The file environment.json of a run: the versions and devices with which its last start has trained."""

import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import jax

from vae_jax.runtime import Placement, host

PACKAGES = ("vae-jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")  # on which results depend


def describe_environment(placement: Placement) -> dict[str, Any]:
    """Return the versions and the devices of this process, without names of the machine or of folders.

    Args:
      placement: the devices.

    Returns:
      `versions` {package: version}, `python`, `platform`, `processor`, `cores`, `device` (its kind), `num_devices` and
      `num_processes`.
    """
    return {
        "versions": {name: found for name in PACKAGES if (found := _version(name)) is not None},
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "cores": host.cores(),
        "device": placement.mesh.devices.flat[0].device_kind,
        "num_devices": placement.mesh.size,
        "num_processes": jax.process_count(),
    }


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _processor() -> str:
    """Return the name of the processor; what Python knows of it where Linux does not state it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "") or platform.processor()
