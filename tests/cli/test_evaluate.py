"""vae_jax/cli/evaluate.py: the numbers of a run on a split, progress, and refused options."""

import json

import pytest
from commands import snapshot


def test_evaluate(trained, call):
    directory, _, out, _ = trained
    first, before = json.loads(out.splitlines()[-1]), snapshot(directory)
    result = call("evaluate", directory).result  # on eight devices
    for name in ("reconstruction", "kl", "elbo", "nll", "nll_se", "ess"):
        assert result[name] == pytest.approx(first[name], rel=1e-5), name
    other = call("evaluate", directory, "--split", "validation", "--num-samples", 0).result
    assert (other["split"], other["num_examples"]) == ("validation", 144)
    assert "nll" not in other
    assert snapshot(directory) == before


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["evaluate"], ["no run directory", "vae-jax evaluate RUN"]),
        (["evaluate", "EMPTY"], ["contains no run (config.json is missing)"]),
        (["evaluate", "RUN", "--split", "tset"], ["split='tset' is not a split; use train, validation or test"]),
        (["evaluate", "RUN", "--num-samples", "-1"], ["evaluation.num_samples=-1"]),
        (["evaluate", "RUN", "--chunk", "-1"], ["evaluation.chunk=-1"]),
    ],
)
def test_evaluate_refuses(argv, words, refuses):
    refuses(argv, *words)
