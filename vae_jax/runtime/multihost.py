"""Runs of several processes: rendezvous, collective calls on the host, and the errors of lost processes.

All processes must make the same calls in the same order. With one process no call here communicates.
"""

import collections
import contextlib
import importlib.util
import json
import os
import re
import socket
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, NoReturn, TypeVar

from vae_jax import errors
from vae_jax.errors import InputError, LostProcessError, VaeJaxError

T = TypeVar("T")
_STATUS = re.compile(r"(UNKNOWN|UNAVAILABLE|ABORTED|CANCELLED|DEADLINE_EXCEEDED|INTERNAL|FAILED_PRECONDITION): ")
_MAX_SECONDS = 10**6  # of a timeout: twelve days, which the timers of all libraries can represent
_FLAGS = ("coordinator", "num_processes", "process_id")


def initialize(
    *,
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    initialization_timeout: int = 300,
    heartbeat_timeout: int = 100,
    shutdown_timeout: int = 300,
) -> None:
    """Join this process to a run of `num_processes` processes, before JAX initializes its devices.

    Without the first three arguments, JAX detects SLURM, Open MPI, Kubernetes or a TPU pod. If there is none of them,
    or `num_processes` is 1, the process runs alone.

    Args:
      coordinator: The address HOST:PORT of process 0.
      num_processes: The number of processes.
      process_id: The rank of this process, from 0 to `num_processes` - 1.
      initialization_timeout: Seconds to wait until all processes have started.
      heartbeat_timeout: Seconds without a heartbeat after which a process counts as lost.
      shutdown_timeout: Seconds to wait until all processes have reached the end.

    Raises:
      InputError: In all started processes, if an argument is invalid, a process is missing, or device counts differ.
    """
    _check_flags(coordinator, num_processes, process_id)
    _check_timeouts(initialization=initialization_timeout, heartbeat=heartbeat_timeout, shutdown=shutdown_timeout)
    if num_processes == 1 or (coordinator is None and not _scheduled()):
        return
    if coordinator is not None and num_processes is not None and process_id is not None:
        _rendezvous(coordinator, num_processes, process_id, initialization_timeout)
    import jax

    try:
        jax.distributed.initialize(
            coordinator,
            num_processes,
            process_id,
            initialization_timeout=initialization_timeout,
            heartbeat_timeout_seconds=heartbeat_timeout,
            shutdown_timeout_seconds=shutdown_timeout,
        )
    except (ValueError, RuntimeError, OSError) as error:
        if coordinator is None and "should be defined" in str(error):  # libtpu is installed on a host outside a pod
            return
        cause = " ".join(str(error).split())
        raise InputError(
            f"the processes cannot be joined ({cause}); set --distributed.num-processes 1 to run this process alone"
        ) from None
    _check_equal_devices()


def _check_timeouts(**timeouts: int) -> None:
    for name, seconds in timeouts.items():
        if not 1 <= seconds <= _MAX_SECONDS:
            raise InputError(f"--distributed.{name}-timeout={seconds} must be from 1 to {_MAX_SECONDS}")


def _check_equal_devices() -> None:
    import jax

    counts = collections.Counter(device.process_index for device in jax.devices())
    if len(set(counts.values())) > 1:
        listed = ", ".join(f"{count} in process {rank}" for rank, count in sorted(counts.items()))
        raise InputError(f"devices: {listed}; all processes must have the same number of devices")


def _check_flags(coordinator: str | None, num_processes: int | None, process_id: int | None) -> None:
    given = dict(zip(_FLAGS, (coordinator, num_processes, process_id), strict=True))
    missing = [name for name, value in given.items() if value is None]
    if num_processes is not None and num_processes < 1:
        raise InputError(f"--distributed.num-processes={num_processes} must be 1 or more")
    if num_processes != 1 and 0 < len(missing) < len(given):
        flags, all_flags = (
            ", ".join(f"--distributed.{name.replace('_', '-')}" for name in names) for names in (missing, _FLAGS)
        )
        raise InputError(f"{flags}: missing; set all of {all_flags}, or none of them")
    if process_id is not None and not 0 <= process_id < (num_processes or 1):
        raise InputError(f"--distributed.process-id={process_id} must be at least 0 and less than {num_processes}")
    if coordinator is not None:
        host, _, port = coordinator.rpartition(":")
        if not (host and re.fullmatch("[0-9]{1,5}", port) and 0 < int(port) < 1 << 16):
            raise InputError(f"--distributed.coordinator={coordinator} must be HOST:PORT with a port from 1 to 65535")


def _scheduled() -> bool:
    """Return whether a scheduler that JAX detects has started several processes, or this may be a host of a TPU pod."""
    env = os.environ
    slurm = int(env.get("SLURM_NTASKS", 1)) if {"SLURM_PROCID", "SLURM_STEP_NODELIST"} <= env.keys() else 1
    kubernetes = {"KUBERNETES_SERVICE_HOST", "JOB_COMPLETION_INDEX"} <= env.keys()
    several = max(slurm, int(env.get("OMPI_COMM_WORLD_SIZE", 1))) > 1
    return several or kubernetes or importlib.util.find_spec("libtpu") is not None


def _rendezvous(coordinator: str, num_processes: int, process_id: int, timeout: float) -> None:
    """Return once all processes have started; raise an InputError that names the missing ones after the timeout.

    JAX would end each process by SIGABRT and name none. Here process 0 listens at the address that JAX's service uses
    afterwards, receives the rank of each process, and sends to all of them "" or the error message.
    """
    host, _, port = coordinator.rpartition(":")
    if process_id == 0:
        problem = _receive_ranks(int(port), num_processes, timeout)
    else:
        problem = _send_rank((host.strip("[]"), int(port)), f"{process_id} {num_processes}", timeout)
    if problem:
        raise InputError(problem)


def _receive_ranks(port: int, num_processes: int, timeout: float) -> str:
    deadline, connections, problem = time.monotonic() + timeout, {}, ""
    dual = {"family": socket.AF_INET6, "dualstack_ipv6": True} if socket.has_dualstack_ipv6() else {}
    try:
        server = socket.create_server(("", port), **dual)
    except OSError as error:
        return f"--distributed.coordinator: process 0 cannot listen on port {port} ({error.strerror})"
    with server, contextlib.ExitStack() as stack:
        while len(connections) < num_processes - 1 and not problem and (left := deadline - time.monotonic()) > 0:
            server.settimeout(left)
            try:
                connection = stack.enter_context(server.accept()[0])
                connection.settimeout(min(left, 5))
                rank, count = map(int, connection.recv(64).split())
            except (OSError, ValueError):  # a timeout, or a client that does not belong to the run
                continue
            if count != num_processes:
                problem = f"--distributed.num-processes={num_processes} in process 0 and {count} in process {rank}"
                problem += "; set the same number in all processes"
            elif rank in connections:
                problem = f"--distributed.process-id={rank} is set in two processes; set a different one in each"
            connections[rank] = connection
        absent = [str(rank) for rank in range(1, num_processes) if rank not in connections]
        if absent and not problem:
            problem = f"{_format_ranks(absent)} of {num_processes} did not start within {timeout:g} s"
        for connection in connections.values():
            with contextlib.suppress(OSError):
                connection.sendall(f"{problem}\n".encode())
    return problem


def _send_rank(address: tuple[str, int], line: str, timeout: float) -> str:
    deadline = time.monotonic() + timeout
    while (left := deadline - time.monotonic()) > 0:
        try:
            connection = socket.create_connection(address, timeout=left)
        except OSError:  # Process 0 does not listen yet.
            time.sleep(min(0.1, left))
            continue
        with connection, contextlib.suppress(OSError):
            connection.sendall(line.encode())
            connection.settimeout(timeout + 5)  # Process 0 waits no longer than this.
            if answer := connection.makefile().readline():
                return answer.strip()
        break
    return f"process 0 did not answer at {address[0]}:{address[1]} within {timeout:g} s"


def _format_ranks(ranks: list[str]) -> str:
    return f"process {ranks[0]}" if len(ranks) == 1 else f"processes {', '.join(ranks)}"


def is_single_process() -> bool:
    """Return whether the run has one process. Does not initialize JAX's devices if that is known without them."""
    jax = sys.modules.get("jax")
    return jax is None or not jax.distributed.is_initialized() or jax.process_count() == 1


def is_primary() -> bool:
    """Return whether this process is the primary process, rank 0, which logs and writes files for all."""
    return is_single_process() or sys.modules["jax"].process_index() == 0


def exit_process(code: int, *, with_all: bool = False) -> NoReturn:
    """End this process without waiting for its threads, which may wait for processes that are lost.

    Args:
      code: The exit code.
      with_all: If False, end at once, so that the other processes notice. If True, end when all processes have called
        this function; the primary process, which serves the others, ends last.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    if with_all:
        sys.modules["jax"].distributed.shutdown()
    os._exit(code)


class LocalError(Exception):
    """An error that only this process has, stored as `__cause__`.

    The process must call `exit_process` at once, because the other processes would wait for it without end.
    """


def lost_process_error(error: BaseException | None) -> LostProcessError | None:
    """Return a LostProcessError if an error or one of its causes shows that another process has ended.

    Args:
      error: An error of this process, or None.

    Returns:
      The LostProcessError, or None if the error has another cause.
    """
    import jax

    while error is not None:
        text = " ".join(str(error).split())
        # jaxlib raises an error of a transfer from device to host as a ValueError, with the status in its text.
        status = _STATUS.match(text)
        if (isinstance(error, jax.errors.JaxRuntimeError) or status) and not text.startswith("RESOURCE_EXHAUSTED"):
            return LostProcessError(
                f"another process has ended ({text[:200]}); run the same commands again to resume from the last "
                "checkpoint"
            )
        error = error.__cause__ or error.__context__
    return None


def run_on_all(action: Callable[[], T], *, expected: type[Exception] = VaeJaxError) -> T:
    """Run an action in every process, and raise the first process's error in all of them if one fails.

    Without this exchange, the other processes would wait without end for the one that failed.

    Args:
      action: The function to call. It must not wait for another process.
      expected: The class of errors that are raised in all processes.

    Returns:
      What `action` returned in this process, after it has succeeded in all processes.

    Raises:
      VaeJaxError: In all processes, the error of the lowest rank that failed; of the class `expected`.
    """
    if is_single_process():
        return action()
    results, failure = [], ""
    try:
        results.append(action())
    except expected as error:
        failure = json.dumps([type(error).__name__, str(error)])
    failures = gather_text(failure)
    for rank, text in enumerate(failures):
        if text:
            kind, message = json.loads(text)
            raise getattr(errors, kind, expected)(message if len(set(failures)) == 1 else f"process {rank}: {message}")
    return results[0]


def run_on_primary(action: Callable[[], T]) -> T | None:
    """Run an action in the primary process only; raise its VaeJaxError in all processes.

    Args:
      action: The function to call. It must not wait for another process.

    Returns:
      What `action` returned in the primary process, and None in the others.
    """
    return run_on_all(lambda: action() if is_primary() else None)


def broadcast_from_primary(action: Callable[[], T]) -> T:
    """Run an action in the primary process and return its result in all processes.

    Use it to read files that other processes may see later, on a network file system.

    Args:
      action: The function to call. Its result must survive JSON.

    Returns:
      What `action` returned in the primary process, after a round trip through JSON if there are several processes.
    """
    if is_single_process():
        return action()
    return json.loads(gather_text(run_on_primary(lambda: json.dumps(action())) or "")[0])


def check_equal_across_processes(facts: Mapping[str, Any]) -> None:
    """Raise an error in all processes unless all have the same values.

    Args:
      facts: The values by name. They must be JSON values.

    Raises:
      InputError: In all processes, if a value differs between process 0 and another process.
    """
    first, *others = (json.loads(text) for text in gather_text(json.dumps(facts)))
    for rank, other in enumerate(others, start=1):
        names = [name for name in {**first, **other} if first.get(name) != other.get(name)]
        if names:
            listed = [
                f"{name}={first.get(name)} in process 0 and {other.get(name)} in process {rank}" for name in names
            ]
            raise InputError(f"{'; '.join(listed)}; set the same in all processes")


def gather_text(text: str) -> list[str]:
    """Return the texts of all processes, by rank, in every process."""
    if is_single_process():
        return [text]
    import numpy as np
    from jax.experimental import multihost_utils

    content = text.encode()
    longest = int(multihost_utils.process_allgather(np.int32(len(content))).max())
    padded = np.zeros(1 << max(longest, 1).bit_length(), np.uint8)  # few lengths, so few compilations
    padded[: len(content)] = np.frombuffer(content, np.uint8)
    return [bytes(row).rstrip(b"\0").decode() for row in multihost_utils.process_allgather(padded)]


def any_process(condition: Callable[[], bool]) -> Callable[[], bool]:
    """Return a function that reports in all processes whether a condition held in any of them at the previous call.

    The result is one call late, so that no process waits: it is communicated while the devices run the programs that
    were dispatched since.

    Args:
      condition: Evaluated in this process at each call.

    Returns:
      A function without arguments, with the same result in all processes. With one process it is `condition`.
    """
    if is_single_process():
        return condition
    import jax
    import numpy as np

    mesh = jax.make_mesh((jax.device_count(),), ("all",), axis_types=(jax.sharding.AxisType.Auto,))
    replicated = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    sharded = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("all"))
    reduce_any = jax.jit(jax.numpy.any, out_shardings=replicated)
    pending = collections.deque([False])

    def previous() -> bool:
        local = np.full(jax.local_device_count(), condition())
        pending.append(reduce_any(jax.make_array_from_process_local_data(sharded, local)))
        return bool(pending.popleft())

    return previous
