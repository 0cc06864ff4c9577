"""The check of the language guide: it sees what it lists, and the repository has none of it."""

import pytest
from scripts import ROOT, load_script

wording = load_script(".ci/wording.py")


@pytest.mark.parametrize(
    "line",
    [
        "how the model is judged",
        "    self._judge(model)",
        "the run is told of each step",
        "Says which settings differ.",
        "replicated, the whole of it",
        "a run of one's own",
        "a key of its own",
        "hence it is drawn anew",
        "printed beside the table",
        "from vae_jax.fitting import fit",
        "devices talk to each other",
        "1 is not to be had",
        "the least time of a step",
    ],
)
def test_private_words_are_found(line):
    assert len(wording.findings(line)) >= 1


@pytest.mark.parametrize("line", ["besides the KL", "wholesale", "the essay", "drawing a sample", "tree leaves"])
def test_other_words_are_not(line):
    assert wording.findings(line) == []


def test_findings_name_line_and_term():
    assert wording.findings("fine\nhence\n") == [(2, "hence", "therefore")]


def test_the_repository_has_none():
    found = [f"{path}:{number}: {words}" for path in wording.tracked_files() if (ROOT / path).exists()
             for number, words, _ in wording.findings((ROOT / path).read_text())]  # fmt: skip
    assert found == []
