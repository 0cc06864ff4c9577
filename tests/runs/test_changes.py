"""Settings and data that differ from those of the stored run: refused, or allowed and recorded."""

import numpy as np
import pytest
from training_runs import fit

from vae_jax.config import flatten, override
from vae_jax.errors import InputError
from vae_jax.runs import RunDirectory, StoredRun, open_run, prepare_experiment
from vae_jax.runs.changes import changed_data, changed_settings, describe_changes, state_arrays
from vae_jax.runs.storage.checksums import to_json_types

DATA = {
    "kind": "images", "num_examples": 60, "arrays": {"x": {"shape": [8, 8, 1], "dtype": "uint8", "sha256": "5f3a"}},
}  # fmt: skip


def with_x(**fields):
    """Return DATA with other entries of the array x."""
    return DATA | {"arrays": {"x": DATA["arrays"]["x"] | fields}}


def changes_between(old, new, directory, *allowed, same_state=lambda: True):
    stored = StoredRun(to_json_types(flatten(old)), True, DATA, [])
    return changed_settings(stored, flatten(new), RunDirectory(directory), allowed, same_state=same_state)


def test_equal_and_resumable_settings_are_no_change(small, tmp_path):
    config = small(schedule="constant")
    assert changes_between(config, config, tmp_path) == []
    assert changes_between(config, override(config, train__steps=99, train__save_every=5), tmp_path) == []


def test_the_number_of_steps_is_a_change_if_the_schedule_spans_it(small, tmp_path):
    config = small(schedule="cosine")
    change = {"setting": "train.steps", "from": 20, "to": 30}
    assert changes_between(config, override(config, train__steps=30), tmp_path) == [change]


def test_a_change_needs_permission_and_names_the_setting(small, tmp_path):
    config = small()
    other = override(config, seed=1, train__batch_size=8)
    with pytest.raises(InputError) as caught:
        changes_between(config, other, tmp_path, "seed")
    message = str(caught.value)
    assert message.startswith(f"train.batch_size=8 differs from 16 in {tmp_path}; choose another --workdir")
    assert message.endswith("allow the change with --allow-change train.batch_size")
    assert "\n" not in message
    assert changes_between(config, other, tmp_path, "seed", "train.batch_size") == [
        {"setting": "seed", "from": 0, "to": 1},
        {"setting": "train.batch_size", "from": 16, "to": 8},
    ]


def test_a_sweep_has_no_option_to_allow_a_change(small, tmp_path):
    config = small()
    stored = StoredRun(to_json_types(flatten(config)), True, DATA, [])
    new = flatten(override(config, train__batch_size=8))
    with pytest.raises(InputError) as caught:
        changed_settings(stored, new, RunDirectory(tmp_path), None, same_state=lambda: True)
    assert str(caught.value) == (
        f"train.batch_size=8 differs from 16 in {tmp_path}; choose another --workdir, or the values of the stored run"
    )
    other = {"kind": "images", "num_examples": 9}
    with pytest.raises(InputError, match=r"choose another --workdir$"):
        changed_data({**other, "num_examples": 8}, other, new, RunDirectory(tmp_path), None, stored_settings=new)


def test_permission_for_a_choice_includes_its_settings_and_the_message_names_the_choice(small, tmp_path):
    config = small(optimizer="adamw", optimizer__weight_decay=0.1, optimizer__b1=0.8)
    other = override(config, optimizer="lion", optimizer__b1=0.7)
    with pytest.raises(InputError) as caught:
        changes_between(config, other, tmp_path)
    assert str(caught.value).startswith(f"optimizer=lion differs from adamw in {tmp_path}; ")
    assert str(caught.value).endswith("--allow-change optimizer")
    changes = changes_between(config, other, tmp_path, "optimizer")
    assert {"setting": "optimizer.eps", "from": 1e-8, "to": None} in changes
    assert [change["setting"] for change in changes] == ["optimizer", "optimizer.b1", "optimizer.eps"]


def test_a_setting_that_only_the_stored_run_has_can_be_allowed(small, tmp_path):
    old, new = small(optimizer="adamw", optimizer__weight_decay=0.1), small()
    changes = changes_between(old, new, tmp_path, "optimizer", "optimizer.weight_decay")
    assert changes[-1] == {"setting": "optimizer.weight_decay", "from": 0.1, "to": None}
    with pytest.raises(InputError, match=r"^optimizer=adam differs from adamw"):
        changes_between(old, new, tmp_path, "optimizer.weight_decay")


def test_permission_is_not_suggested_if_the_saved_arrays_would_not_fit(small, tmp_path):
    directory = tmp_path / "run"
    fit(small(train__steps=5, train__save_every=5), directory)
    for settings, fits in (({"network__hidden": (9,)}, False), ({"network__activation": "relu"}, True)):
        with pytest.raises(InputError, match="choose another --workdir") as caught:
            prepare_experiment(small(**settings), directory)
        assert ("--allow-change" in str(caught.value)) is fits
    with pytest.raises(InputError, match=r"did you mean 'train\.batch_size'"):
        prepare_experiment(small(), directory, allow_change=["train.batchsize"])


def test_the_arrays_of_a_state_are_described_by_path(make_experiment):
    arrays = state_arrays(make_experiment()[0].abstract_state)
    assert arrays["params.output_bias"] == "float32[8, 8, 1]"
    assert arrays["step"] == "int32[]"
    assert arrays == state_arrays(make_experiment(network__activation="relu", seed=1)[0].abstract_state)
    assert arrays != state_arrays(make_experiment(train__ema_decay=0.5)[0].abstract_state)


@pytest.mark.parametrize(
    ("preprocess", "permission"),
    [
        ("scale", "data.name"), ("scale", "data.holdout"), ("scale", "data.kind"), ("scale", "preprocess"),
        ("static-binarization", "seed"),
    ],
)  # fmt: skip
def test_other_examples_need_the_permission_of_a_setting_that_selects_them(small, tmp_path, preprocess, permission):
    settings, directory = flatten(small(preprocess=preprocess, likelihood="bernoulli")), RunDirectory(tmp_path)
    given = with_x(sha256="77aa") | {"num_examples": 59}
    with pytest.raises(InputError, match=r"allow the change with --allow-change data\.name"):
        changed_data(DATA, given, settings, directory, ["train.batch_size"], stored_settings=settings)
    if preprocess == "scale":
        with pytest.raises(InputError):
            changed_data(DATA, given, settings, directory, ["seed"], stored_settings=settings)
    assert changed_data(DATA, given, settings, directory, [permission], stored_settings=settings) == [
        {"setting": "num_examples", "from": 60, "to": 59},
        {"setting": "arrays.x.sha256", "from": "5f3a", "to": "77aa"},
    ]
    for reshaped in (with_x(shape=[9, 8, 1]), with_x(dtype="float32"), DATA | {"kind": "vectors"}):
        with pytest.raises(InputError, match=r"choose another --workdir$"):
            changed_data(DATA, reshaped, settings, directory, [permission], stored_settings=settings)


@pytest.mark.fault
@pytest.mark.parametrize(
    ("path", "given", "end"),
    [
        ("data.resize", with_x(shape=[14, 14, 1]), "which changes its examples; choose another --workdir"),
        ("data.duplicates", with_x(sha256="77aa"), "or allow the change with --allow-change data.duplicates"),
    ],
)
def test_a_setting_that_changes_the_examples_is_named(small, tmp_path, path, given, end):
    stored = flatten(small())
    settings = stored | {path: 14}
    with pytest.raises(InputError) as caught:
        changed_data(DATA, given, settings, RunDirectory(tmp_path), [], stored_settings=stored)
    message = str(caught.value)
    assert message.startswith(f"{path}=14 differs from {stored[path]} in {tmp_path}, which changes its examples; ")
    assert message.endswith(end)


def test_labels_that_appear_or_disappear_are_other_arrays(small, tmp_path):
    labelled = DATA | {"arrays": DATA["arrays"] | {"y": {"shape": [], "dtype": "int32", "sha256": "11"}}}
    settings = flatten(small())
    for pair in ((DATA, labelled), (labelled, DATA)):
        with pytest.raises(InputError, match=r"choose another --workdir$"):
            changed_data(*pair, settings, RunDirectory(tmp_path), ["data.name"], stored_settings=settings)


@pytest.mark.fault
def test_other_images_under_the_same_name_are_refused(small, tmp_path):
    path, noise = tmp_path / "images.npz", np.random.default_rng(0)
    np.savez(path, images=noise.integers(0, 256, (60, 6, 5), dtype=np.uint8))
    config = small(data__name=str(path), train__steps=5, train__save_every=5)
    fit(config, tmp_path / "run")
    np.savez(path, images=noise.integers(0, 256, (60, 6, 5), dtype=np.uint8))
    with pytest.raises(InputError, match=r"^data\.name=.* no longer contains the examples that .* was trained on"):
        prepare_experiment(config, tmp_path / "run")
    np.savez(path, images=noise.integers(0, 256, (60, 7, 5), dtype=np.uint8))
    with pytest.raises(InputError, match=r"the split test has arrays .*\[7, 5, 1\].*training examples.*\[6, 5, 1\]"):
        open_run(tmp_path / "run").experiment.dataset("test")


def test_only_changes_of_this_start_are_described(small):
    changes = (
        {"setting": "seed", "from": 0, "to": 1},
        {"setting": "train.steps", "from": 20, "to": 30},
        {"step": 5, "setting": "train.batch_size", "from": 8, "to": 16},
    )
    lines = describe_changes(changes, flatten(small()), 20)
    assert len(lines) == 2
    assert lines[0] == "seed changes from 0 to 1 at step 20, as allowed by --allow-change"
    assert lines[1].startswith("train.steps changes from 20 to 30 at step 20, and with it the learning rate")
    assert "schedule=cosine" in lines[1]
