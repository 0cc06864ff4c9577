"""Several processes of one run: they find each other or name who is missing, exchange values, and end together."""

import ast
import contextlib
import json
import os
import re
import resource
import shutil
import signal
import socket
import threading
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from damage import damage_unseen
from process_pairs import HEARTBEAT, PATIENCE, ends, free_port, pair
from training_runs import fit, flags, metric_rows, restored_state

from vae_jax.cli.main import main
from vae_jax.config.building import override
from vae_jax.data.loading import open_records
from vae_jax.errors import InputError, LostProcessError
from vae_jax.runs.storage.checkpoints import Checkpoints
from vae_jax.runtime import multihost

LOST = (LostProcessError.exit_code, -signal.SIGABRT)  # an exchange fails first, or JAX notices first
PENDING_CHECKPOINT = "*.orbax-checkpoint-tmp*"


# Rendezvous.


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ({"process_id": 0}, "--distributed.coordinator, --distributed.num-processes: missing"),
        (
            {"coordinator": "a:1", "num_processes": 2},
            "--distributed.process-id: missing; set all of --distributed.coordinator",
        ),
        ({"num_processes": 0}, "--distributed.num-processes=0 must be 1 or more"),
        (
            {"coordinator": "a:1", "num_processes": 2, "process_id": 2},
            "process-id=2 must be at least 0",
        ),
        ({"coordinator": "a", "num_processes": 2, "process_id": 0}, "coordinator=a must be HOST:PORT"),
        ({"coordinator": "a:0", "num_processes": 2, "process_id": 0}, "a port from 1 to 65535"),
        ({"coordinator": "a:65536", "num_processes": 2, "process_id": 0}, "coordinator=a:65536 must be HOST:PORT"),
        ({"coordinator": ":80", "num_processes": 2, "process_id": 0}, "coordinator=:80 must be HOST:PORT"),
        ({"heartbeat_timeout": 0}, "--distributed.heartbeat-timeout=0 must be from 1 to 1000000"),
        ({"shutdown_timeout": 10**20}, "--distributed.shutdown-timeout=10{20} must be from 1 to 1000000"),
    ],
)
def test_inconsistent_flags_are_refused(given, line):
    with pytest.raises(InputError, match=line):
        multihost.initialize(**given)


@pytest.mark.parametrize(
    ("environment", "several"),
    [
        ({}, False),
        ({"SLURM_JOB_ID": "1", "SLURM_NTASKS": "8"}, False),  # in the batch script, not under srun
        ({"SLURM_PROCID": "0", "SLURM_STEP_NODELIST": "n1", "SLURM_NTASKS": "1"}, False),
        ({"SLURM_PROCID": "0", "SLURM_STEP_NODELIST": "n[1-2]", "SLURM_NTASKS": "2"}, True),
        ({"OMPI_COMM_WORLD_SIZE": "1"}, False),
        ({"OMPI_COMM_WORLD_SIZE": "4"}, True),
        ({"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, False),  # a single pod
        ({"KUBERNETES_SERVICE_HOST": "10.0.0.1", "JOB_COMPLETION_INDEX": "0"}, True),
    ],
)
def test_a_scheduler_is_detected_if_it_has_started_several_processes(environment, several, monkeypatch):
    monkeypatch.setattr(os, "environ", environment)
    monkeypatch.setattr(multihost.importlib.util, "find_spec", lambda name: None)
    assert multihost._scheduled() is several
    joined = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda *args, **times: joined.append(args))
    multihost.initialize()
    multihost.initialize(num_processes=1)  # runs alone under any scheduler
    assert joined == [(None, None, None)] * several


def test_a_host_with_libtpu_outside_a_pod_runs_alone(monkeypatch):
    def initialize(*args, **times):
        raise ValueError("coordinator_address should be defined.")

    monkeypatch.setattr(multihost.importlib.util, "find_spec", lambda name: True)
    monkeypatch.setattr(jax.distributed, "initialize", initialize)
    multihost.initialize()
    assert multihost.is_single_process()


def rendezvous(*ranks, counts, timeout=5.0):
    """Return {rank: error of `_rendezvous`, or None}, each in a thread; counts = {rank: num_processes, default 3}."""
    address, errors = f"localhost:{free_port()}", {}

    def join(rank, count):
        try:
            errors[rank] = multihost._rendezvous(address, count, rank, timeout)
        except InputError as error:
            errors[rank] = str(error)

    threads = [threading.Thread(target=join, args=(rank, counts.get(rank, 3))) for rank in ranks]
    for thread in threads:
        thread.start()
    if 0 in ranks:  # A client that does not belong to the run connects as well.
        with contextlib.suppress(OSError), socket.create_connection(("localhost", int(address[10:])), 1) as stranger:
            stranger.sendall(b"GET / HTTP/1.1\r\n\r\n")
    for thread in threads:
        thread.join()
    return errors


def test_processes_find_each_other_or_name_who_is_missing():
    assert rendezvous(2, 0, 1, counts={}) == {0: None, 1: None, 2: None}
    missing = "process 2 of 3 did not start within 0.5 s"
    assert rendezvous(0, 1, counts={}, timeout=0.5) == {0: missing, 1: missing}
    assert rendezvous(0, counts={}, timeout=0.2) == {0: "processes 1, 2 of 3 did not start within 0.2 s"}
    (line,) = rendezvous(1, counts={}, timeout=0.2).values()
    assert line.startswith("process 0 did not answer at localhost:")
    wrong = "--distributed.num-processes=3 in process 0 and 4 in process 1; set the same number in all processes"
    assert rendezvous(0, 1, counts={1: 4}) == {0: wrong, 1: wrong}
    duplicate = "--distributed.process-id=1 is set in two processes; set a different one in each"
    assert rendezvous(0, 1, 1, counts={})[0] == duplicate


def test_a_port_that_is_in_use_is_reported():
    with socket.create_server(("", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(InputError, match=rf"process 0 cannot listen on port {port} \(Address already in use"):
            multihost._rendezvous(f"localhost:{port}", 2, 0, 1)


def test_a_single_process_exchanges_nothing():
    condition = bool
    assert multihost.any_process(condition) is condition
    assert (
        multihost.run_on_all(lambda: 3)
        == multihost.run_on_primary(lambda: 3)
        == multihost.broadcast_from_primary(lambda: 3)
        == 3
    )
    multihost.check_equal_across_processes({"seed": 0})


# Two processes.


EXCHANGE = """
import dataclasses, sys, tyro
from vae_jax.cli.train import Distributed
from vae_jax.runtime import multihost
from vae_jax.errors import InputError, StorageError, VaeJaxError

@dataclasses.dataclass
class Options:
    distributed: Distributed

options = tyro.cli(Options).distributed
multihost.initialize(**dataclasses.asdict(options))
rank, results = options.process_id, []

def record(action):
    try:
        results.append(action())
    except VaeJaxError as error:
        results.append(f"{type(error).__name__}: {error}")

def fail(*ranks):
    if rank in ranks:
        raise StorageError("disk on fire")
    return rank

results.append(multihost.is_primary())
record(lambda: multihost.run_on_all(fail))
record(lambda: multihost.run_on_all(lambda: fail(1)))
record(lambda: multihost.run_on_all(lambda: fail(0, 1)))
record(lambda: multihost.run_on_primary(lambda: fail(1)))
record(lambda: multihost.run_on_primary(lambda: fail(0)))
record(lambda: multihost.broadcast_from_primary(lambda: {"mine": rank}))
record(lambda: multihost.check_equal_across_processes({"seed": 0, "data.name": "digits"}))
record(lambda: multihost.check_equal_across_processes({"seed": 0, "data.fingerprint": f"f{rank}"}))
record(lambda: multihost.check_equal_across_processes({"seed": 0} | ({"mesh.fsdp": 2} if rank else {})))
answers = iter([False, rank == 1, False, rank == 0, False])
stop = multihost.any_process(lambda: next(answers))
results.append([stop() for _ in range(5)])
print(results)
"""


@pytest.mark.fault
def test_two_processes_exchange_values_and_errors():
    with pair("-c", EXCHANGE) as both:
        outputs = [process.communicate(timeout=PATIENCE) for process in both]
    (zero, err_zero), (one, err_one) = outputs
    assert [process.returncode for process in both] == [0, 0], err_zero + err_one
    same = [
        "StorageError: process 1: disk on fire", "StorageError: disk on fire",
        "StorageError: process 0: disk on fire", {"mine": 0}, None,
        "InputError: data.fingerprint=f0 in process 0 and f1 in process 1; set the same in all processes",
        "InputError: mesh.fsdp=None in process 0 and 2 in process 1; set the same in all processes",
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
    """Config of a run that a test ends; its larger layers are sharded over `fsdp`."""
    return small(
        network__hidden=(32,), schedule="constant", train__steps=100_000, train__save_every=50,
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
    return metric_rows(directory) if (Path(directory) / "metrics.jsonl").exists() else []


@pytest.mark.fault
def test_two_processes_are_one_run_and_one_of_them_stops_both(endless, cache, tmp_path):
    """A run of one process on 4 devices, resumed by two processes of one device each, and by one process again.

    Its metrics are those of an uninterrupted run. The two processes stream their images, each the rows of its device.
    They have lost the metrics, which the checkpoint contains, and an allowed change of a setting without an effect.
    """
    one = override(endless, mesh__data=2, mesh__fsdp=2, train__steps=10, train__save_every=10)
    fit(one, tmp_path / "run")
    (tmp_path / "run" / "metrics.jsonl").unlink()
    endless = override(endless, optimizer__clip_norm=1e9)
    of_two = override(endless, mesh__fsdp=2, data__streaming="always")
    allowed = ["--allow-change", "optimizer.clip_norm"]
    with pair(*command(of_two, tmp_path / "run", cache), *allowed) as both:
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
    _, outcome = fit(override(endless, mesh__data=1, train__steps=step + 10, train__save_every=5), tmp_path / "run")
    assert (outcome.resumed_from, outcome.step) == (step, step + 10)

    fit(override(endless, mesh__data=2, train__steps=step + 10), tmp_path / "alone")
    resumed, expected = rows_of(tmp_path / "run"), rows_of(tmp_path / "alone")
    assert [row["step"] for row in resumed] == [row["step"] for row in expected] == list(range(5, step + 11, 5))
    losses = np.array([[row["loss"] for row in rows] for rows in (resumed, expected)])
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-5)
    assert (
        np.abs(np.diff(losses[0])).min() > 1e-4 * losses.max()
    )  # The tolerance is smaller than the change from step to step.


@pytest.mark.fault
def test_a_process_that_is_killed_ends_the_other_and_the_run_resumes(endless, cache, tmp_path):
    """First in a step. Then in a save, after a resume that skips a damaged file, which only process 1 reads."""
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
            assert (
                time.monotonic() - start < 5 * HEARTBEAT
            )  # Without detection it would wait without end. The machine may be busy.
        assert code in LOST, err
        assert both[rank].returncode == -signal.SIGKILL

    killed(1, lambda: len(steps()) >= 2)
    *_, before, newest = steps()
    cut = max((saves / str(newest) / "state" / "ocdbt.process_1").rglob("*"), key=lambda path: path.stat().st_size)
    os.truncate(cut, 100)
    killed(
        0,
        lambda: steps()[-1] > before and (saves / f"damaged-{newest}").exists() and any(saves.glob(PENDING_CHECKPOINT)),
    )
    reached = steps()[-1]
    assert reached > before
    with Checkpoints(tmp_path / "run"):  # removes what the killed save has left
        pass
    restored = restored_state(tmp_path / "run")
    assert (restored.step, restored.notes) == (reached, [])
    assert not any(saves.glob(PENDING_CHECKPOINT))


@pytest.mark.fault
def test_an_error_shows_whether_another_process_has_ended():
    def raised(error, cause):
        error.__cause__ = cause
        return error

    broken = jax.errors.JaxRuntimeError("UNKNOWN: Gloo all-reduce failed:\nConnection closed by peer")
    for error in (broken, raised(TimeoutError("in a save"), broken), ValueError(str(broken))):
        line = str(multihost.lost_process_error(error))
        assert line.startswith("another process has ended (UNKNOWN: Gloo all-reduce failed: Connection closed by peer)")
    local = jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 8 bytes")
    for error in (local, ValueError("x"), raised(ValueError("x"), local)):
        assert multihost.lost_process_error(error) is None


@pytest.mark.fault
@pytest.mark.thorough
def test_a_save_that_fails_in_one_of_two_processes_ends_both(endless, cache, tmp_path):
    """The disk of process 1 is full. Without an exchange, process 0 would wait for its part for twenty minutes."""
    saves = tmp_path / "run" / "checkpoints"
    with pair(*command(override(endless, mesh__fsdp=2), tmp_path / "run", cache)) as both:
        wait_for(lambda: (saves / "50").exists(), both)
        resource.prlimit(both[1].pid, resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
        results = ends(both)
    assert [code for code, _, _ in results] == [5, 5]
    (line,) = {line for _, _, line in results}
    assert re.fullmatch(r"vae-jax: step \d+ is not saved in \S+: process 1: .*File too large", line)
    with Checkpoints(tmp_path / "run") as saved:
        restored = restored_state(tmp_path / "run")
        assert (restored.step, restored.notes) == (saved.latest_step(), [])
        assert restored.step < int(line.split()[2])
    assert not any(saves.glob(PENDING_CHECKPOINT))


@pytest.mark.fault
def test_processes_with_different_images_and_settings_are_refused(small, cache, tmp_path):
    config = small(data__name="images.npz", mesh__data=0, mesh__fsdp=2)
    for rank in (0, 1):
        (tmp_path / str(rank)).mkdir()
        images = np.random.default_rng(rank).integers(0, 256, (40, 6, 5), dtype=np.uint8)
        np.savez(tmp_path / str(rank) / "images.npz", images=images)
    argv = command(config, tmp_path / "run", cache)
    other = ["--train.batch-size", "8", "--optimizer.b1", "0.8"]
    with pair(*argv, rank=lambda rank: {"cwd": tmp_path / str(rank), "flags": other * rank}) as both:
        results = ends(both)
    assert [code for code, _, _ in results] == [2, 2]
    (line,) = {line for _, _, line in results}
    *data, first, second = sorted(re.fullmatch("vae-jax: (.+); set the same in all processes", line)[1].split("; "))
    assert [first, second] == [
        "optimizer.b1=0.9 in process 0 and 0.8 in process 1", "train.batch_size=16 in process 0 and 8 in process 1",
    ]  # fmt: skip
    assert len(data) == 1
    assert re.fullmatch(r"data\.arrays\.x\.sha256=[0-9a-f]{64} in process 0 and [0-9a-f]{64} in process 1", data[0])
    assert not (tmp_path / "run").exists()


@pytest.mark.fault
def test_a_file_that_one_process_cannot_read_ends_both(endless, data_dir, cache, tmp_path):
    """Each process has a copy of the data; the copy of process 1 is damaged after its checksum was computed."""
    for rank in (0, 1):
        shutil.copytree(Path(data_dir) / "digits", tmp_path / str(rank) / "data" / "digits")
        assert open_records("digits", "train", data_dir=tmp_path / str(rank) / "data").summary
    (shard,) = (tmp_path / "1").rglob("*-train.array_record-*")
    damage_unseen(shard)
    config = override(endless, data__data_dir="data", data__streaming="always")
    argv = command(config, tmp_path / "run", cache)
    with pair(*argv, rank=lambda rank: {"cwd": tmp_path / str(rank)}) as both:
        results = ends(both)
    assert [code for code, _, _ in results] == [5, 5]
    (message,) = {text.splitlines()[-1] for _, _, text in results}
    assert message.startswith(
        f"vae-jax: process 1: data.name='digits' is damaged or incomplete ('{shard.relative_to(tmp_path / '1')}': "
    )


@pytest.mark.fault
def test_a_process_that_never_starts_is_named(capsys):
    argv = ["train", "--distributed.coordinator", f"localhost:{free_port()}", "--distributed.num-processes", "2"]
    argv += ["--distributed.process-id", "0", "--distributed.initialization-timeout", "1"]
    assert main(argv) == 2
    assert capsys.readouterr().err == "vae-jax: process 1 of 2 did not start within 1 s\n"
