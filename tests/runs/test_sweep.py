"""Sweeps: many models in one program, each equal to a separate run, and what remains on disk."""

import json

import jax
import numpy as np
import pytest

from vae_jax.config import override
from vae_jax.errors import InputError
from vae_jax.runs import (
    evaluate_members,
    fit,
    fit_group,
    make_members,
    markdown_table,
    open_run,
    prepare_run,
    read_metrics,
    restored_params,
    summarize,
    sweep,
)
from vae_jax.runs.recorder import METRICS_FILE
from vae_jax.runtime import sharding

VARIED = {"objective.beta": [0.5, 2.0], "seed": [0, 1]}


@pytest.fixture
def dispatched(monkeypatch):
    """List that grows with the first step of each dispatch."""
    steps, steps_to_dispatch = [], sweep.steps_to_dispatch

    def record(config, step):
        steps.append(step)
        return steps_to_dispatch(config, step)

    monkeypatch.setattr(sweep, "steps_to_dispatch", record)
    return steps


@pytest.fixture(scope="module")
def swept(small, tmp_path_factory):
    """(members, trained members, directory) of four members on four of the eight devices."""
    directory = tmp_path_factory.mktemp("sweep")
    config = small(train__steps=10, train__evaluate_every=5, train__save_every=5, objective__warmup_steps=4,
                   optimizer__name="adamw", optimizer__weight_decay=0.1, mesh__data=0)  # fmt: skip
    members = make_members(config, {"optimizer.learning_rate": [1e-3, 5e-3], "objective.beta": [0.5, 2.0]})
    return members, fit_group(members, directory), directory


def test_each_member_equals_a_separate_run(swept, tmp_path):
    members, trained, directory = swept
    for member, found in zip(members, trained, strict=True):
        run, images = prepare_run(override(member.config, mesh__data=1), tmp_path / member.name)
        alone = fit(run, images)
        for a, b in zip(*map(jax.tree.leaves, (alone.state.params, found.params)), strict=True):
            np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5)
        rows = [read_metrics(r.directory / METRICS_FILE) for r in (run, found.run)]
        assert [row["step"] for row in rows[0]] == [row["step"] for row in rows[1]] == [5, 5, 10, 10]
        for a, b in zip(*rows, strict=True):
            assert a == pytest.approx(b, rel=1e-3)
        with restored_params(open_run(directory / member.name), pytest.fail) as (step, params):
            assert step == 10
        for a, b in zip(*map(jax.tree.leaves, (params, found.params)), strict=True):
            np.testing.assert_array_equal(a, b)
    first, *others = [found.params["output_bias"] for found in trained]
    assert all(not np.allclose(first, other, rtol=1e-4) for other in others)


def loops(jaxpr):
    """Return the names of the loops of a program, outermost first."""
    jaxpr = getattr(jaxpr, "jaxpr", jaxpr)
    names = []
    for equation in jaxpr.eqns:
        inner = [name for part in equation.params.values() if hasattr(part, "eqns") or hasattr(part, "jaxpr")
                 for name in loops(part)]  # fmt: skip
        names += ([equation.primitive.name] if equation.primitive.name in ("scan", "while") else []) + inner
    return names


def test_members_are_one_vmap_elsewhere_than_on_a_cpu(sweep_config, tmp_path, monkeypatch):
    """On a GPU the number of steps is static, also in the shorter last dispatch."""
    members = make_members(override(sweep_config, train__steps=8, mesh__data=2), VARIED)
    found = {}
    # The loops are over members, draws of the order of images, and steps; on a GPU over draws and a static number of
    # steps.
    for on_gpu, expected in ((False, ["scan", "while", "while"]), (True, ["while", "scan"])):
        monkeypatch.setattr(sharding, "trains_members_in_turn", lambda mesh, on_gpu=on_gpu: not on_gpu)
        monkeypatch.setattr(sharding, "needs_static_step_count", lambda mesh, on_gpu=on_gpu: on_gpu)
        trained = fit_group(members, tmp_path / str(on_gpu))
        found[on_gpu] = [member.params for member in trained]
        program, images = sweep._Program([member.run for member in trained]), trained[0].run.images("train")
        traced = program.steps.trace(program.numbers, program.initial_state(images), images, 5)
        assert loops(traced.jaxpr) == expected
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5), found[True], found[False])


def test_members_are_on_different_devices(swept):
    program = sweep._Program([found.run for found in swept[1]])
    assert {shard.device for shard in program.numbers["seed"].addressable_shards} == set(jax.devices()[:4])
    images = swept[1][0].run.images("train")
    state = program.initial_state(images)
    compiled = program.steps.lower(program.numbers, state, images, 5).compile().as_text()
    assert "all-reduce" not in compiled
    kernel = state.params["posterior_mean"]["kernel"]
    assert kernel.shape[0] == 4
    assert {shard.data.shape[0] for shard in kernel.addressable_shards} == {1}


def test_an_interrupted_sweep_resumes_at_the_newest_step_that_all_members_have(sweep_config, tmp_path, dispatched):
    members = make_members(sweep_config, VARIED)
    complete = fit_group(members, tmp_path / "complete")
    calls = iter([True])
    assert fit_group(members, tmp_path / "parts", stop=lambda: next(calls, False)) is None  # after 5 steps
    ahead, images = prepare_run(members[0].config, tmp_path / "parts" / members[0].name)
    fit(ahead, images)  # one member is at step 10 already
    dispatched.clear()
    parts = fit_group(members, tmp_path / "parts")
    assert dispatched == [5]
    assert not list(tmp_path.rglob("ahead-*"))  # the finished member is not changed
    for a, b in zip(complete, parts, strict=True):
        for x, y in zip(*map(jax.tree.leaves, (a.params, b.params)), strict=True):
            np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-6)
    name = members[1].name
    files = [tmp_path / part / name / METRICS_FILE for part in ("complete", "parts")]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_a_sweep_that_is_stopped_behind_its_most_advanced_member_resumes(sweep_config, tmp_path, capsys):
    """As after a kill between the saves of two members: the additional steps of one are trained again."""
    members = make_members(override(sweep_config, train__steps=20), VARIED)
    calls = iter([True])
    assert fit_group(members, tmp_path, stop=lambda: next(calls, False)) is None  # after 5 steps
    ahead, images = prepare_run(members[0].config, tmp_path / members[0].name)
    calls = iter([False, False, True])
    assert fit(ahead, images, stop=lambda: next(calls)).step == 15
    calls = iter([True])
    assert fit_group(members, tmp_path, stop=lambda: next(calls, False)) is None  # after 10
    kept = tmp_path / members[0].name / "checkpoints"
    assert {path.name for path in kept.iterdir()} == {"5", "10", "ahead-10", "ahead-15"}
    stderr = capsys.readouterr().err
    assert f"{tmp_path / members[0].name}: trains again from step 5" in stderr
    assert "ahead-10, ahead-15" in stderr
    assert [member.failure for member in fit_group(members, tmp_path)] == [None] * 4


def test_finished_members_are_not_trained_again_when_another_joins_them(sweep_config, tmp_path, dispatched):
    two, three = make_members(sweep_config, {"seed": [0, 1]}), make_members(sweep_config, {"seed": [0, 2, 1]})
    before = fit_group(two, tmp_path)
    kept = {path: path.read_bytes() for path in tmp_path.rglob("checkpoints/**/*") if path.is_file()}
    dispatched.clear()
    after = fit_group(three, tmp_path)
    assert dispatched == [0, 5]  # of the new member
    assert [trained.run.config.seed for trained in after] == [0, 2, 1]
    for old, new in zip(before, after[::2], strict=True):
        jax.tree.map(np.testing.assert_array_equal, old.params, new.params)
    assert {path: path.read_bytes() for path in kept} == kept
    longer, calls = override(sweep_config, train__steps=15), iter([True])
    assert (
        fit_group(make_members(longer, {"seed": [3]}), tmp_path, stop=lambda: next(calls, False)) is None
    )  # after 5 steps
    dispatched.clear()
    fit_group(make_members(longer, {"seed": [4, 3]}), tmp_path)
    assert dispatched == [5, 10, 0, 5, 10]  # a started member does not wait for a new one
    with pytest.raises(InputError, match=r"^train\.steps=5 must be at least 10, the newest step in "):
        fit_group(make_members(override(sweep_config, train__steps=5), {"seed": [0, 1]}), tmp_path)
    assert {path: path.read_bytes() for path in kept} == kept


@pytest.mark.fault
def test_a_sweep_with_a_member_that_diverged_resumes_without_it(sweep_config, tmp_path, dispatched):
    base = {"optimizer__name": "sgd", "optimizer__schedule": "constant", "train__steps": 30}
    members = make_members(override(sweep_config, **base), {"optimizer.learning_rate": [1e-6, 1e30]})
    complete = fit_group(members, tmp_path / "complete")
    calls = iter([False, False, False, True])
    assert fit_group(members, tmp_path / "parts", stop=lambda: next(calls, False)) is None  # after 20 steps
    dispatched.clear()
    for expected in ([20, 25], []):  # resumes; is finished
        dispatched.clear()
        good, bad = fit_group(members, tmp_path / "parts")
        assert good.failure is None
        assert "not finite" in bad.failure == complete[1].failure
        assert dispatched == expected
        files = [tmp_path / part / members[0].name / METRICS_FILE for part in ("complete", "parts")]
        assert files[0].read_bytes() == files[1].read_bytes()
    (tmp_path / "parts" / members[0].name / sweep.FAILURE_FILE).write_text('{"failure": "as well"}')
    assert [member.failure for member in fit_group(members, tmp_path / "parts")] == ["as well", bad.failure]


@pytest.mark.fault
def test_a_member_that_diverges_does_not_stop_the_others(sweep_config, tmp_path, capsys):
    wild = override(sweep_config, optimizer__name="sgd", optimizer__schedule="constant")
    members = make_members(wild, {"optimizer.learning_rate": [1e-6, 1e30]})
    good, bad = fit_group(members, tmp_path)
    assert bad.params is None
    assert "not finite" in bad.failure
    assert "the other members continue" in capsys.readouterr().err
    results = evaluate_members([good, bad])
    assert results[1] == {"failure": bad.failure}
    assert json.loads((good.run.directory / "evaluation.json").read_text())["elbo"] == results[0]["elbo"]
    assert not (bad.run.directory / "evaluation.json").exists()
    table = markdown_table(summarize(members, results))
    assert table.splitlines()[-1].startswith("| 1e+30 | 0 | 1 | diverged | ")
    assert [row.get("failed") for row in summarize(members, results)] == [None, 1]
