"""Many processes, one run: they find each other or say who is missing, agree, stop together, and end together."""

import ast
import contextlib
import json
import os
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from damage import damage_unseen
from training_runs import flags

from vae_jax.cli.main import main
from vae_jax.config.building import override
from vae_jax.data.loading import open_records
from vae_jax.errors import InputError, LostProcessError
from vae_jax.runs import opening, recorder, restoring, train_loop
from vae_jax.runs.checkpoints import Checkpoints
from vae_jax.runs.loggers import read_metrics
from vae_jax.runtime import multihost

HERE = Path(__file__).parents[2]
HEARTBEAT = 10  # seconds
PATIENCE = 240  # seconds, on a machine with other work
LOST = (LostProcessError.exit_code, -signal.SIGABRT)  # whether an exchange breaks first, or JAX notices
UNDER_WAY = "*.orbax-checkpoint-tmp*"


def free_port():
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return free.getsockname()[1]


# How they find each other.


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ({"process_id": 0}, "--distributed.coordinator, --distributed.num-processes: missing"),
        ({"coordinator": "a:1", "num_processes": 2}, "--distributed.process-id: missing"),
        ({"num_processes": 0}, "--distributed.num-processes=0 must be 1 or more"),
        (
            {"coordinator": "a:1", "num_processes": 2, "process_id": 2},
            "process-id=2 must be at least 0",
        ),
        ({"coordinator": "a", "num_processes": 2, "process_id": 0}, "coordinator=a must be HOST:PORT"),
        ({"heartbeat_timeout": 0}, "--distributed.heartbeat-timeout=0 must be 1 or more"),
    ],
)
def test_what_the_flags_say_must_fit_together(given, line):
    with pytest.raises(InputError, match=line):
        multihost.initialize(**given)


@pytest.mark.parametrize(
    ("environment", "several"),
    [
        ({}, False),
        ({"SLURM_JOB_ID": "1", "SLURM_NTASKS": "8"}, False),  # in the batch script, outside of srun
        ({"SLURM_PROCID": "0", "SLURM_STEP_NODELIST": "n1", "SLURM_NTASKS": "1"}, False),
        ({"SLURM_PROCID": "0", "SLURM_STEP_NODELIST": "n[1-2]", "SLURM_NTASKS": "2"}, True),
        ({"OMPI_COMM_WORLD_SIZE": "1"}, False),
        ({"OMPI_COMM_WORLD_SIZE": "4"}, True),
        ({"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, False),  # a pod on its own
        ({"KUBERNETES_SERVICE_HOST": "10.0.0.1", "JOB_COMPLETION_INDEX": "0"}, True),
    ],
)
def test_a_scheduler_is_seen_where_it_has_started_several(environment, several, monkeypatch):
    monkeypatch.setattr(os, "environ", environment)
    monkeypatch.setattr(multihost.importlib.util, "find_spec", lambda name: None)
    assert multihost._scheduled() is several
    joined = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda *args, **times: joined.append(args))
    multihost.initialize()
    multihost.initialize(num_processes=1)  # this one alone, whatever the scheduler says
    assert joined == [(None, None, None)] * several


def test_a_host_with_libtpu_and_no_pod_stays_alone(monkeypatch):
    def initialize(*args, **times):
        raise ValueError("coordinator_address should be defined.")

    monkeypatch.setattr(multihost.importlib.util, "find_spec", lambda name: True)
    monkeypatch.setattr(jax.distributed, "initialize", initialize)
    multihost.initialize()
    assert multihost.is_single_process()


def meet(*which, of, timeout=5.0):
    """{process: what `_meet` raises in it, or None}, each a thread."""
    address, found = f"localhost:{free_port()}", {}

    def one(rank, count):
        try:
            found[rank] = multihost._meet(address, count, rank, timeout)
        except InputError as error:
            found[rank] = str(error)

    threads = [threading.Thread(target=one, args=(rank, of.get(rank, 3))) for rank in which]
    for thread in threads:
        thread.start()
    if 0 in which:  # someone who is none of them knocks too
        with contextlib.suppress(OSError), socket.create_connection(("localhost", int(address[10:])), 1) as stranger:
            stranger.sendall(b"GET / HTTP/1.1\r\n\r\n")
    for thread in threads:
        thread.join()
    return found


def test_processes_meet_or_name_who_is_not_there():
    assert meet(2, 0, 1, of={}) == {0: None, 1: None, 2: None}
    missing = "process 2 of 3 did not start within 0.5 s"
    assert meet(0, 1, of={}, timeout=0.5) == {0: missing, 1: missing}
    assert meet(0, of={}, timeout=0.2) == {0: "processes 1, 2 of 3 did not start within 0.2 s"}
    (line,) = meet(1, of={}, timeout=0.2).values()
    assert line.startswith("process 0 did not answer at localhost:")
    wrong = "--distributed.num-processes: 3 in process 0, 4 in process 1"
    assert meet(0, 1, of={1: 4}) == {0: wrong, 1: wrong}
    assert meet(0, 1, 1, of={})[0] == "--distributed.process-id: 1 given to two processes"


def test_a_port_that_is_taken_is_told():
    with socket.create_server(("", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(InputError, match=rf"process 0 cannot listen on port {port} \(Address already in use"):
            multihost._meet(f"localhost:{port}", 2, 0, 1)


def test_a_process_alone_agrees_with_itself():
    asked = bool
    assert multihost.any_process(asked) is asked
    assert (
        multihost.run_on_all(lambda: 3)
        == multihost.run_on_primary(lambda: 3)
        == multihost.broadcast_from_primary(lambda: 3)
        == 3
    )
    multihost.check_equal_across_processes({"seed": 0})


# Two of them.


def start(rank, port, *command, flags=(), **kwargs):
    """A process of one device; `command` runs in it, with the flags that join it to another."""
    environment = os.environ | {
        "XLA_FLAGS": f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=1",  # the last one counts
        "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(HERE),
    }  # fmt: skip
    join = ["--distributed.coordinator", f"localhost:{port}", "--distributed.num-processes", "2"]
    join += ["--distributed.process-id", str(rank), "--distributed.initialization-timeout", str(PATIENCE)]
    join += ["--distributed.heartbeat-timeout", str(HEARTBEAT), "--distributed.shutdown-timeout", "10"]
    return subprocess.Popen(
        [sys.executable, *command, *flags, *join],
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **kwargs,
    )  # fmt: skip


@contextlib.contextmanager
def pair(*command, rank=lambda rank: {}):
    """Both processes of a run; killed at the end if they are still there."""
    port = free_port()
    both = [start(r, port, *command, **rank(r)) for r in (0, 1)]
    try:
        yield both
    finally:
        for process in both:
            process.kill()
            process.communicate()


def ends(both, timeout=PATIENCE):
    """[(exit code, last line of stdout, last line of stderr)] of both."""
    found = []
    for process in both:
        out, err = (text.splitlines() or [""] for text in process.communicate(timeout=timeout))
        found.append((process.returncode, out[-1], err[-1]))
    return found


AGREE = """
import dataclasses, sys, tyro
from vae_jax.cli.train import Distributed
from vae_jax.runtime import multihost
from vae_jax.errors import InputError, StorageError, VaeJaxError

@dataclasses.dataclass
class Asked:
    distributed: Distributed

asked = tyro.cli(Asked).distributed
multihost.initialize(**dataclasses.asdict(asked))
rank, said = asked.process_id, []

def told(action):
    try:
        said.append(action())
    except VaeJaxError as error:
        said.append(f"{type(error).__name__}: {error}")

def fail(*ranks):
    if rank in ranks:
        raise StorageError("disk on fire")
    return rank

said.append(multihost.is_primary())
told(lambda: multihost.run_on_all(fail))
told(lambda: multihost.run_on_all(lambda: fail(1)))
told(lambda: multihost.run_on_all(lambda: fail(0, 1)))
told(lambda: multihost.run_on_primary(lambda: fail(1)))
told(lambda: multihost.run_on_primary(lambda: fail(0)))
told(lambda: multihost.broadcast_from_primary(lambda: {"mine": rank}))
told(lambda: multihost.check_equal_across_processes({"seed": 0, "data.name": "digits"}))
told(lambda: multihost.check_equal_across_processes({"seed": 0, "data.fingerprint": f"f{rank}"}))
told(lambda: multihost.check_equal_across_processes({"seed": 0} | ({"mesh.fsdp": 2} if rank else {})))
answers = iter([False, rank == 1, False, rank == 0, False])
stop = multihost.any_process(lambda: next(answers))
said.append([stop() for _ in range(5)])
print(said)
"""


@pytest.mark.fault
def test_what_two_processes_tell_each_other():
    with pair("-c", AGREE) as both:
        found = [process.communicate(timeout=PATIENCE) for process in both]
    (zero, err_zero), (one, err_one) = found
    assert [process.returncode for process in both] == [0, 0], err_zero + err_one
    same = [
        "StorageError: process 1: disk on fire", "StorageError: disk on fire",
        "StorageError: process 0: disk on fire", {"mine": 0}, None,
        "InputError: data.fingerprint: f0 in process 0, f1 in process 1; all processes must be given the same",
        "InputError: mesh.fsdp: None in process 0, 2 in process 1; all processes must be given the same",
        [False, False, True, False, True],
    ]  # fmt: skip
    zero, one = (ast.literal_eval(text.splitlines()[-1]) for text in (zero, one))
    assert zero == [True, 0, *same[:2], 0, *same[2:]]
    assert one == [False, 1, *same[:2], None, *same[2:]]


TRAIN = "import sys; from vae_jax.cli.main import main; sys.exit(main(['train', *sys.argv[1:]]))"


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return str(tmp_path_factory.mktemp("cache"))


@pytest.fixture
def endless(small):
    """A run whose length is decided by what happens to it; its larger layers are spread over `fsdp`."""
    return small(
        model__hidden=(32,), optimizer__schedule="constant", train__steps=100_000, train__save_every=50,
        mesh__data=0, evaluation__num_samples=0,
    )  # fmt: skip


def command(config, directory, cache):
    return ["-c", TRAIN, "--workdir", str(directory), "--compilation-cache", cache, *flags(config)]


def wait_for(condition, both):
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        assert [process.poll() for process in both] == [None, None], ends(both)
        time.sleep(0.005)


def rows_of(directory):
    path = Path(directory) / recorder.METRICS_FILE
    return read_metrics(path) if path.exists() else []


def fit(config, directory):
    return train_loop.fit(*opening.prepare_run(config, directory))


@pytest.mark.fault
def test_two_processes_are_one_run_and_one_of_them_stops_both(endless, cache, tmp_path):
    """Begun by one process on 4 devices, gone on with by two of one device each, ended by one again: as if by one.

    The two stream their images, each the rows that its device takes.
    """
    one = override(endless, mesh__data=2, mesh__fsdp=2, train__steps=10, train__save_every=10)
    fit(one, tmp_path / "run")
    of_two = override(endless, mesh__fsdp=2, data__streaming="always")
    with pair(*command(of_two, tmp_path / "run", cache)) as both:
        wait_for(lambda: len(rows_of(tmp_path / "run")) >= 6, both)
        both[1].terminate()
        (code, out, err), (other, silent, quiet) = ends(both)
    assert (code, other) == (0, 0), err + quiet
    result = json.loads(out)
    assert (result["status"], result["step"] % 5) == ("interrupted", 0)
    assert "{" not in silent + quiet
    step = result["step"]
    with Checkpoints(tmp_path / "run", read_only=True) as saved:
        assert saved.latest_step() == step
    outcome = fit(override(endless, mesh__data=1, train__steps=step + 10, train__save_every=5), tmp_path / "run")
    assert (outcome.resumed_from, outcome.step) == (step, step + 10)

    fit(override(endless, mesh__data=2, train__steps=step + 10), tmp_path / "alone")
    found, expected = rows_of(tmp_path / "run"), rows_of(tmp_path / "alone")
    assert [row["step"] for row in found] == [row["step"] for row in expected] == list(range(5, step + 11, 5))
    losses = np.array([[row["loss"] for row in rows] for rows in (found, expected)])
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-5)
    assert np.abs(np.diff(losses[0])).min() > 1e-4 * losses.max()  # the tolerance can tell a step from the next


@pytest.mark.fault
def test_a_process_that_is_killed_ends_the_other_and_the_run_goes_on(endless, cache, tmp_path):
    """In a step; then, gone on with past a file that is damaged and that process 1 alone reads, in a save."""
    saves = tmp_path / "run" / "checkpoints"
    argv = command(override(endless, mesh__fsdp=2), tmp_path / "run", cache)

    def steps():
        return sorted(int(path.name) for path in saves.glob("[0-9]*") if path.name.isdigit())

    def killed(rank, moment):
        with pair(*argv) as both:
            wait_for(moment, both)
            both[rank].kill()
            start = time.monotonic()
            ((code, _, err),) = ends([both[1 - rank]])
            assert time.monotonic() - start < 5 * HEARTBEAT  # it would wait for ever; the machine may be busy
        assert code in LOST, err
        assert both[rank].returncode == -signal.SIGKILL

    killed(1, lambda: len(steps()) >= 2)
    *_, before, newest = steps()
    cut = max((saves / str(newest) / "state" / "ocdbt.process_1").rglob("*"), key=lambda path: path.stat().st_size)
    os.truncate(cut, 100)
    killed(0, lambda: steps()[-1] > before and (saves / f"damaged-{newest}").exists() and any(saves.glob(UNDER_WAY)))
    reached = steps()[-1]
    assert reached > before
    with Checkpoints(tmp_path / "run") as found:
        restored = restoring.restore(opening.open_run(tmp_path / "run"), found)
    assert (restored.step, restored.notes) == (reached, [])
    assert not any(saves.glob(UNDER_WAY))


@pytest.mark.fault
def test_an_error_tells_whether_another_process_has_ended():
    def raised(error, cause):
        error.__cause__ = cause
        return error

    broken = jax.errors.JaxRuntimeError("UNKNOWN: Gloo all-reduce failed:\nConnection closed by peer")
    for error in (broken, raised(TimeoutError("in a save"), broken), ValueError(str(broken))):
        line = str(multihost.lost_process_error(error))
        assert line.startswith("another process has ended (UNKNOWN: Gloo all-reduce failed: Connection closed by peer)")
    own = jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 8 bytes")
    assert [multihost.lost_process_error(error) for error in (own, ValueError("x"), raised(ValueError("x"), own))] == [
        None
    ] * 3


@pytest.mark.fault
def test_a_save_that_fails_in_one_of_two_processes_ends_both(endless, cache, tmp_path):
    """Process 1's disk is full: else process 0 would wait for its part of the step for twenty minutes."""
    saves = tmp_path / "run" / "checkpoints"
    with pair(*command(override(endless, mesh__fsdp=2), tmp_path / "run", cache)) as both:
        wait_for(lambda: (saves / "50").exists(), both)
        resource.prlimit(both[1].pid, resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
        found = ends(both)
    assert [code for code, _, _ in found] == [5, 5]
    (line,) = {line for _, _, line in found}
    assert re.fullmatch(r"vae-jax: step \d+ is not saved in \S+: process 1: .*File too large", line)
    with Checkpoints(tmp_path / "run") as saved:
        restored = restoring.restore(opening.open_run(tmp_path / "run"), saved)
        assert (restored.step, restored.notes) == (saved.latest_step(), [])
        assert restored.step < int(line.split()[2])
    assert not any(saves.glob(UNDER_WAY))


@pytest.mark.fault
def test_processes_that_were_given_other_images_and_settings_refuse(small, cache, tmp_path):
    config = small(data__name="images.npz", mesh__data=0, mesh__fsdp=2)
    for rank in (0, 1):
        (tmp_path / str(rank)).mkdir()
        images = np.random.default_rng(rank).integers(0, 256, (40, 6, 5), dtype=np.uint8)
        np.savez(tmp_path / str(rank) / "images.npz", images=images)
    argv = command(config, tmp_path / "run", cache)
    other = ["--train.batch-size", "8", "--optimizer.b1", "0.8"]
    with pair(*argv, rank=lambda rank: {"cwd": tmp_path / str(rank), "flags": other * rank}) as both:
        found = ends(both)
    assert [code for code, _, _ in found] == [2, 2]
    (line,) = {line for _, _, line in found}
    told = re.fullmatch("vae-jax: (.+); all processes must be given the same", line)[1].split("; ")
    assert sorted(told)[1:] == [
        "optimizer.b1: 0.9 in process 0, 0.8 in process 1", "train.batch_size: 16 in process 0, 8 in process 1",
    ]  # fmt: skip
    assert re.fullmatch(r"data\.fingerprint: [0-9a-f]{64} in process 0, [0-9a-f]{64} in process 1", sorted(told)[0])
    assert not (tmp_path / "run").exists()


@pytest.mark.fault
def test_a_file_that_one_process_cannot_read_ends_both(endless, data_dir, cache, tmp_path):
    """Each has a copy of the data; that of process 1 is damaged after it was looked through."""
    for rank in (0, 1):
        shutil.copytree(Path(data_dir) / "digits", tmp_path / str(rank) / "data" / "digits")
        assert open_records("digits", "train", data_dir=tmp_path / str(rank) / "data").summary
    (shard,) = (tmp_path / "1").rglob("*-train.array_record-*")
    damage_unseen(shard)
    config = override(endless, data__data_dir="data", data__streaming="always")
    argv = command(config, tmp_path / "run", cache)
    with pair(*argv, rank=lambda rank: {"cwd": tmp_path / str(rank)}) as both:
        (zero, _, _), (one, _, told) = ends(both)
    assert one == 5
    assert told.splitlines()[-1].startswith(f"vae-jax: data.name='digits': '{shard.relative_to(tmp_path / '1')}' is ")
    assert zero in LOST


@pytest.mark.fault
def test_a_process_that_never_starts_is_named(capsys):
    argv = ["train", "--distributed.coordinator", f"localhost:{free_port()}", "--distributed.num-processes", "2"]
    argv += ["--distributed.process-id", "0", "--distributed.initialization-timeout", "1"]
    assert main(argv) == 2
    assert capsys.readouterr().err == "vae-jax: process 1 of 2 did not start within 1 s\n"
