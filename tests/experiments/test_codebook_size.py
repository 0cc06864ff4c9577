"""experiments/codebook_size.py: the sizes of its cells, and a run with --quick."""

import math
from pathlib import Path

import pytest
from PIL import Image
from scripts import load

from vae_jax.runtime import atomic_files

pytestmark = pytest.mark.usefixtures("digits_prepared")


def test_the_cells_have_about_the_number_of_codes_of_their_names():
    script = load("codebook_size")
    for bits in script.LEVELS:
        for quantizer in script.QUANTIZERS:
            posterior = script.config_of(quantizer, bits).posterior
            assert abs(math.log2(posterior.num_codes) - bits) < 0.15, (quantizer, bits)


@pytest.mark.parametrize(("argv", "name", "steps"), [([], "", 1000), (["--quick"], "-quick", 20)])
def test_a_table_has_the_rows_of_its_folder_and_number_of_steps(argv, name, steps, monkeypatch, tmp_path):
    script = load("codebook_size")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(script.cells, "run_table", lambda planned, seeds, write: {"rows": write()[0]})
    found = {"code_usage": 1.0, "code_perplexity": 32.0, "reconstruction": -60.0, "num_examples": 359}
    for quantizer, step in (("fsq", steps), ("vq", 10)):
        path = script.directory_of(Path("runs") / f"codebook_size{name}", quantizer, 6) / "seed=0" / "evaluation.json"
        atomic_files.write_json(path, found | {"step": step})
    result = script.main([*argv, "--bits", "6"])
    assert result["output"] == f"runs/codebook_size{name}"
    assert [(row["quantizer"], row["codes"], row["bits"]) for row in result["rows"]] == [("fsq", 64, 5.0)]


@pytest.mark.thorough
def test_a_quick_run_writes_the_table_and_the_figure(tmp_path):
    script = load("codebook_size")
    result = script.main(["--quick", "--quantizers", "fsq", "vq", "--bits", "6", "--output", str(tmp_path)])
    assert [(row["quantizer"], row["codes"]) for row in result["rows"]] == [("fsq", 64), ("vq", 64)]
    for row in result["rows"]:
        assert 0 < row["perplexity"] / row["codes"] <= row["usage"] <= 1
        assert row["images"] == 359
    assert (tmp_path / "table.md").read_text().splitlines()[2].startswith("| fsq | 64 | ")
    with Image.open(tmp_path / "codebook_size.png") as image:
        assert image.size[0] > 800
