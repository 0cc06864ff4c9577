"""Many processes, one run: how they find each other, what they agree on, and who speaks for all.

All processes make the same calls in the same order. With one process nothing here costs anything.
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
    """Makes this process one of `num_processes`, before JAX looks for devices; time-outs in seconds.

    Without the first three, what SLURM, Open MPI, Kubernetes or a TPU pod says, as JAX finds it; where there is nothing
    of the kind, and for `num_processes` = 1, the process stays alone. Raises InputError in all processes that are there
    if a flag cannot be used, if one of them does not start in time, or if they have unequal numbers of devices.
    """
    _check(coordinator, num_processes, process_id)
    times = {"initialization": initialization_timeout, "heartbeat": heartbeat_timeout, "shutdown": shutdown_timeout}
    for name, seconds in times.items():
        if seconds < 1:
            raise InputError(f"--distributed.{name}-timeout={seconds} must be 1 or more")
    if num_processes == 1 or (coordinator is None and not _scheduled()):
        return
    if coordinator is not None:
        _meet(coordinator, num_processes, process_id, initialization_timeout)
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
        if coordinator is None and "should be defined" in str(error):  # libtpu is here, and no pod around it
            return
        told = " ".join(str(error).split())
        raise InputError(
            f"the processes cannot be joined ({told}); --distributed.num-processes 1 stays alone"
        ) from None
    held = collections.Counter(device.process_index for device in jax.devices())
    if len(set(held.values())) > 1:
        told = ", ".join(f"{count} in process {rank}" for rank, count in sorted(held.items()))
        raise InputError(f"devices: {told}; all processes must have as many")


def _check(coordinator: str | None, num_processes: int | None, process_id: int | None) -> None:
    given = dict(zip(_FLAGS, (coordinator, num_processes, process_id), strict=True))
    missing = [name for name, value in given.items() if value is None]
    if num_processes is not None and num_processes < 1:
        raise InputError(f"--distributed.num-processes={num_processes} must be 1 or more")
    if num_processes != 1 and 0 < len(missing) < len(given):
        flags = ", ".join(f"--distributed.{name.replace('_', '-')}" for name in missing)
        raise InputError(f"{flags}: missing; the three say together which processes there are")
    if process_id is not None and not 0 <= process_id < (num_processes or 1):
        raise InputError(f"--distributed.process-id={process_id} must be at least 0 and less than {num_processes}")
    if coordinator is not None and not coordinator.rpartition(":")[2].isdecimal():
        raise InputError(f"--distributed.coordinator={coordinator} must be HOST:PORT")


def _scheduled() -> bool:
    """Whether a scheduler that JAX knows has started several processes, or this may be one host of a TPU pod."""
    env = os.environ
    slurm = int(env.get("SLURM_NTASKS", 1)) if {"SLURM_PROCID", "SLURM_STEP_NODELIST"} <= env.keys() else 1
    kubernetes = {"KUBERNETES_SERVICE_HOST", "JOB_COMPLETION_INDEX"} <= env.keys()
    several = max(slurm, int(env.get("OMPI_COMM_WORLD_SIZE", 1))) > 1
    return several or kubernetes or importlib.util.find_spec("libtpu") is not None


def _meet(coordinator: str, num_processes: int, process_id: int, timeout: float) -> None:
    """Returns once all processes are there; else raises InputError that names who is not.

    JAX would end each of them by SIGABRT, and name nobody. Process 0 listens where JAX's service is to be, hears the
    number of each, and tells all of them "" or what is wrong.
    """
    host, _, port = coordinator.rpartition(":")
    if process_id == 0:
        verdict = _receive(int(port), num_processes, timeout)
    else:
        verdict = _report((host.strip("[]"), int(port)), f"{process_id} {num_processes}", timeout)
    if verdict:
        raise InputError(verdict)


def _receive(port: int, num_processes: int, timeout: float) -> str:
    deadline, here, wrong = time.monotonic() + timeout, {}, ""
    dual = {"family": socket.AF_INET6, "dualstack_ipv6": True} if socket.has_dualstack_ipv6() else {}
    try:
        server = socket.create_server(("", port), **dual)
    except OSError as error:
        return f"--distributed.coordinator: process 0 cannot listen on port {port} ({error.strerror})"
    with server, contextlib.ExitStack() as stack:
        while len(here) < num_processes - 1 and not wrong and (left := deadline - time.monotonic()) > 0:
            server.settimeout(left)
            try:
                connection = stack.enter_context(server.accept()[0])
                connection.settimeout(min(left, 5))
                rank, count = map(int, connection.recv(64).split())
            except (OSError, ValueError):  # nobody came, or someone who is none of us
                continue
            if count != num_processes:
                wrong = f"--distributed.num-processes: {num_processes} in process 0, {count} in process {rank}"
            elif rank in here:
                wrong = f"--distributed.process-id: {rank} given to two processes"
            here[rank] = connection
        absent = [str(rank) for rank in range(1, num_processes) if rank not in here]
        if absent and not wrong:
            wrong = f"{_listed(absent)} of {num_processes} did not start within {timeout:g} s"
        for connection in here.values():
            with contextlib.suppress(OSError):
                connection.sendall(f"{wrong}\n".encode())
    return wrong


def _report(address: tuple[str, int], line: str, timeout: float) -> str:
    deadline = time.monotonic() + timeout
    while (left := deadline - time.monotonic()) > 0:
        try:
            connection = socket.create_connection(address, timeout=left)
        except OSError:  # not there yet
            time.sleep(min(0.1, left))
            continue
        with connection, contextlib.suppress(OSError):
            connection.sendall(line.encode())
            connection.settimeout(timeout + 5)  # process 0 waits no longer
            if answer := connection.makefile().readline():
                return answer.strip()
        break
    return f"process 0 did not answer at {address[0]}:{address[1]} within {timeout:g} s"


def _listed(ranks: list[str]) -> str:
    return f"process {ranks[0]}" if len(ranks) == 1 else f"processes {', '.join(ranks)}"


def is_single_process() -> bool:
    """Whether there is no other process; asks JAX for no device where it can be told without."""
    jax = sys.modules.get("jax")
    return jax is None or not jax.distributed.is_initialized() or jax.process_count() == 1


def is_primary() -> bool:
    """Whether this process speaks and writes for all."""
    return is_single_process() or sys.modules["jax"].process_index() == 0


def exit_process(code: int, *, with_all: bool = False) -> NoReturn:
    """Ends this process with an exit code and without its threads, which may wait for others that never come.

    At once, for the others to notice; or, `with_all`, when all have come here: the first serves them, and ends last.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    if with_all:
        sys.modules["jax"].distributed.shutdown()
    os._exit(code)


class LocalError(Exception):
    """An error, its cause, that the others do not meet: its process has to `leave` at once, or they wait in vain."""


def lost_process_error(error: BaseException | None) -> LostProcessError | None:
    """What an error, or one that led to it, says of another process that has ended; None if it is this one's own."""
    import jax

    while error is not None:
        told = " ".join(str(error).split())
        status = _STATUS.match(told)  # jaxlib raises one that comes while an array is read as a ValueError
        if (isinstance(error, jax.errors.JaxRuntimeError) or status) and not told.startswith("RESOURCE_EXHAUSTED"):
            return LostProcessError(
                f"another process has ended ({told[:200]}); the same commands go on from the last save"
            )
        error = error.__cause__ or error.__context__
    return None


def run_on_all(action: Callable[[], T], *, expected: type[Exception] = VaeJaxError) -> T:
    """What `action` returns here, once it has succeeded in all processes.

    Raises in all of them the error, of the kind `expected`, of the first that failed: else the others would wait for
    it in vain. `action` itself must not wait for another process.
    """
    if is_single_process():
        return action()
    result, told = None, ""
    try:
        result = action()
    except expected as error:
        told = json.dumps([type(error).__name__, str(error)])
    found = gather_text(told)
    for rank, text in enumerate(found):
        if text:
            kind, message = json.loads(text)
            raise getattr(errors, kind, expected)(message if len(set(found)) == 1 else f"process {rank}: {message}")
    return result


def run_on_primary(action: Callable[[], T]) -> T | None:
    """What `action` returns, done by the first process for all (None in the others); raises in all what it raises."""
    return run_on_all(lambda: action() if is_primary() else None)


def broadcast_from_primary(action: Callable[[], T]) -> T:
    """What `action` returns in the first process, in all, as JSON holds it: for files that others may see later."""
    if is_single_process():
        return action()
    return json.loads(gather_text(run_on_primary(lambda: json.dumps(action())) or "")[0])


def check_equal_across_processes(facts: Mapping[str, Any]) -> None:
    """Raises InputError in all processes unless all hold the same `facts`, which JSON must be able to hold."""
    first, *others = (json.loads(text) for text in gather_text(json.dumps(facts)))
    for rank, other in enumerate(others, start=1):
        different = [name for name in {**first, **other} if first.get(name) != other.get(name)]
        if different:
            told = [
                f"{name}: {first.get(name)} in process 0, {other.get(name)} in process {rank}" for name in different
            ]
            raise InputError(f"{'; '.join(told)}; all processes must be given the same")


def gather_text(text: str) -> list[str]:
    """The text of each process, in all of them."""
    if is_single_process():
        return [text]
    import numpy as np
    from jax.experimental import multihost_utils

    content = text.encode()
    longest = int(multihost_utils.process_allgather(np.int32(len(content))).max())
    padded = np.zeros(1 << max(longest, 1).bit_length(), np.uint8)  # few lengths, few compilations
    padded[: len(content)] = np.frombuffer(content, np.uint8)
    return [bytes(row).rstrip(b"\0").decode() for row in multihost_utils.process_allgather(padded)]


def any_process(asked: Callable[[], bool]) -> Callable[[], bool]:
    """`asked` as all processes answer it alike: whether it was true in any of them, at the call before.

    One call late, nobody waits: the answer has been on its way while the devices worked on what was dispatched since.
    """
    if is_single_process():
        return asked
    import jax
    import numpy as np

    mesh = jax.make_mesh((jax.device_count(),), ("all",), axis_types=(jax.sharding.AxisType.Auto,))
    everywhere = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    spread = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("all"))
    any_of = jax.jit(jax.numpy.any, out_shardings=everywhere)
    answers = collections.deque([False])

    def ask() -> bool:
        own = np.full(jax.local_device_count(), asked())
        answers.append(any_of(jax.make_array_from_process_local_data(spread, own)))
        return bool(answers.popleft())

    return ask
