"""README.md: its Python runs, its links lead somewhere, and its lists agree with the package."""

import re

import pytest
from scripts import ROOT

from vae_jax.cli.commands import commands
from vae_jax.config import PRESETS, choices

TEXT = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", TEXT, re.DOTALL)


def test_the_twelve_lines_of_python_train_a_model(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (code,) = blocks("python")
    assert len([line for line in code.splitlines() if line.strip()]) <= 12
    assert code.count("train__steps=500") == 1
    exec(compile(code.replace("train__steps=500", "train__steps=200"), "README.md", "exec"), {})  # to save time
    bound, nll = map(float, capsys.readouterr().out.split())
    assert -30 < bound < -20  # an untrained model is at -46
    assert nll < -bound + 1  # of other images
    assert (tmp_path / "runs/first/metrics.jsonl").exists()


def test_links_lead_to_files():
    links = [link.partition("#")[0] for link in re.findall(r"\]\(([^)]+)\)", TEXT) if not link.startswith("http")]
    assert len(links) > 10
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_commands_and_presets_exist():
    used = re.findall(r"^vae-jax (\w+)", "\n".join(blocks("sh")), re.MULTILINE)
    assert used
    assert set(used) <= set(commands())
    presets = re.findall(r"--preset ([\w-]+)", TEXT)
    assert presets
    assert set(presets) <= set(PRESETS)


def test_the_number_of_objectives_is_right():
    (row,) = (line for line in TEXT.splitlines() if line.startswith("| objectives |"))
    assert row.split("|")[2].strip() == str(len(choices("objective")))


@pytest.mark.parametrize("language", ["sh", "python"])
def test_the_first_block_comes_early(language):
    assert TEXT[: TEXT.index(f"```{language}")].count("\n") < 40
