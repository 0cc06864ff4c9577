"""vae_jax/report/files.py: reports as files, their size, and refusals."""

import pytest
from report_runs import write_run

from vae_jax.errors import InputError
from vae_jax.report import write_comparison, write_report


def test_the_report_of_a_run_is_one_file(tmp_path):
    write_run(tmp_path / "a <run>")
    path = write_report(tmp_path / "a <run>")
    assert path == tmp_path / "a <run>" / "report.html"
    text = path.read_text()
    titles = ["Training", "Figures", "Evaluation protocol", "Data", "Settings", "Environment", "Repeat it"]
    positions = [text.index(f"<h2>{title}</h2>") for title in titles]
    assert positions == sorted(positions)
    assert "<h1>a &lt;run&gt;</h1>" in text
    assert "<run>" not in text
    assert text.index("22.12") < positions[0]  # the result comes first
    assert write_report(tmp_path / "a <run>").read_text() == text  # nothing depends on the time


def test_an_unfinished_run_has_a_report(tmp_path):
    write_run(tmp_path / "run", evaluation=None, rows=[], figures=())
    text = write_report(tmp_path / "run", tmp_path / "other.html").read_text()
    assert "has no evaluation. It is not finished; the command" in text
    assert "<h2>Figures</h2>" not in text


def test_a_comparison_needs_two_runs(tmp_path):
    for name in ("a", "b"):
        write_run(tmp_path / name, settings={"seed": ord(name)})
    path = write_comparison([tmp_path / "a", tmp_path / "b"], tmp_path / "comparison.html")
    assert "<h1>Comparison of 2 runs</h1>" in path.read_text()
    with pytest.raises(InputError, match="two run directories"):
        write_comparison([tmp_path / "a"], tmp_path / "x.html")
    with pytest.raises(InputError, match="contains no run"):
        write_comparison([tmp_path / "a", tmp_path / "c"], tmp_path / "x.html")
    assert not (tmp_path / "x.html").exists()
