"""experiments/codebook_size.py: the sizes of its cells, and a run with --quick."""

import math

import pytest
from PIL import Image
from scripts import load

pytestmark = pytest.mark.usefixtures("digits_prepared")


def test_the_cells_have_about_the_number_of_codes_of_their_names():
    script = load("codebook_size")
    for bits in script.LEVELS:
        for quantizer in script.QUANTIZERS:
            posterior = script.config_of(quantizer, bits).posterior
            assert abs(math.log2(posterior.num_codes) - bits) < 0.15, (quantizer, bits)


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
