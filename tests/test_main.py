"""vae_jax/__main__.py: `python -m vae_jax` is the command `vae-jax`."""

import subprocess
import sys

import vae_jax


def test_errors_of_the_module_are_those_of_the_command(tmp_path):
    argv = [sys.executable, "-m", "vae_jax", "trian"]
    done = subprocess.run(argv, capture_output=True, text=True, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("vae-jax: 'trian' is not a command")


def test_the_module_prints_the_version(tmp_path):
    argv = [sys.executable, "-m", "vae_jax", "--version"]
    done = subprocess.run(argv, capture_output=True, text=True, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"vae-jax {vae_jax.__version__}, jax ")
