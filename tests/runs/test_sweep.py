"""Sweeps: many models in one program, each equal to a separate run, and what remains on disk."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from hand_made import TRAINING, hand_made
from training_runs import fit as fit_config, metric_rows

from vae_jax.config import override
from vae_jax.data import StaticBinarizationConfig, from_arrays
from vae_jax.errors import InputError
from vae_jax.runs import (
    at_numbers,
    evaluate_members,
    fit,
    fit_group,
    fit_sweep,
    make_members,
    markdown_table,
    open_run,
    prepare_members,
    restored_params,
    summarize,
    sweep,
    train_loop,
)
from vae_jax.runtime import sharding

VARIED = {"objective.beta": [0.5, 2.0], "seed": [0, 1]}


@pytest.fixture
def dispatched(monkeypatch):
    """List that grows with the first step of each dispatch."""
    firsts, steps_to_dispatch = [], train_loop.steps_to_dispatch

    def record(log_every, steps, step):
        firsts.append(step)
        return steps_to_dispatch(log_every, steps, step)

    monkeypatch.setattr(train_loop, "steps_to_dispatch", record)
    return firsts


def stop_after(*polls):
    """Return a function that returns these answers, then False. The first is that before the first step."""
    answers = iter(polls)
    return lambda: next(answers, False)


def compiled_members(directory, members):
    """Return the compiled program of prepared members."""
    prepared = prepare_members(members, directory)
    template = prepared[0].experiment
    return sweep._CompiledMembers(prepared, lambda numbers: at_numbers(template, numbers)), template


@pytest.fixture(scope="module")
def swept(small, tmp_path_factory):
    """(members, trained members, directory) of four members on four of the eight devices."""
    directory = tmp_path_factory.mktemp("sweep")
    config = small(train__steps=10, train__evaluate_every=5, train__save_every=5, objective__warmup_steps=4,
                   optimizer="adamw", optimizer__weight_decay=0.1, mesh__data=0)  # fmt: skip
    members = make_members(config, {"optimizer.learning_rate": [1e-3, 5e-3], "objective.beta": [0.5, 2.0]})
    return members, fit_group(members, directory), directory


def test_each_member_equals_a_separate_run(swept, tmp_path):
    members, trained, directory = swept
    for member, found in list(zip(members, trained, strict=True))[1:3]:  # they differ in both settings
        _, alone = fit_config(override(member.config, mesh__data=1), tmp_path / member.name)
        for a, b in zip(*map(jax.tree.leaves, (alone.state.params, found.params)), strict=True):
            np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5)
        assert found.directory.path == directory / member.name
        rows = [metric_rows(place) for place in (tmp_path / member.name, found.directory)]
        assert [row["step"] for row in rows[0]] == [row["step"] for row in rows[1]] == [5, 5, 10, 10]
        for a, b in zip(*rows, strict=True):
            assert a == pytest.approx(b, rel=1e-3)
        opened = open_run(directory / member.name)
        with restored_params(opened.experiment, opened.directory, opened.placement, pytest.fail) as (step, params):
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


@pytest.mark.fault
def test_members_of_several_groups_are_refused(sweep_config, tmp_path):
    members = make_members(sweep_config, {"model.latent_dim": [2, 3], "seed": [0, 1]})
    with pytest.raises(InputError, match=r"^one program cannot train model.latent_dim=2,seed=0 and model.latent_dim=3"):
        fit_group(members, tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.thorough
def test_members_are_one_vmap_elsewhere_than_on_a_cpu(sweep_config, tmp_path, monkeypatch):
    """On a GPU the number of steps is static, also in the shorter last dispatch."""
    members = make_members(override(sweep_config, train__steps=8, mesh__data=2), {"objective.beta": [0.5, 2.0]})
    experiment = prepare_members(members, tmp_path)[0].experiment
    found = {}
    # The loops are over members, draws of the order of images, and steps; on a GPU over draws and a static number of
    # steps.
    for on_gpu, expected in ((False, ["scan", "while", "while"]), (True, ["while", "scan"])):
        monkeypatch.setattr(sharding, "trains_members_in_turn", lambda mesh, on_gpu=on_gpu: not on_gpu)
        monkeypatch.setattr(sharding, "needs_static_step_count", lambda mesh, on_gpu=on_gpu: on_gpu)
        trained = fit_group(members, tmp_path / str(on_gpu))
        found[on_gpu] = [member.params for member in trained]
        program, _ = compiled_members(tmp_path / str(on_gpu), members)
        program.start(None)
        data = experiment.training_data.read_all()
        traced = program._steps.trace(program._numbers, program.state, data, 5)
        assert loops(traced.jaxpr) == expected
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5), found[True], found[False])


def test_members_are_on_different_devices(swept):
    members, _, directory = swept
    program, experiment = compiled_members(directory, members)
    program.start(None)
    assert {shard.device for shard in program._numbers["seed"].addressable_shards} == set(jax.devices()[:4])
    data = experiment.training_data.read_all()
    compiled = program._steps.lower(program._numbers, program.state, data, 5).compile().as_text()
    assert "all-reduce" not in compiled
    kernel = max(jax.tree.leaves(program.state.params), key=lambda leaf: leaf.ndim * 1e9 + leaf.size)
    assert kernel.shape[0] == 4
    assert {shard.data.shape[0] for shard in kernel.addressable_shards} == {1}


def test_an_interrupted_sweep_resumes_at_the_newest_step_that_all_members_have(sweep_config, tmp_path, dispatched):
    members = make_members(sweep_config, {"seed": [0, 1]})
    complete = fit_group(members, tmp_path / "complete")
    assert fit_group(members, tmp_path / "parts", stop=stop_after(False, True)) is None  # after 5 steps
    fit_config(members[0].config, tmp_path / "parts" / members[0].name)  # one member is at step 10 already
    dispatched.clear()
    parts = fit_group(members, tmp_path / "parts")
    assert dispatched == [5]
    assert not list(tmp_path.rglob("ahead-*"))  # the finished member is not changed
    for a, b in zip(complete, parts, strict=True):
        for x, y in zip(*map(jax.tree.leaves, (a.params, b.params)), strict=True):
            np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-6)
    name = members[1].name
    files = [tmp_path / part / name / "metrics.jsonl" for part in ("complete", "parts")]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_a_sweep_that_is_stopped_before_its_first_step_has_trained_nothing(sweep_config, tmp_path, dispatched):
    members = make_members(sweep_config, {"seed": [0, 1]})
    assert fit_group(members, tmp_path, stop=lambda: True) is None
    assert dispatched == []
    assert not list(tmp_path.rglob("checkpoints/*"))


@pytest.mark.thorough
def test_a_sweep_that_is_stopped_behind_its_most_advanced_member_resumes(sweep_config, tmp_path, capsys):
    """As after a kill between the saves of two members: the additional steps of one are trained again."""
    members = make_members(override(sweep_config, train__steps=20), {"seed": [0, 1]})
    assert fit_group(members, tmp_path, stop=stop_after(False, True)) is None  # after 5 steps
    _, ahead = fit_config(members[0].config, tmp_path / members[0].name, stop=stop_after(False, False, True))
    assert ahead.step == 15
    assert fit_group(members, tmp_path, stop=stop_after(False, True)) is None  # after 10
    kept = tmp_path / members[0].name / "checkpoints"
    assert {path.name for path in kept.iterdir()} == {"5", "10", "ahead-10", "ahead-15"}
    stderr = capsys.readouterr().err
    assert f"{tmp_path / members[0].name}: trains again from step 5" in stderr
    assert "ahead-10, ahead-15" in stderr
    assert [member.failure for member in fit_group(members, tmp_path)] == [None] * 2


def test_started_members_without_a_common_step_are_not_trained_again(sweep_config, tmp_path, dispatched):
    """As after a finished sweep, to which an interrupted member was added, continues with more steps."""
    config = override(sweep_config, train__save_every=10)
    finished, other = make_members(config, {"seed": [0, 1]})
    fit_config(finished.config, tmp_path / finished.name)
    fit_config(other.config, tmp_path / other.name, stop=stop_after(False, True))  # after 5 steps
    dispatched.clear()
    members = make_members(override(config, train__steps=15), {"seed": [0, 1]})
    assert fit_group(members, tmp_path) is not None
    assert dispatched == [10, 5, 10]
    assert not list(tmp_path.rglob("ahead-*"))


@pytest.mark.thorough
def test_finished_members_are_not_trained_again_when_another_joins_them(sweep_config, tmp_path, dispatched):
    two, three = make_members(sweep_config, {"seed": [0, 1]}), make_members(sweep_config, {"seed": [0, 2, 1]})
    before = fit_group(two, tmp_path)
    kept = {path: path.read_bytes() for path in tmp_path.rglob("checkpoints/**/*") if path.is_file()}
    dispatched.clear()
    after = fit_group(three, tmp_path)
    assert dispatched == [0, 5]  # of the new member
    assert [trained.experiment.seed for trained in after] == [0, 2, 1]
    for old, new in zip(before, after[::2], strict=True):
        jax.tree.map(np.testing.assert_array_equal, old.params, new.params)
    assert {path: path.read_bytes() for path in kept} == kept
    longer = override(sweep_config, train__steps=15)
    # Stopped after 5 steps.
    assert fit_group(make_members(longer, {"seed": [3]}), tmp_path, stop=stop_after(False, True)) is None
    dispatched.clear()
    fit_group(make_members(longer, {"seed": [4, 3]}), tmp_path)
    assert dispatched == [5, 10, 0, 5, 10]  # a started member does not wait for a new one
    with pytest.raises(InputError, match=r"^train\.steps=5 must be at least 10, the newest step in "):
        fit_group(make_members(override(sweep_config, train__steps=5), {"seed": [0, 1]}), tmp_path)
    assert {path: path.read_bytes() for path in kept} == kept


@pytest.mark.fault
def test_a_sweep_with_a_member_that_diverged_resumes_without_it(sweep_config, tmp_path, dispatched):
    base = {"optimizer": "sgd", "schedule": "constant", "train__steps": 30}
    members = make_members(override(sweep_config, **base), {"optimizer.learning_rate": [1e-6, 1e30]})
    complete = fit_group(members, tmp_path / "complete")
    stop = stop_after(False, False, False, False, True)
    assert fit_group(members, tmp_path / "parts", stop=stop) is None  # after 20 steps
    dispatched.clear()
    for expected in ([20, 25], []):  # resumes; is finished
        dispatched.clear()
        good, bad = fit_group(members, tmp_path / "parts")
        assert good.failure is None
        assert "not finite" in bad.failure == complete[1].failure
        assert dispatched == expected
        files = [tmp_path / part / members[0].name / "metrics.jsonl" for part in ("complete", "parts")]
        assert files[0].read_bytes() == files[1].read_bytes()
    good.directory.failure.write_text('{"failure": "as well"}')
    assert [member.failure for member in fit_group(members, tmp_path / "parts")] == ["as well", bad.failure]


@pytest.mark.fault
def test_a_member_that_diverges_does_not_stop_the_others(sweep_config, tmp_path, capsys):
    wild = override(sweep_config, optimizer="sgd", schedule="constant")
    members = make_members(wild, {"optimizer.learning_rate": [1e-6, 1e30]})
    good, bad = fit_group(members, tmp_path)
    assert bad.params is None
    assert "not finite" in bad.failure
    assert "the other members continue" in capsys.readouterr().err
    results = evaluate_members([good, bad])
    assert results[1] == {"failure": bad.failure}
    assert json.loads(good.directory.evaluation.read_text())["elbo"] == results[0]["elbo"]
    assert not bad.directory.evaluation.exists()
    table = markdown_table(summarize(members, results))
    assert table.splitlines()[-1].startswith("| 1e+30 | 0 | 1 | diverged | ")
    assert [row.get("failed") for row in summarize(members, results)] == [None, 1]


# Sweeps over experiments that are made by hand.


@pytest.mark.thorough
def test_a_sweep_over_numbers_of_hand_made_experiments_equals_separate_runs(one_device, tmp_path):
    calls = []

    def make(seed, learning_rate):
        calls.append((seed, learning_rate))
        return hand_made(seed, learning_rate)

    trained = fit_sweep(make, tmp_path / "sweep", {"learning_rate": [1e-3, 1e-2], "seed": range(2)})
    assert calls[:4] == [(0, 1e-3), (1, 1e-3), (0, 1e-2), (1, 1e-2)]
    names = [member.directory.path.name for member in trained]
    assert names == [f"learning_rate={rate},seed={seed}" for rate in (0.001, 0.01) for seed in (0, 1)]
    for member, (seed, rate) in zip(trained, calls[:4], strict=True):
        alone = fit(hand_made(seed, rate), tmp_path / "alone" / member.directory.path.name, one_device)
        for a, b in zip(*map(jax.tree.leaves, (alone.params, member.params)), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
        rows = [metric_rows(tmp_path / folder / member.directory.path.name) for folder in ("alone", "sweep")]
        for a, b in zip(*rows, strict=True):
            assert a == pytest.approx(b, rel=1e-3)
    # A member is a run: a separate start finds it finished, with the same bits.
    again = fit(hand_made(1, 1e-3), trained[1].directory, one_device)
    assert (again.resumed_from, again.trained_steps) == (20, 0)
    jax.tree.map(np.testing.assert_array_equal, again.params, trained[1].params)


@pytest.mark.fault
@pytest.mark.thorough
def test_a_sweep_of_hand_made_experiments_resumes(tmp_path, dispatched):
    varied = {"seed": range(3)}
    complete = fit_sweep(hand_made, tmp_path / "complete", varied)
    dispatched.clear()
    assert fit_sweep(hand_made, tmp_path / "parts", varied, stop=stop_after(False, False, True)) is None
    parts = fit_sweep(hand_made, tmp_path / "parts", varied)
    assert dispatched == [0, 5, 10, 15]
    for a, b in zip(complete, parts, strict=True):
        jax.tree.map(np.testing.assert_array_equal, a.params, b.params)
        files = [place.metrics.read_bytes() for place in (a.directory, b.directory)]
        assert files[0] == files[1]


@pytest.mark.fault
def test_a_sweep_of_hand_made_experiments_that_cannot_share_a_program_is_refused(tmp_path):
    patient = dataclasses.replace(TRAINING, patience=1)
    with pytest.raises(InputError, match=r"^train\.patience=1 does not work in a sweep"):
        fit_sweep(lambda seed: hand_made(seed, training=patient), tmp_path, {"seed": [0, 1]})
    images = np.random.default_rng(0).integers(0, 256, (40, 4, 4), dtype=np.uint8)
    once = {"data": from_arrays(images), "preprocess": StaticBinarizationConfig()}
    with pytest.raises(InputError, match="the seed decides what the preprocessing stores"):
        fit_sweep(lambda seed: hand_made(seed, **once), tmp_path, {"seed": [0, 1]})
    with pytest.raises(InputError, match="contains a value twice"):
        fit_sweep(hand_made, tmp_path, {"seed": [1, 1]})
    fit_sweep(hand_made, tmp_path, {"seed": [0]})
    with pytest.raises(InputError, match=r"^num_samples=3 differs from 2 in .*; choose another directory, or the"):
        fit_sweep(lambda seed: hand_made(seed, num_samples=3), tmp_path, {"seed": [0]})
