"""runtime.host."""

import os
import platform
import resource
from pathlib import Path

import jax

GROUP = Path("/sys/fs/cgroup")


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def available_memory() -> int | None:
    """Bytes that may still be taken: the least of the machine's free memory, what a control group leaves (a container's
    for example), and the process's own limits (`ulimit -v`, `ulimit -d`); None where nothing tells."""
    found = [left for left in (_of_machine(), _of_group(), *_of_limits()) if left is not None]
    return max(0, min(found)) if found else None


def _of_machine() -> int | None:
    try:
        return _kilobytes(Path("/proc/meminfo"), "MemAvailable")
    except (OSError, KeyError):
        pass
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):
        return None


def _of_group() -> int | None:
    try:
        left = int((GROUP / "memory.max").read_text()) - int((GROUP / "memory.current").read_text())
        counts = dict(line.split() for line in (GROUP / "memory.stat").read_text().splitlines())
        return left + int(counts["inactive_file"])  # pages of files that were read, which give way
    except (OSError, ValueError, KeyError):  # no such group, or `max`
        return None


def _of_limits() -> list[int]:
    """The address space, and the part of it that is data, each against its limit."""
    found = []
    for kind, used in ((resource.RLIMIT_AS, "VmSize"), (resource.RLIMIT_DATA, "VmData")):
        limit, _ = resource.getrlimit(kind)
        if limit != resource.RLIM_INFINITY:
            try:
                found.append(limit - _kilobytes(Path("/proc/self/status"), used))
            except (OSError, KeyError):
                found.append(limit)
    return found


def _kilobytes(path: Path, name: str) -> int:
    """Bytes of the line `name: N kB`."""
    lines = dict(line.partition(":")[::2] for line in path.read_text().splitlines())
    return int(lines[name].split()[0]) * 1024


def memory_limit(sharers: int = 1) -> int | None:
    """Bytes that a device can hold: what its runtime says, or, on a CPU, the machine's free memory over `sharers`
    devices; None where nothing tells."""
    stats = jax.local_devices()[0].memory_stats() or {}
    if limit := stats.get("bytes_limit"):
        return int(limit)
    free = available_memory()
    return None if free is None else free // sharers


def peak_memory() -> dict[str, int]:
    """The most bytes that were in use: by the process, and by the first device where its runtime tells."""
    unit = 1 if platform.system() == "Darwin" else 1024
    found = {"process": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit}
    stats = jax.local_devices()[0].memory_stats() or {}
    return found | ({"device": int(stats["peak_bytes_in_use"])} if "peak_bytes_in_use" in stats else {})
