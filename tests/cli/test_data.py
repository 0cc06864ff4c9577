"""vae_jax/cli/data.py: the list of data sets, preparing one, and refused options."""

import pytest


def test_data_list(data_dir, call):
    datasets = {entry["name"]: entry for entry in call("data", "list", "--data-dir", data_dir).result["datasets"]}
    assert datasets["digits"]["prepared"] is True
    assert datasets["digits"]["splits"] == {"train": 1438, "test": 359}
    assert datasets["mnist"]["prepared"] is False


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["data"], ["list,prepare"]),
        (["data", "lst"], ["lst", "list"]),
        (["data", "prepare", "minst"], ["minst", "did you mean 'mnist'?"]),
    ],
)
def test_data_refuses(argv, words, refuses):
    refuses(argv, *words)
