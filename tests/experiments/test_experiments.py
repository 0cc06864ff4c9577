"""Properties of all experiments."""

import subprocess
import sys

import pytest
from scripts import EXPERIMENTS
from subsets import by_default

pytestmark = pytest.mark.usefixtures("digits_prepared")


@pytest.mark.parametrize(
    "name",
    by_default(lambda name: name in ("pca_to_vae", "gradient_snr"),
               ["pca_to_vae", "gan_comparison", "moon_phases", "gradient_snr", "penalty"]),
)  # fmt: skip
def test_output_folder_that_cannot_be_written_is_refused_before_the_training(name, tmp_path):
    (tmp_path / "file").write_text("mine")
    argv = [sys.executable, EXPERIMENTS / f"{name}.py", "--quick", "--output", tmp_path / "file" / "below"]
    done = subprocess.run(argv, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert "cannot be created or written to (Not a directory)" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
