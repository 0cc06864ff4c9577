"""Many models in one program: what is one program, that each member is the run alone, and what is left on disk."""

import json
import signal

import jax
import numpy as np
import pytest
from PIL import Image

from vae_jax.cli.main import main
from vae_jax.config.building import override
from vae_jax.errors import InputError, NotFiniteError
from vae_jax.runs import curves, evaluation, opening, programs, recorder, restoring, sweep, train_loop
from vae_jax.runs.members import group_members, make_members
from vae_jax.runs.sweep import fit_group
from vae_jax.runs.sweep_summary import evaluate_members, markdown_table, summarize
from vae_jax.runtime import sharding
from vae_jax.training.evaluator import Evaluator

VARIED = {"objective.beta": [0.5, 2.0], "seed": [0, 1]}


@pytest.fixture
def config(small):
    return small(train__steps=10, train__evaluate_every=5, train__save_every=5, objective__warmup_steps=4)


def test_members_are_the_product_and_are_validated(config):
    found = make_members(config, VARIED)
    assert [m.name for m in found] == [f"objective.beta={b},seed={s}" for b in (0.5, 2.0) for s in (0, 1)]
    assert [(m.config.objective.beta, m.config.seed) for m in found] == [(0.5, 0), (0.5, 1), (2.0, 0), (2.0, 1)]
    with pytest.raises(InputError, match=r"^objective\.beta: -1\.0 given"):
        make_members(config, {"objective.beta": [-1.0]})
    with pytest.raises(InputError, match=r"^--vary: a value is given twice"):
        make_members(config, {"seed": [1, 1]})
    with pytest.raises(InputError, match=r"^train\.patience: "):
        make_members(override(config, train__patience=1), {"seed": [1]})
    for spread, varied in ((2, {"seed": [1]}), (1, {"mesh.fsdp": [1, 2]})):
        with pytest.raises(InputError, match=r"^mesh\.fsdp: a sweep spreads its members over the devices"):
            make_members(override(config, mesh__fsdp=spread), varied)


def test_what_changes_a_shape_a_branch_or_the_data_is_another_program(config):
    def sizes(base, varied):
        return [len(group) for group in group_members(make_members(base, varied))]

    assert sizes(config, VARIED) == [4]
    assert sizes(config, {"optimizer.learning_rate": [1e-3, 1e-2], "seed": [0, 1]}) == [4]
    assert sizes(config, {"model.latent_dim": [2, 3], "seed": [0, 1, 2]}) == [3, 3]
    assert sizes(config, {"optimizer.clip_norm": [0.0, 1.0]}) == [1, 1]
    static = override(config, data__binarization="static", model__likelihood="bernoulli")
    assert sizes(static, VARIED) == [2, 2]  # a seed draws its own images


@pytest.fixture(scope="module")
def swept(small, tmp_path_factory):
    """(members, what they became, directory) of four members on four of the eight devices."""
    directory = tmp_path_factory.mktemp("sweep")
    config = small(train__steps=10, train__evaluate_every=5, train__save_every=5, objective__warmup_steps=4,
                   optimizer__name="adamw", optimizer__weight_decay=0.1, mesh__data=0)  # fmt: skip
    sweep = make_members(config, {"optimizer.learning_rate": [1e-3, 5e-3], "objective.beta": [0.5, 2.0]})
    return sweep, fit_group(sweep, directory), directory


def test_each_member_is_the_run_alone(swept, tmp_path):
    sweep, trained, directory = swept
    for member, found in zip(sweep, trained, strict=True):
        run, images = opening.prepare_run(override(member.config, mesh__data=1), tmp_path / member.name)
        alone = train_loop.fit(run, images)
        for a, b in zip(*map(jax.tree.leaves, (alone.state.params, found.params)), strict=True):
            np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5)
        rows = [programs.read_metrics(r.directory / recorder.METRICS_FILE) for r in (run, found.run)]
        assert [row["step"] for row in rows[0]] == [row["step"] for row in rows[1]] == [5, 5, 10, 10]
        for a, b in zip(*rows, strict=True):
            assert a == pytest.approx(b, rel=1e-3)
        with restoring.restored_params(opening.open_run(directory / member.name), pytest.fail) as (step, params):
            assert step == 10
        for a, b in zip(*map(jax.tree.leaves, (params, found.params)), strict=True):
            np.testing.assert_array_equal(a, b)
    first, *others = [found.params["output_bias"] for found in trained]
    assert all(not np.allclose(first, other, rtol=1e-4) for other in others)


def loops(jaxpr):
    """The loops of a program, from the outermost inwards."""
    jaxpr = getattr(jaxpr, "jaxpr", jaxpr)
    found = []
    for equation in jaxpr.eqns:
        inner = [name for part in equation.params.values() if hasattr(part, "eqns") or hasattr(part, "jaxpr")
                 for name in loops(part)]  # fmt: skip
        found += ([equation.primitive.name] if equation.primitive.name in ("scan", "while") else []) + inner
    return found


def test_members_are_one_vmap_elsewhere_than_on_a_cpu(config, tmp_path, monkeypatch):
    """And on a GPU for a number of steps that the compiler knows, in the shorter last dispatch too."""
    sweep = make_members(override(config, train__steps=8, mesh__data=2), VARIED)
    found = {}
    # Over members, draws of the images' order, and steps; over draws, and a known number of steps.
    for on_gpu, expected in ((False, ["scan", "while", "while"]), (True, ["while", "scan"])):
        monkeypatch.setattr(sharding, "models_take_turns", lambda mesh, on_gpu=on_gpu: not on_gpu)
        monkeypatch.setattr(sharding, "counts_are_known", lambda mesh, on_gpu=on_gpu: on_gpu)
        trained = fit_group(sweep, tmp_path / str(on_gpu))
        found[on_gpu] = [member.params for member in trained]
        program, images = sweep._Program([member.run for member in trained]), trained[0].run.images("train")
        traced = program.steps.trace(program.numbers, program.initial_state(images), images, 5)
        assert loops(traced.jaxpr) == expected
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5), found[True], found[False])


def test_members_lie_on_different_devices(swept):
    program = sweep._Program([found.run for found in swept[1]])
    assert {shard.device for shard in program.numbers["seed"].addressable_shards} == set(jax.devices()[:4])
    images = swept[1][0].run.images("train")
    state = program.initial_state(images)
    compiled = program.steps.lower(program.numbers, state, images, 5).compile().as_text()
    assert "all-reduce" not in compiled
    kernel = state.params["posterior_mean"]["kernel"]
    assert kernel.shape[0] == 4
    assert {shard.data.shape[0] for shard in kernel.addressable_shards} == {1}


def test_an_interrupted_sweep_goes_on_from_the_step_that_all_have(config, tmp_path, monkeypatch):
    sweep = make_members(config, VARIED)
    whole = fit_group(sweep, tmp_path / "whole")
    calls = iter([True])
    assert fit_group(sweep, tmp_path / "parts", stop=lambda: next(calls, False)) is None  # after 5 steps
    ahead, images = opening.prepare_run(sweep[0].config, tmp_path / "parts" / sweep[0].name)
    train_loop.fit(ahead, images)  # one member is at step 10 already
    seen = []
    steps = sweep.steps_to_dispatch
    monkeypatch.setattr(sweep, "steps_to_dispatch", lambda config, step: seen.append(step) or steps(config, step))
    parts = fit_group(sweep, tmp_path / "parts")
    assert seen == [5]
    assert not list(tmp_path.rglob("ahead-*"))  # the one that is done stays as it is
    for a, b in zip(whole, parts, strict=True):
        for x, y in zip(*map(jax.tree.leaves, (a.params, b.params)), strict=True):
            np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-6)
    name = sweep[1].name
    files = [tmp_path / part / name / recorder.METRICS_FILE for part in ("whole", "parts")]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_a_sweep_that_is_stopped_before_the_member_that_is_ahead_goes_on(config, tmp_path, capsys):
    """As where a process is killed between the saves of two members: what one has more is made again."""
    sweep = make_members(override(config, train__steps=20), VARIED)
    calls = iter([True])
    assert fit_group(sweep, tmp_path, stop=lambda: next(calls, False)) is None  # after 5 steps
    ahead, images = opening.prepare_run(sweep[0].config, tmp_path / sweep[0].name)
    calls = iter([False, False, True])
    assert train_loop.fit(ahead, images, stop=lambda: next(calls)).step == 15
    calls = iter([True])
    assert fit_group(sweep, tmp_path, stop=lambda: next(calls, False)) is None  # after 10
    kept = tmp_path / sweep[0].name / "checkpoints"
    assert {path.name for path in kept.iterdir()} == {"5", "10", "ahead-10", "ahead-15"}
    told = f"{tmp_path / sweep[0].name}: step(s) 10, 15, which the others lack, are made again"
    assert told in capsys.readouterr().err
    assert [member.failure for member in fit_group(sweep, tmp_path)] == [None] * 4


def test_members_that_are_done_are_left_alone_where_another_joins_them(config, tmp_path, monkeypatch):
    two, three = make_members(config, {"seed": [0, 1]}), make_members(config, {"seed": [0, 2, 1]})
    before = fit_group(two, tmp_path)
    kept = {path: path.read_bytes() for path in tmp_path.rglob("checkpoints/**/*") if path.is_file()}
    seen, steps = [], sweep.steps_to_dispatch
    monkeypatch.setattr(sweep, "steps_to_dispatch", lambda config, step: seen.append(step) or steps(config, step))
    after = fit_group(three, tmp_path)
    assert seen == [0, 5]  # of the new one
    assert [trained.run.config.seed for trained in after] == [0, 2, 1]
    for old, new in zip(before, after[::2], strict=True):
        jax.tree.map(np.testing.assert_array_equal, old.params, new.params)
    assert {path: path.read_bytes() for path in kept} == kept
    longer, calls = override(config, train__steps=15), iter([True])
    assert (
        fit_group(make_members(longer, {"seed": [3]}), tmp_path, stop=lambda: next(calls, False)) is None
    )  # after 5 steps
    seen.clear()
    fit_group(make_members(longer, {"seed": [4, 3]}), tmp_path)
    assert seen == [5, 10, 0, 5, 10]  # one that has begun does not wait for one that has not
    with pytest.raises(InputError, match=r"^train\.steps=5 must be at least the 10 of "):
        fit_group(make_members(override(config, train__steps=5), {"seed": [0, 1]}), tmp_path)
    assert {path: path.read_bytes() for path in kept} == kept


@pytest.mark.fault
def test_a_sweep_with_a_member_that_diverged_goes_on_without_it(config, tmp_path, monkeypatch):
    base = {"optimizer__name": "sgd", "optimizer__schedule": "constant", "train__steps": 30}
    sweep = make_members(override(config, **base), {"optimizer.learning_rate": [1e-6, 1e30]})
    whole = fit_group(sweep, tmp_path / "whole")
    calls = iter([False, False, False, True])
    assert fit_group(sweep, tmp_path / "parts", stop=lambda: next(calls, False)) is None  # after 20 steps
    seen, steps = [], sweep.steps_to_dispatch
    monkeypatch.setattr(sweep, "steps_to_dispatch", lambda config, step: seen.append(step) or steps(config, step))
    for record_dispatch in ([20, 25], []):  # goes on; and is done already
        seen.clear()
        good, bad = fit_group(sweep, tmp_path / "parts")
        assert good.failure is None
        assert "not finite" in bad.failure == whole[1].failure
        assert seen == record_dispatch
        files = [tmp_path / part / sweep[0].name / recorder.METRICS_FILE for part in ("whole", "parts")]
        assert files[0].read_bytes() == files[1].read_bytes()
    (tmp_path / "parts" / sweep[0].name / sweep.FAILURE_FILE).write_text('{"failure": "as well"}')
    assert [member.failure for member in fit_group(sweep, tmp_path / "parts")] == ["as well", bad.failure]


@pytest.mark.fault
def test_a_member_whose_bound_is_not_finite_does_not_cost_the_others_theirs(config, tmp_path, monkeypatch):
    sweep = make_members(config, {"seed": [0, 1]})
    trained = fit_group(sweep, tmp_path)
    evaluate = evaluation.evaluate_run

    def overflowing(run, *args, **kwargs):
        if run.config.seed == 0:
            raise NotFiniteError("the evaluation is not finite")
        return evaluate(run, *args, **kwargs)

    monkeypatch.setattr(evaluation, "evaluate", overflowing)
    first, second = evaluate_members(trained)
    assert first == {"failure": "the evaluation is not finite"}
    assert np.isfinite(second["elbo"])


@pytest.mark.fault
def test_a_member_that_diverges_is_left_behind(config, tmp_path, capsys):
    wild = override(config, optimizer__name="sgd", optimizer__schedule="constant")
    sweep = make_members(wild, {"optimizer.learning_rate": [1e-6, 1e30]})
    good, bad = fit_group(sweep, tmp_path)
    assert bad.params is None
    assert "not finite" in bad.failure
    assert "the other members go on" in capsys.readouterr().err
    results = evaluate_members([good, bad])
    assert results[1] == {"failure": bad.failure}
    assert json.loads((good.run.directory / "evaluation.json").read_text())["elbo"] == results[0]["elbo"]
    assert not (bad.run.directory / "evaluation.json").exists()
    table = markdown_table(summarize(sweep, results))
    assert table.splitlines()[-1].startswith("| 1e+30 | 0 | 1 | diverged | ")
    assert [row.get("failed") for row in summarize(sweep, results)] == [None, 1]


@pytest.mark.fault
def test_a_sweep_of_which_nothing_is_left_is_not_done(data_dir, tmp_path, call):
    argv = ["sweep", "--workdir", tmp_path, "--compilation-cache", "None", "--data.data-dir", data_dir,
            "--model.hidden", "8", "--model.latent-dim", "2", "--train.steps", "10", "--train.log-every", "5",
            "--train.evaluate-every", "0", "--train.save-every", "5", "--train.batch-size", "16",
            "--optimizer.name", "sgd", "--optimizer.schedule", "constant",
            "--vary", "optimizer.learning_rate=1e30,1e31"]  # fmt: skip
    found = call(*argv)
    assert (found.code, found.out) == (3, [])
    assert found.err[-1].startswith("vae-jax: none of the 2 members has ended: step ")
    assert "failure" in json.loads((tmp_path / "sweep.json").read_text())["members"][1]


@pytest.mark.fault
@pytest.mark.parametrize(("method", "num_samples"), [("likelihood", 4), ("bound", 0)])
def test_a_sweep_that_is_stopped_in_its_evaluation_is_evaluated_by_the_same_command(
    method, num_samples, data_dir, tmp_path, call, monkeypatch
):
    argv = ["sweep", "--workdir", tmp_path, "--compilation-cache", "None", "--data.data-dir", data_dir,
            "--model.hidden", "8", "--model.latent-dim", "2", "--train.steps", "10", "--train.log-every", "5",
            "--train.evaluate-every", "0", "--train.save-every", "5", "--train.batch-size", "16",
            "--evaluation.num-samples", str(num_samples), "--vary", "seed=0,1"]  # fmt: skip
    measure = getattr(Evaluator, method)

    def interrupted(self, *args, **kwargs):
        signal.raise_signal(signal.SIGTERM)
        return measure(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(Evaluator, method, interrupted)
        stopped = call(*argv)
    assert stopped.result["status"] == "interrupted"
    assert "the same command evaluates again" in stopped.err[-1]
    assert not (tmp_path / "sweep.json").exists()
    assert call(*argv).result["status"] == "done"
    assert len(json.loads((tmp_path / "sweep.json").read_text())["members"]) == 2


@pytest.mark.fault
def test_what_is_wrong_with_a_later_program_is_refused_before_the_first_is_trained(data_dir, tmp_path, call):
    argv = ["sweep", "--workdir", tmp_path / "sweep", "--compilation-cache", "None", "--data.data-dir", data_dir]
    found = call(*argv, "--vary", "data.name=digits,digitz")
    assert found.code == 2
    assert "data.name='digitz'" in found.err[-1]
    assert not (tmp_path / "sweep").exists()


def test_the_summary_is_over_seeds(config):
    sweep = make_members(config, VARIED)
    summary = summarize(sweep, [{"elbo": v} for v in (1.0, 3.0, 5.0, 5.0)])
    assert [row["varied"] for row in summary] == [{"objective.beta": 0.5}, {"objective.beta": 2.0}]
    assert summary[0]["elbo"] == {"mean": 2.0, "sd": pytest.approx(np.sqrt(2))}
    assert summary[1]["elbo"] == {"mean": 5.0, "sd": 0.0}
    assert markdown_table(summary).splitlines()[2] == "| 0.5 | 2 | 2.00 ± 1.41 |"
    lost = summarize(sweep, [{"elbo": 1.0}, {"failure": "step 3"}, {"elbo": 5.0}, {"elbo": 5.0}])
    assert markdown_table(lost).splitlines()[0] == "| objective.beta | members | failed | elbo |"
    assert markdown_table(lost).splitlines()[2:] == ["| 0.5 | 1 | 1 | 1.00 |", "| 2.0 | 2 | 0 | 5.00 ± 0.00 |"]


def test_the_command(config, data_dir, tmp_path, capsys):
    argv = ["sweep", "--workdir", str(tmp_path), "--compilation-cache", "None", "--data.data-dir", data_dir,
            "--model.hidden", "8", "--model.latent-dim", "2", "--train.steps", "10", "--train.log-every", "5",
            "--train.evaluate-every", "0", "--train.save-every", "5", "--train.batch-size", "16",
            "--evaluation.num-samples", "4", "--vary", "seed=0,1", "objective.beta=0.5,2"]  # fmt: skip
    assert main(argv) == 0
    said = capsys.readouterr()
    result = json.loads(said.out)
    assert (result["status"], result["members"], result["programs"], result["failed"]) == ("done", 4, 1, [])
    stored = json.loads((tmp_path / "sweep.json").read_text())
    assert [(m["seed"], m["objective.beta"]) for m in stored["members"]] == [(0, 0.5), (0, 2.0), (1, 0.5), (1, 2.0)]
    assert (tmp_path / "sweep.md").read_text().strip() in said.err
    with Image.open(tmp_path / "sweep.png") as image:
        assert image.size[0] > 500
    assert main(["evaluate", str(tmp_path / "seed=1,objective.beta=2.0")]) == 0
    again = json.loads(capsys.readouterr().out)
    assert again["elbo"] == pytest.approx(stored["members"][3]["elbo"], rel=1e-5)


@pytest.mark.parametrize(
    ("vary", "told"),
    [
        ([], "--vary: nothing given"),
        (["seed"], "--vary=seed must be SETTING=VALUE,VALUE,..."),
        (["objective.betta=1,2"], "objective.betta: no such setting; did you mean 'objective.beta'?"),
        (["model.hidden=1,2"], "model.hidden: a list of values can be given for numbers and names only"),
        (["seed=1", "seed=2"], "--vary: seed given twice"),
        (["seed=1,2", "--vary", "objective.beta=1,2"], "--vary: given twice, must be once"),
        (["seed=a,b"], "seed='a' must be of type int"),
        (["objective.name=elbo,elbow"], "objective.name='elbow' must be one of elbo"),
    ],
)
def test_what_cannot_be_varied_is_one_line(vary, told, tmp_path, capsys):
    argv = ["sweep", "--workdir", str(tmp_path / "sweep"), *(["--vary", *vary] if vary else [])]
    assert main(argv) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"vae-jax: {told}")
    assert not (tmp_path / "sweep").exists()


def test_the_figure_has_a_point_for_each_setting_with_a_kl(tmp_path):
    def row(beta, **numbers):
        return {"varied": {"objective.beta": beta}} | {n: {"mean": v, "sd": 0.5} for n, v in numbers.items()}

    path = tmp_path / "figure.png"
    curves.save_rate_distortion(path, [row(1.0, kl=20.0, reconstruction=-70.0), row(2.0, elbo=-3.0)])
    with Image.open(path) as image:
        assert image.format == "PNG"
    curves.save_rate_distortion(path, [row(2.0, elbo=-3.0)])
