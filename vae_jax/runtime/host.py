"""The host machine: processor cores, available memory and peak memory."""

import os
import platform
import resource
from pathlib import Path

from vae_jax.errors import InputError

CGROUP = Path("/sys/fs/cgroup")


def cores() -> int:
    """Return the number of processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def available_memory() -> int | None:
    """Return the bytes of memory that this process can still allocate.

    The result is the minimum of the machine's free memory, the free memory of the control group (of a container, for
    example), and the remainder of the process's limits (`ulimit -v`, `ulimit -d`).

    Returns:
      The number of bytes, or None if the operating system reports none of them.
    """
    sources = (_machine_memory(), _cgroup_memory(), *_memory_within_limits())
    free = [size for size in sources if size is not None]
    return max(0, min(free)) if free else None


def _machine_memory() -> int | None:
    try:
        return _kilobyte_field(Path("/proc/meminfo"), "MemAvailable")
    except (OSError, KeyError):
        pass
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):
        return None


def _cgroup_memory() -> int | None:
    try:
        free = int((CGROUP / "memory.max").read_text()) - int((CGROUP / "memory.current").read_text())
        counts = dict(line.split() for line in (CGROUP / "memory.stat").read_text().splitlines())
        return free + int(counts["inactive_file"])  # the page cache of files, which the kernel can drop
    except (OSError, ValueError, KeyError):  # There is no such group, or its limit is `max`.
        return None


def _memory_within_limits() -> list[int]:
    """Return what remains of the limits on the address space and on the data segment."""
    free = []
    for kind, used in ((resource.RLIMIT_AS, "VmSize"), (resource.RLIMIT_DATA, "VmData")):
        limit, _ = resource.getrlimit(kind)
        if limit != resource.RLIM_INFINITY:
            try:
                free.append(limit - _kilobyte_field(Path("/proc/self/status"), used))
            except (OSError, KeyError):
                free.append(limit)
    return free


def _kilobyte_field(path: Path, name: str) -> int:
    """Return the bytes that the line `name: N kB` of a file states."""
    for line in path.read_text().splitlines():
        key, _, value = line.partition(":")
        if key == name:
            return int(value.split()[0]) * 1024
    raise KeyError(name)


def memory_limit(num_devices: int = 1) -> int | None:
    """Return the bytes of memory of the first device.

    Args:
      num_devices: The number of CPU devices that share the machine's memory. Other devices ignore it.

    Returns:
      The limit that the device's runtime reports. A CPU has none: there it is `available_memory` over
      `num_devices`. None if neither is known.
    """
    import jax  # here, so that reading data does not start JAX

    stats = jax.local_devices()[0].memory_stats() or {}
    if limit := stats.get("bytes_limit"):
        return int(limit)
    free = available_memory()
    return None if free is None else free // num_devices


def free_memory(num_devices: int = 1) -> int | None:
    """Return the bytes of memory of the first device that are not in use, as `memory_limit` of what is left.

    Args:
      num_devices: The number of CPU devices that share the machine's memory. Other devices ignore it.
    """
    import jax  # here, so that reading data does not start JAX

    stats = jax.local_devices()[0].memory_stats() or {}
    limit = memory_limit(num_devices)
    return None if limit is None else max(0, limit - int(stats.get("bytes_in_use", 0)))


def platform_error() -> InputError | None:
    """Return the error for devices that JAX cannot start, such as JAX_PLATFORMS=cuda without CUDA; None if it can."""
    try:
        import jax

        jax.devices()
    except Exception as error:  # of several kinds: AssertionError without a text, RuntimeError, ValueError
        platforms, reason = os.environ.get("JAX_PLATFORMS"), " ".join(str(error).split())[:200] or "no such device"
        if platforms:
            remedy = "unset it, or install JAX for these devices"
            return InputError(f"JAX_PLATFORMS={platforms} cannot be used here ({reason}); {remedy}")
        return InputError(f"JAX cannot be started ({reason}); correct its environment variables, or its installation")
    return None


def expand_home(path: str, setting: str) -> Path:
    """Return a path in which `~` and `~user` are replaced by a home directory.

    Args:
      path: The path.
      setting: The setting that the error message names.

    Raises:
      InputError: If there is no such home directory, as for a user of a container without HOME.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise InputError(
            f"{setting}={path} begins with a home directory that is unknown; pass the complete path"
        ) from None


def peak_memory() -> dict[str, int]:
    """Return the peak memory in bytes: of the `process`, and of the first `device` if its runtime reports it."""
    unit = 1 if platform.system() == "Darwin" else 1024
    peak = {"process": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit}
    import jax  # here, so that reading data does not start JAX

    stats = jax.local_devices()[0].memory_stats() or {}
    return peak | ({"device": int(stats["peak_bytes_in_use"])} if "peak_bytes_in_use" in stats else {})
