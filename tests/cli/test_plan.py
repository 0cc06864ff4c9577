"""vae_jax/cli/plan.py: the limit on memory, and refused options."""

import pytest

from vae_jax.cli import plan
from vae_jax.errors import InputError


@pytest.mark.parametrize(("flags", "limit"), [([], None), (["--memory", "1.5"], 3 * 2**29)])
def test_the_limit_on_memory_is_given_in_gib(flags, limit, data_dir, call, monkeypatch):
    calls = []

    def plan_training(config, *, limit):
        calls.append((config.train.batch_size, config.data.data_dir, config.train.evaluate_every, limit))
        return {"planned": True}

    monkeypatch.setattr("vae_jax.bench.plan_training", plan_training)
    monkeypatch.setattr("vae_jax.bench.print_plan", lambda result, file: None)
    argv = ["plan", "--data.data-dir", data_dir, "--train.batch-size", "32", *flags]
    assert call(*argv).result == {"planned": True}
    assert calls == [(32, data_dir, 0, limit)]


@pytest.mark.parametrize("memory", ["0", "-1", "inf", "nan"])
def test_a_limit_that_is_not_positive_and_finite_is_refused(memory):
    with pytest.raises(InputError, match=r"--memory=.* must be GiB, greater than 0"):
        plan.parse_arguments(["--memory", memory])
