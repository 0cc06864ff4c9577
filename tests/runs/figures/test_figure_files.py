"""PNG files of matplotlib figures."""

import numpy as np
import pytest
from PIL import Image

from vae_jax.errors import StorageError
from vae_jax.runs.figures import figure_files


def test_a_figure_has_its_size_and_creates_its_folder(tmp_path):
    path = tmp_path / "figures" / "a.png"
    figure_files.write_figure(path, figure_files.new_figure(3, 2))
    assert np.asarray(Image.open(path)).shape == (220, 330, 4)


def test_a_figure_that_cannot_be_written_is_an_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError):
        figure_files.write_figure(tmp_path / "file" / "a.png", figure_files.new_figure(3, 2))


@pytest.mark.fault
@pytest.mark.parametrize("name", ["run $x_$", "a $ b", r"\\frac{$x", "caf\udce9", "$$", "_$x$ [1]"])
def test_a_name_is_drawn_as_it_is_and_not_as_a_formula(name, tmp_path):
    figure = figure_files.new_figure(2, 1)
    title = figure.suptitle(figure_files.plain_text(name))
    figure_files.write_figure(tmp_path / "figure.png", figure)
    shown, is_formula = title._preprocess_math(title.get_text())
    assert (shown, is_formula) == (name.encode(errors="backslashreplace").decode(), False)
