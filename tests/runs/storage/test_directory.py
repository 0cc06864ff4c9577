"""The files of a run, by name."""

from pathlib import Path

from vae_jax.runs import RunDirectory


def test_a_directory_is_a_path_or_another_directory_and_need_not_exist(tmp_path):
    path = tmp_path / "absent"
    directories = [RunDirectory(given) for given in (path, str(path), RunDirectory(path))]
    assert directories == [directories[0]] * 3
    assert len(set(directories)) == 1  # hashable
    assert directories[0].path == path
    assert str(directories[0]) == str(path)
    assert not path.exists()


def test_each_file_has_one_place():
    directory = RunDirectory("runs/a")
    files = {
        directory.config: "config.json", directory.checkpoints: "checkpoints", directory.metrics: "metrics.jsonl",
        directory.evaluation: "evaluation.json", directory.failure: "failure.json",
        directory.fitted_prior: "fitted_prior", directory.figure("curves"): "figures/curves.png",
    }  # fmt: skip
    assert files == {Path("runs/a") / name: name for name in files.values()}
    member = directory.member("objective.beta=2.0,seed=1")
    assert member.config == Path("runs/a/objective.beta=2.0,seed=1/config.json")
