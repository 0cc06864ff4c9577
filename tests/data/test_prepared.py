"""Prepared datasets in memory: decoded once, without TensorFlow, and without output."""

import subprocess
import sys


def test_decoding_does_not_import_tensorflow_and_prints_nothing(digits_dir):
    code = """if True:
        import sys
        from vae_jax import data
        data.load("digits", "train", data_dir=sys.argv[1])
        data.prepare("digits", data_dir=sys.argv[1] + "/new")
        assert "tensorflow_datasets" in sys.modules
        assert not {"tensorflow", "jax"} & set(sys.modules)
    """
    run = subprocess.run([sys.executable, "-Werror", "-c", code, digits_dir], capture_output=True, text=True)
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")


def test_decoding_png_images_prints_nothing(mnist_dir):
    code = """if True:
        import sys
        from pathlib import Path
        from vae_jax.config import DataConfig
        from vae_jax.data import catalog, prepared
        mnist = catalog.find("mnist", Path(sys.argv[1]))
        arrays = prepared._decode(prepared.open_part(mnist, DataConfig(data_dir=sys.argv[1]), "test"))
        assert {name: len(array) for name, array in arrays.items()} == {"x": 10000, "y": 10000}
    """
    run = subprocess.run([sys.executable, "-Werror", "-c", code, mnist_dir], capture_output=True, text=True)
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")
