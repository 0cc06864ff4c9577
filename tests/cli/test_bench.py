"""vae_jax/cli/bench.py: its arguments, and refused options."""

import pytest

from vae_jax.cli import bench
from vae_jax.errors import InputError


def test_options_and_settings_are_parsed_together():
    options, config = bench.parse_arguments(["--preset", "mnist", "--rounds", "5", "--train.batch-size", "64"])
    assert (options.preset, options.rounds, options.compare) == ("mnist", 5, ())
    assert (config.data.name, config.train.batch_size) == ("mnist", 64)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--rounds", "0"], "--rounds=0 must be greater than 0"),
        (["--compare", "a.json"], "--compare=a.json must be two files, A.json B.json"),
        (["--compare", "a.json", "--compare", "b.json"], "--compare is given twice"),
        (["--train.batch-size", "0"], "train.batch_size=0"),
    ],
)
def test_bench_refuses(argv, message):
    with pytest.raises(InputError) as error:
        bench.parse_arguments(argv)
    assert str(error.value).startswith(message)


def test_an_unknown_variant_is_refused_before_the_data_are_loaded(tmp_path, monkeypatch, call):
    monkeypatch.chdir(tmp_path)
    result = call("bench", "--data.name", "absent.npz", "--variants", "nothing")
    assert (result.code, len(result.err)) == (2, 1)
    assert result.err[0].startswith("vae-jax: --variants=nothing")
    assert list(tmp_path.iterdir()) == []
