"""Memory of the host and its devices, and its cores."""

import resource
import subprocess
import sys
import types
from pathlib import Path

import jax
import pytest

from vae_jax.cli.commands import register_command
from vae_jax.errors import InputError
from vae_jax.runtime import host


def test_the_memory_limit_of_a_cpu_is_the_free_memory_over_its_devices():
    limit = host.memory_limit()
    assert limit is None or 2**26 < limit < 2**50
    assert host.memory_limit(4) == pytest.approx(limit / 4, rel=0.05)


def test_a_limit_that_the_device_reports_has_priority(monkeypatch):
    device = types.SimpleNamespace(memory_stats=lambda: {"bytes_limit": 1000, "peak_bytes_in_use": 7})
    monkeypatch.setattr(jax, "local_devices", lambda: [device])
    assert host.memory_limit(4) == 1000
    assert host.peak_memory()["device"] == 7


def test_the_limits_of_the_process_count(monkeypatch):
    monkeypatch.setattr(host, "_machine_memory", lambda: None)
    monkeypatch.setattr(host, "_cgroup_memory", lambda: None)
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (resource.RLIM_INFINITY,) * 2)
    assert host.available_memory() is None
    monkeypatch.setattr(host, "_kilobyte_field", lambda path, name: {"VmSize": 400, "VmData": 100}[name])
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (1000, resource.RLIM_INFINITY))
    assert host.available_memory() == 600
    monkeypatch.setattr(host, "_machine_memory", lambda: 500)
    assert host.available_memory() == 500


def test_a_field_of_a_file_in_kilobytes_is_read_by_its_name(tmp_path):
    (tmp_path / "meminfo").write_text("MemTotal:  9 kB\nMemAvailable:   5 kB\n")
    assert host._kilobyte_field(tmp_path / "meminfo", "MemAvailable") == 5 * 1024
    with pytest.raises(KeyError):
        host._kilobyte_field(tmp_path / "meminfo", "Mem")


def test_the_peak_memory_of_the_process_is_in_bytes():
    assert 2**26 < host.peak_memory()["process"] < 2**50


def test_there_is_at_least_one_core():
    assert host.cores() >= 1


def test_reclaimable_page_cache_does_not_count_as_used_memory(tmp_path, monkeypatch):
    """The page cache of a container counts as its memory; it contains the data and checkpoints that were read."""
    monkeypatch.setattr(host, "CGROUP", tmp_path)
    assert host._cgroup_memory() is None
    (tmp_path / "memory.max").write_text("1000\n")
    (tmp_path / "memory.current").write_text("990\n")
    (tmp_path / "memory.stat").write_text("anon 300\nfile 690\ninactive_file 600\nactive_file 90\n")
    assert host._cgroup_memory() == 610
    assert host.available_memory() == 610
    (tmp_path / "memory.max").write_text("max\n")
    assert host._cgroup_memory() is None


LIMITED = """
import resource
from vae_jax.runtime import host
free = host.available_memory()
used = int(next(line.split()[1] for line in open('/proc/self/status') if line.startswith('VmData:'))) * 1024
resource.setrlimit(resource.RLIMIT_DATA, (used + 2**26, -1))
print(free, host.available_memory())
"""


def test_available_memory_respects_the_limits_of_the_process():
    printed = subprocess.run([sys.executable, "-c", LIMITED], check=True, capture_output=True, text=True).stdout
    free, limited = map(int, printed.split())
    assert limited <= 2**26 < free
    assert limited > 2**25


@pytest.mark.fault
def test_devices_that_cannot_be_started_are_one_line(monkeypatch, call):
    def fail():
        raise AssertionError

    register_command("begin", "starts the devices")(lambda argv: jax.devices())
    monkeypatch.setattr(jax, "devices", fail)
    monkeypatch.setenv("JAX_PLATFORMS", "cuda")
    result = call("begin")
    assert (result.code, result.out) == (2, [])
    assert result.err == ["vae-jax: JAX_PLATFORMS=cuda cannot be used here (no such device); unset it, or install JAX "
                          "for these devices"]  # fmt: skip
    monkeypatch.undo()
    assert host.platform_error() is None


@pytest.mark.fault
def test_a_home_directory_that_is_unknown_is_refused(monkeypatch):
    assert host.expand_home("~/data", "data.data_dir") == Path.home() / "data"
    with pytest.raises(
        InputError, match=r"^data\.name=~nosuchuser/x\.npy begins with a home directory that is unknown"
    ):
        host.expand_home("~nosuchuser/x.npy", "data.name")
