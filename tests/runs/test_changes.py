"""Settings and images that differ from those of the stored run: refused, or allowed and recorded."""

import dataclasses

import numpy as np
import pytest
from training_runs import fit

from vae_jax.config import flatten, override
from vae_jax.errors import InputError
from vae_jax.runs import describe_changes, evaluation, open_run, prepare_run
from vae_jax.runs.changes import changed_data, changed_settings
from vae_jax.runs.checksums import to_json_types

DATA = {"fingerprint": "5f3a", "num_examples": 60, "image_shape": [8, 8, 1]}


def description_of(config):
    return {"config": to_json_types(flatten(config)), "data": DATA, "changes": []}


def changes_between(old, new, directory, *allowed):
    return changed_settings(description_of(old), new, directory, allowed)


def test_equal_and_resumable_settings_are_no_change(small, tmp_path):
    config = small(optimizer__schedule="constant")
    assert changes_between(config, config, tmp_path) == []
    assert changes_between(config, override(config, train__steps=99, train__save_every=5), tmp_path) == []


def test_the_number_of_steps_is_a_change_if_the_schedule_spans_it(small, tmp_path):
    config = small(optimizer__schedule="cosine")
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


def test_permission_is_not_suggested_if_the_saved_arrays_would_not_fit(small, tmp_path):
    with pytest.raises(InputError, match="choose another --workdir") as caught:
        changes_between(small(), small(model__hidden=(9,)), tmp_path)
    assert "--allow-change" not in str(caught.value)
    with pytest.raises(InputError, match=r"did you mean 'train\.batch_size'"):
        changes_between(small(), small(), tmp_path, "train.batchsize")


@pytest.mark.parametrize(
    ("binarization", "permission"),
    [("none", "data.name"), ("none", "data.holdout"), ("none", "data.binarization"), ("static", "seed")],
)
def test_other_images_need_the_permission_of_a_setting_that_selects_them(small, tmp_path, binarization, permission):
    config = small(data__binarization=binarization, model__likelihood="bernoulli").data
    given = DATA | {"fingerprint": "77aa"}
    with pytest.raises(InputError, match=r"allow the change with --allow-change data\.name"):
        changed_data(DATA, given, tmp_path, config, ["train.batch_size"])
    if binarization == "none":
        with pytest.raises(InputError):
            changed_data(DATA, given, tmp_path, config, ["seed"])
    expected = [{"setting": "fingerprint", "from": "5f3a", "to": "77aa"}]
    assert changed_data(DATA, given, tmp_path, config, [permission]) == expected
    reshaped = DATA | {"image_shape": [9, 8, 1]}
    with pytest.raises(InputError, match=r"choose another --workdir$"):
        changed_data(DATA, reshaped, tmp_path, config, [permission])


@pytest.mark.fault
def test_other_images_under_the_same_name_are_refused(small, tmp_path):
    path, noise = tmp_path / "images.npz", np.random.default_rng(0)
    np.savez(path, images=noise.integers(0, 256, (60, 6, 5), dtype=np.uint8))
    config = small(data__name=str(path), train__steps=5, train__save_every=5)
    run, outcome = fit(config, tmp_path / "run")
    np.savez(path, images=noise.integers(0, 256, (60, 6, 5), dtype=np.uint8))
    with pytest.raises(InputError, match=r"^data\.name=.* no longer contains the images that .* was trained on"):
        prepare_run(config, run.directory)
    np.savez(path, images=noise.integers(0, 256, (60, 7, 5), dtype=np.uint8))
    with pytest.raises(
        InputError, match=r"^data\.name=.* has images of shape \[7, 5, 1\], but .* was trained on \[6, 5, 1\]"
    ):
        evaluation.evaluate_run(open_run(run.directory), outcome.state.params, split="test")


def test_only_changes_of_this_start_are_described(make_run):
    run, _ = make_run()
    changes = (
        {"setting": "seed", "from": 0, "to": 1},
        {"setting": "train.steps", "from": 20, "to": 30},
        {"step": 5, "setting": "train.batch_size", "from": 8, "to": 16},
    )
    lines = describe_changes(dataclasses.replace(run, changes=changes), 20)
    assert len(lines) == 2
    assert lines[0] == "seed changes from 0 to 1 at step 20, as allowed by --allow-change"
    assert lines[1].startswith("train.steps changes from 20 to 30 at step 20, and with it the learning rate")
    assert f"optimizer.schedule={run.config.optimizer.schedule}" in lines[1]
