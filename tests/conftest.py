"""Fixtures of all tests; configures JAX before its first import: strict rank promotion and eight CPU devices."""

import gc
import json
import os
import platform
import shutil
import tempfile
from pathlib import Path

if "PYTEST_XDIST_WORKER" not in os.environ:
    # All processes of the session, also the child processes of tests, share one cache of compiled programs. The setting
    # of XLA's own caches would make the folder a part of the cache's keys. Deleted when the session ends.
    _compiled = tempfile.TemporaryDirectory(prefix="compiled-", ignore_cleanup_errors=True)
    os.environ |= {
        "JAX_COMPILATION_CACHE_DIR": _compiled.name,
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.01",
        "JAX_PERSISTENT_CACHE_ENABLE_XLA_CACHES": "none",
    }
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# The programs of the tests run for a moment, so most optimizations cost more time than they save. Child processes
# inherit the setting.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
# Small programs compile faster as one module of LLVM than divided into the default number of parts.
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + (
    " --xla_force_host_platform_device_count=8 --xla_cpu_parallel_codegen_split_count=1"
)
if platform.machine() in ("x86_64", "AMD64"):
    # The first flag saves a third to a half of the compilation time. Without the newer emitters, whether a product and
    # a sum are rounded once depends on the fusion, so that equivalent programs differ in the last bit. Below AVX2 there
    # is no fused multiply-add, and each operation is rounded.
    os.environ["XLA_FLAGS"] += " --xla_cpu_use_fusion_emitters=false --xla_cpu_max_isa=AVX"

import jax

jax.config.update("jax_numpy_rank_promotion", "raise")
gc.set_threshold(50_000, 20)  # Tracing makes many objects and few cycles; by default, collections take 5 % of the time.

import pytest  # noqa: E402

CACHE_SETTINGS = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")  # a command changes them
MAX_MEMORY_MAPS = 12_000  # about 3 GB; the tests of one module need up to 10,000 more


def pytest_addoption(parser):
    """Add the options of tests/cli/test_fuzzing.py."""
    parser.addoption("--fuzz-inputs", type=int, default=None, help="number of damaged inputs; default: 800")
    parser.addoption("--fuzz-seed", type=int, default=0, help="seed of the damaged inputs")


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory):
    """Folder with the data sets of all runs of this session; it holds `digits`."""
    from vae_jax.data import load

    folder = str(tmp_path_factory.mktemp("datasets"))
    load("digits", "train", data_dir=folder)
    return folder


@pytest.fixture(scope="session")
def archives():
    """Folder with the official archives of MNIST."""
    from inputs import SHARED

    folder = SHARED / "mnist"
    if not folder.is_dir():
        pytest.skip("the MNIST archives are not in ../shared/data")
    return folder


@pytest.fixture(scope="session")
def mnist_dir(archives, tmp_path_factory):
    """Folder of this session that holds MNIST."""
    from vae_jax.data import prepare

    folder = tmp_path_factory.mktemp("mnist")
    assert prepare("mnist", source=archives, data_dir=folder)["already_prepared"] is False
    return folder


@pytest.fixture
def digits_dir(data_dir, tmp_path):
    """Copy of `digits` that a test may damage. The copied files are new, so a cache of the original does not apply."""
    shutil.copytree(Path(data_dir) / "digits", tmp_path / "data" / "digits")
    return tmp_path / "data"


@pytest.fixture(scope="session")
def small(data_dir):
    """small(train__steps=7, ...): config of a run on `digits` that takes seconds; arguments as for `override`."""
    from vae_jax.config import PRESETS, override

    def make(**settings):
        base = {
            "data__data_dir": data_dir, "preprocess": "scale", "likelihood": "learned-gaussian",
            "network__hidden": (8,), "model__latent_dim": 2, "train__steps": 20,
            "train__batch_size": 16, "train__log_every": 5, "train__evaluate_every": 0, "train__save_every": 10,
            "evaluation__num_samples": 4, "evaluation__chunk": 2, "mesh__data": 1,
        }  # fmt: skip
        return override(PRESETS["digits"], **base | settings)

    return make


@pytest.fixture(scope="module", autouse=True)
def programs_released():
    """Release the compiled programs after a module of tests if there are many.

    Linux allows a process 65,530 memory maps (`vm.max_map_count`), and XLA needs three for each program: without this,
    a worker crashes after some thousand tests.
    """
    yield
    maps = Path("/proc/self/maps")
    if not maps.exists() or maps.read_bytes().count(b"\n") > MAX_MEMORY_MAPS:
        jax.clear_caches()


class CommandResult:
    """A command that was run in this process: its exit code, and the lines of stdout and stderr."""

    def __init__(self, argv, capsys):
        from vae_jax.cli.main import main

        capsys.readouterr()
        caches = {name: getattr(jax.config, name) for name in CACHE_SETTINGS}
        try:
            self.code = main([str(word) for word in argv])
        finally:
            for name, value in caches.items():
                jax.config.update(name, value)
        captured = capsys.readouterr()
        self.out, self.err = captured.out.splitlines(), captured.err.splitlines()

    @property
    def result(self):
        """JSON object on stdout; fails unless the command succeeded."""
        assert self.code == 0, self.err
        assert len(self.out) == 1
        return json.loads(self.out[0])


@pytest.fixture
def call(capsys):
    """call("train", "--workdir", directory, ...) -> CommandResult."""
    return lambda *argv: CommandResult(argv, capsys)
