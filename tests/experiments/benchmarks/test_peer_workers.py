"""experiments/benchmarks/peer_workers.py: the environments and the environment variables of the workers."""

import json
import sys

import pytest
from scripts import load


@pytest.fixture
def workers():
    return load("benchmarks/peer_workers")


def test_processes_share_the_memory_of_a_gpu_and_do_not_use_it_for_cpu_rows(workers, tmp_path, monkeypatch):
    started = []
    monkeypatch.setattr(workers.subprocess, "Popen", lambda command, **settings: started.append((command, settings)))
    for platform in ("cpu", "gpu"):
        workers.Worker(sys.executable, "ours", tmp_path, 3, {"platform": platform})
    (_, on_cpu), (command, on_gpu) = started
    assert on_cpu["env"]["JAX_PLATFORMS"] == "cpu"
    assert (on_gpu["env"]["JAX_PLATFORMS"], on_gpu["env"]["XLA_PYTHON_CLIENT_PREALLOCATE"]) == ("cuda", "false")
    assert json.loads(command[-1]) == {"platform": "gpu"}


def test_an_environment_is_created_once_and_again_if_it_is_incomplete(workers, tmp_path, monkeypatch):
    calls = []

    def fake(command, **settings):
        calls.append(command)
        if "venv" in command:
            (tmp_path / "pytorch").mkdir(exist_ok=True)

    monkeypatch.setattr(workers.subprocess, "run", fake)
    python = workers.environment_python("pytorch", tmp_path)
    assert python == str(tmp_path / "pytorch" / "bin" / "python")
    venv, install = calls
    assert "venv" in venv
    assert install[:4] == [python, "-m", "pip", "install"]
    assert set(workers.load_trainer("pytorch").REQUIREMENTS) <= set(install)
    workers.environment_python("pytorch", tmp_path)
    assert len(calls) == 2
    (tmp_path / "pytorch" / "requirements.txt").write_text("torch==1.0")
    workers.environment_python("pytorch", tmp_path)
    assert len(calls) == 4
    assert workers.environment_python("ours", tmp_path) == sys.executable
