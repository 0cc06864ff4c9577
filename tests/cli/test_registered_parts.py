"""The module of docs/guides/registered_parts.md: each part is one class or function, and every command accepts it."""

import ast
import json
import sys

import pytest
from documents import importable_module, own_registrations, python_blocks

from vae_jax.runs import RunDirectory, plots, read_stored_run

PAGE = "guides/registered_parts.md"
FIRST = ["--import", "my_parts"]
SMALL = ["--compilation-cache", "None", "--model.latent-dim", 2, "--train.batch-size", 16, "--train.log-every", 5,
         "--train.evaluate-every", 0, "--train.save-every", 10, "--train.steps", 10, "--evaluation.num-samples", 4,
         "--evaluation.chunk", 3, "--mesh.data", 1]  # fmt: skip
HIDDEN = ["--network.hidden", 8]
NARROW = ["--network", "normalized", "--network.width", 8]
RINGS = ["--data.name", "rings", "--preprocess", "identity"]
ALONE = {
    "objective": ["--objective", "power", "--objective.num-samples", 3, *HIDDEN],
    "prior": ["--prior", "equal-mixture", "--prior.components", 3, *HIDDEN],
    "network": NARROW,
    "likelihood": ["--likelihood", "scaled-gaussian", "--preprocess", "scale", *HIDDEN],
    "data.name": [*RINGS, "--likelihood", "gaussian", *HIDDEN],
}
TOGETHER = [*RINGS, *NARROW, "--likelihood", "scaled-gaussian", "--prior", "equal-mixture", "--objective", "power",
            "--objective.num-samples", 3]  # fmt: skip
NAMES = {"objective": "power", "prior": "equal-mixture", "network": "normalized", "likelihood": "scaled-gaussian",
         "data.name": "rings"}  # fmt: skip


@pytest.fixture(autouse=True)
def my_parts(tmp_path, monkeypatch):
    """Write my_parts.py, the blocks of the page, to the working directory."""
    monkeypatch.chdir(tmp_path)
    with importable_module(tmp_path, "my_parts", "\n\n".join(python_blocks(PAGE))):
        yield


@pytest.fixture
def without_figures(monkeypatch):
    """Skip the figures of trainings, which take longer than their steps."""
    monkeypatch.setattr(plots, "plot_all", lambda *_: [])


@pytest.fixture
def train(call, data_dir, tmp_path):
    """train(flags, ...) -> results of a short training in the folder `mine`."""
    place = ["--data.data-dir", data_dir, "--workdir", tmp_path / "mine"]
    return lambda flags, *more: call(*FIRST, "train", *place, *SMALL, *flags, *more).result


def test_each_part_is_registered_by_one_class_or_function():
    (imports, *parts) = python_blocks(PAGE)
    assert "register" not in imports
    registered = [
        node.decorator_list[0].func.attr
        for part in parts
        for node in ast.parse(part).body
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and "vj.register" in ast.unparse(node.decorator_list or [])
    ]
    assert registered == ["register"] * 4 + ["register_dataset", "register_command"]
    assert len(parts) == len(registered)


@pytest.mark.thorough
@pytest.mark.parametrize("part", ALONE)
def test_each_part_trains_alone(part, train, without_figures, tmp_path):
    result = train(ALONE[part])
    assert (result["status"], result["step"]) == ("done", 10)
    stored = read_stored_run(RunDirectory(tmp_path / "mine"))
    assert {name: stored.settings[name] == NAMES[name] for name in NAMES} == {name: name == part for name in NAMES}


@pytest.mark.thorough
def test_all_parts_together_train_resume_evaluate_and_export(train, call, tmp_path):
    result = train(TOGETHER, "--objective.power", 0.5)
    assert (result["status"], result["num_examples"], result["likelihood"]) == ("done", 60, "scaled-gaussian")
    stored = json.loads((tmp_path / "mine/config.json").read_text())
    assert '"objective.power": 0.5' in json.dumps(stored)
    assert set(stored["data"]["arrays"]) == {"x", "y"}
    assert {path.stem for path in (tmp_path / "mine/figures").iterdir()} == {
        "marginals",
        "pairs",
        "latent_map",
        "prior_map",
        "curves",
    }
    longer = call(*FIRST, "train", "--workdir", tmp_path / "mine", "--train.steps", 20, "--compilation-cache", "None")
    assert longer.result["step"] == 20
    evaluated = call(*FIRST, "evaluate", tmp_path / "mine").result
    assert evaluated["nll"] == pytest.approx(longer.result["nll"], rel=1e-5)
    assert evaluated["elbo"] <= -evaluated["nll"] + 0.5
    distance = call(*FIRST, "nearest", tmp_path / "mine").result
    assert distance["step"] == 20
    assert distance["median_distance"] > 0
    assert "decoder" in str(call(*FIRST, "export", tmp_path / "mine").result)
    refused = call(*FIRST, "train", "--workdir", tmp_path / "mine", "--objective.power", 2)
    assert refused.code == 2
    assert "objective.power=2.0 differs from 0.5" in refused.err[-1]


@pytest.mark.thorough
def test_a_sweep_trains_values_of_a_batchable_setting_in_one_program(call, tmp_path):
    vary = ["--vary", "objective.power=0.1,1,10"]
    swept = call(*FIRST, "sweep", "--workdir", tmp_path / "sweep", *TOGETHER, *SMALL, *vary)
    assert (swept.result["members"], swept.result["programs"]) == (3, 1)
    members = [tmp_path / "sweep" / f"objective.power={power}" for power in ("0.1", "1.0", "10.0")]
    rows = [[json.loads(line)["loss"] for line in (m / "metrics.jsonl").read_text().splitlines()] for m in members]
    assert len({row[-1] for row in rows}) == 3


@pytest.mark.thorough
def test_plan_and_help_know_the_parts(call, capsys):
    planned = call(*FIRST, "plan", *TOGETHER, *SMALL[2:]).result
    assert planned["parameters"] > 0
    assert planned["num_examples"] == 486
    with pytest.raises(SystemExit):
        call(*FIRST, "train", "--prior", "equal-mixture", "--help")
    shown = capsys.readouterr().out
    assert "--prior.components INT" in shown
    assert all(name in shown for name in NAMES.values() if name != "rings")
    assert "  nearest RUN" in "\n".join(call(*FIRST, "--help").out)
    assert "rings" in [entry["name"] for entry in call(*FIRST, "data", "list").result["datasets"]]


@pytest.mark.parametrize("part", ALONE)
def test_without_the_module_the_error_names_the_option(part, call, data_dir, tmp_path):
    refused = call("train", "--workdir", tmp_path / "mine", "--data.data-dir", data_dir, *SMALL, *ALONE[part])
    assert (refused.code, refused.out, len(refused.err)) == (2, [], 1)
    assert f"{part}='{NAMES[part]}'" in refused.err[0]
    assert "--import" in refused.err[0]
    assert not (tmp_path / "mine").exists()


def test_without_the_module_the_run_and_the_command_are_refused(train, call, without_figures, tmp_path):
    with own_registrations():
        train(ALONE["prior"])
    del sys.modules["my_parts"]
    refused = call("evaluate", tmp_path / "mine")
    assert (refused.code, len(refused.err)) == (4, 1)
    assert "prior='equal-mixture'" in refused.err[0]
    assert "`vae-jax --import MODULE`" in refused.err[0]
    unknown = call("nearest", tmp_path / "mine")
    assert (unknown.code, len(unknown.err)) == (2, 1)
    assert "`vae-jax --import MODULE COMMAND`" in unknown.err[0]
