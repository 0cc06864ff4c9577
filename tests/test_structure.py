"""The measurement of the structure, on a small package and on this one."""

import pytest
from scripts import ROOT, load_script

structure = load_script(".ci/structure.py")


@pytest.fixture
def checkout(tmp_path):
    """A package with one folder, whose `__init__` exports a name through a stub."""
    files = {
        "vae_jax/__init__.py": "",
        "vae_jax/low/__init__.py": "",
        "vae_jax/low/__init__.pyi": "from .part import function as function\n",
        "vae_jax/low/part.py": "def function():\n    return 1\n",
        "vae_jax/low/other.py": "from vae_jax.low.part import function\n",
        "vae_jax/high.py": "from vae_jax.low import function, other\n\n\ndef long():\n    a = 1\n    return a\n",
        "tests/test_high.py": "",
        "tests/low/test_part.py": "",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def test_measurements_of_a_small_package(checkout):
    found = structure.measure(checkout)
    assert found["modules"] == 3
    assert found["folders directly below the package"] == 1
    assert found["imports between modules"] == 3  # high -> part (through the stub), high -> other, other -> part
    assert found["longest import chain"] == 3
    assert found["longest function"] == "vae_jax.high:long, 3 lines"
    assert found["names of those modules"] == ["vae_jax.low.other"]


def test_cycles_are_found(checkout):
    (checkout / "vae_jax/low/part.py").write_text("from vae_jax.high import long\n")
    graph = structure.import_graph(checkout)
    assert structure.cycles(graph) == [["vae_jax.high", "vae_jax.low.other", "vae_jax.low.part"]]
    assert structure.cycles(structure.folder_graph(graph)) == [["high", "low"]]
    assert structure.measure(checkout)["longest import chain"] == 0


def test_this_package_has_eleven_folders_and_the_command():
    found = structure.measure(ROOT)
    assert found["folders directly below the package"] == 12
    assert (found["cycles of modules"], found["cycles of folders"]) == ([], [])
