"""Opening a run and preparing an experiment: what is checked, and that nothing is written."""

import shutil

import jax
import numpy as np
import pytest
from hand_made import hand_made
from inputs import random_images, save_image
from training_runs import fit

from vae_jax.config import override
from vae_jax.errors import InputError, StorageError
from vae_jax.runs import (
    RunDirectory,
    check_data,
    check_experiment,
    config_file,
    decode_codes,
    is_streamed,
    open_run,
    prepare_experiment,
    require_in_memory,
    restored_params,
    train_loop,
)
from vae_jax.runs.restoring import has_steps


def save_images(path, *shape, seed=0):
    np.savez(path, images=np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8))


@pytest.fixture
def on_file(small, tmp_path):
    """(directory of a run of five steps on images.npz, that file)."""
    path = tmp_path / "images.npz"
    save_images(path, 60, 6, 5)
    fit(small(data__name=str(path), train__steps=5, train__save_every=5), tmp_path / "run")
    return tmp_path / "run", path


def test_preparing_writes_nothing(small, tmp_path):
    prepare_experiment(small(), tmp_path / "deep" / "run")
    assert list(tmp_path.iterdir()) == []


def test_an_opened_run_uses_as_many_devices_as_there_are(small, tmp_path):
    config = small(train__batch_size=16, mesh__data=2, mesh__fsdp=4)
    experiment, placement = prepare_experiment(config, tmp_path / "run")
    assert placement.mesh.size == 8
    config_file.write_config(RunDirectory(tmp_path / "run"), experiment, [])
    opened = open_run(tmp_path / "run")
    assert (opened.experiment.config, opened.experiment.data) == (experiment.config, experiment.data)
    assert opened.placement.mesh.shape == {"data": 2, "fsdp": 4}
    assert (opened.directory.path, opened.changed) == (tmp_path / "run", frozenset())


def test_settings_that_do_not_change_the_run_can_be_replaced_when_it_is_opened(on_file):
    directory, _ = on_file
    opened = open_run(directory, evaluation__num_samples=7, data__holdout=0.2)
    assert opened.experiment.evaluation.num_samples == 7
    assert opened.experiment.config.data.holdout == 0.2
    with pytest.raises(InputError, match=r"^evaluation\.samples is not a setting"):
        open_run(directory, evaluation__samples=7)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"train__batch_size": 15, "mesh__data": 4}, r"^train\.batch_size=15 must be a multiple of "),
        (
            {"train__batch_size": 12, "train__microbatches": 2, "mesh__data": 4},
            r"^train\.batch_size / train\.microbatches=6 must be a multiple of ",
        ),
        ({"train__batch_size": 4000}, r"^train\.batch_size=4000 must be at most the 1,?294 training examples"),
        ({"data__name": "digitz"}, r"^data\.name='digitz'"),
    ],
)
def test_a_config_that_does_not_fit_the_data_or_the_devices_is_refused(small, tmp_path, settings, message):
    with pytest.raises(InputError, match=message):
        prepare_experiment(small(**settings), tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


def test_a_hand_made_experiment_is_checked_like_a_config(one_device, tmp_path):
    assert check_experiment(hand_made(), RunDirectory(tmp_path / "run"), one_device) == []
    with pytest.raises(InputError, match=r"^train\.batch_size=15 must be a multiple of the 8 devices"):
        train_loop.fit(hand_made(training=override_training(batch_size=15)), tmp_path / "run")
    with pytest.raises(InputError, match=r"^train\.batch_size=64 must be at most the 49 training examples"):
        train_loop.fit(hand_made(training=override_training(batch_size=64)), tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.fault
def test_a_run_without_a_step_has_nothing_that_other_settings_could_change(small, tmp_path):
    directory = RunDirectory(tmp_path / "run")
    directory.checkpoints.mkdir(parents=True)
    config_file.write_config(directory, prepare_experiment(small(), directory)[0], [])
    other = small(objective="iwae")
    assert not has_steps(directory)
    assert prepare_experiment(other, directory)[0].config.objective.name == "iwae"
    directory.metrics.write_text('{"step": 10}\n')
    assert has_steps(directory)
    with pytest.raises(InputError, match=r"^objective=iwae differs from elbo in "):
        prepare_experiment(other, directory)


@pytest.mark.fault
def test_allowed_changes_of_a_new_run_have_no_effect_and_their_names_are_checked(small, tmp_path, one_device):
    lines, directory = [], tmp_path / "run"
    with pytest.raises(
        InputError, match=r"^--allow-change=train\.batchsize: no such setting; did you mean 'train\.bat"
    ):
        prepare_experiment(small(), directory, allow_change=["train.batchsize"], log=lines.append)
    assert not lines
    prepare_experiment(small(), directory, allow_change=["seed", "data.name"], log=lines.append)
    assert f"--allow-change seed data.name has no effect, because {directory} contains no step of a run" in lines
    with pytest.raises(InputError, match=r"^--allow-change=settings\.rate: no such setting"):
        check_experiment(hand_made(), RunDirectory(directory), one_device, allow_change=["settings.rate"])


def override_training(**fields):
    return type(hand_made().training)(**{"steps": 5, "log_every": 5} | fields)


@pytest.mark.fault
def test_a_run_inside_of_the_folder_of_its_images_is_refused(small, tmp_path):
    (tmp_path / "images").mkdir()
    for i, image in enumerate(random_images(20, 6, 5)):
        save_image(tmp_path / "images" / f"{i}.png", image)
    config = small(data__name=str(tmp_path / "images"), data__holdout=0.2, train__batch_size=8)
    prepare_experiment(config, tmp_path / "images-run")
    for inside in (".", "runs/mine"):
        with pytest.raises(InputError, match=r"is inside of data.name='.*images', whose images are the examples, and"):
            prepare_experiment(config, tmp_path / "images" / inside)


@pytest.mark.fault
def test_a_directory_that_cannot_be_written_is_refused(small, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(StorageError):
        prepare_experiment(small(), tmp_path / "file")


def test_a_streamed_run_is_reported_and_needs_no_memory_for_all_examples(small, tmp_path):
    lines = []
    config = small(data__streaming="always")
    experiment, _ = prepare_experiment(config, tmp_path / "run", log=lines.append)
    assert is_streamed(experiment)
    assert len(lines) == 1
    assert f"{len(experiment.training_data):,} examples" in lines[0]
    with pytest.raises(InputError, match=r"^data\.streaming does not work with a sweep"):
        require_in_memory(experiment, "a sweep")
    experiment, _ = prepare_experiment(override(config, data__streaming="never"), tmp_path / "run", log=lines.append)
    assert not is_streamed(experiment)
    assert len(lines) == 1
    assert require_in_memory(experiment, "a sweep")["x"].shape == (1294, 8, 8, 1)


@pytest.mark.fault
def test_data_that_changed_or_moved_are_refused_with_the_command_to_continue(on_file):
    directory, path = on_file
    check_data(open_run(directory))
    save_images(path, 60, 6, 5, seed=1)
    with pytest.raises(InputError, match=r"--allow-change data\.name") as caught:
        check_data(open_run(directory))
    assert "\n" not in str(caught.value)
    path.unlink()
    with pytest.raises(InputError, match=r"--data\.name NAME") as caught:
        check_data(open_run(directory))
    assert "\n" not in str(caught.value)


@pytest.mark.fault
def test_a_run_can_be_opened_and_decoded_without_its_data(on_file):
    """The stored description is enough: no example is read."""
    directory, path = on_file
    path.unlink()
    opened = open_run(directory)
    assert (opened.experiment.shape, len(opened.experiment.training_data)) == ((6, 5, 1), 49)
    with restored_params(opened.experiment, opened.directory, opened.placement, pytest.fail) as (step, params):
        assert step == 5
        images = decode_codes(opened.experiment, params, np.zeros((3, 2), np.float32), opened.placement)
    assert images.shape == (3, 6, 5, 1)
    with pytest.raises(InputError, match=r"images\.npz"):
        opened.experiment.training_data.read_all()
    with pytest.raises(InputError, match=r"images\.npz"):
        opened.experiment.dataset("test")


@pytest.mark.fault
def test_a_directory_can_move_and_its_data_too(on_file, small, tmp_path):
    directory, path = on_file
    moved = shutil.move(path, tmp_path / "elsewhere.npz")
    shutil.move(directory, tmp_path / "moved")
    config = override(open_run(tmp_path / "moved").experiment.config, data__name=str(moved), train__steps=10)
    _, outcome = fit(config, tmp_path / "moved")
    assert (outcome.resumed_from, outcome.step) == (5, 10)
    assert open_run(tmp_path / "moved").experiment.config.data.name == str(moved)


def test_examples_of_a_described_data_set_are_those_of_the_source(on_file):
    directory, _ = on_file
    described = open_run(directory).experiment.training_data
    arrays = described.read_all()
    assert described.nbytes == arrays["x"].nbytes == 49 * 6 * 5
    np.testing.assert_array_equal(described.read(np.array([3, 1]))["x"], arrays["x"][[3, 1]])
    assert described.summary.sums.shape == (2, 6, 5, 1)
    assert described.spec == {"x": jax.ShapeDtypeStruct((6, 5, 1), np.uint8)}


@pytest.mark.fault
def test_a_hand_made_run_is_not_opened(tmp_path):
    train_loop.fit(hand_made(), tmp_path / "run", callbacks=[])
    with pytest.raises(
        InputError, match=r"hand-made experiment.*cannot rebuild; call `vae_jax\.evaluate_run`"
    ) as caught:
        open_run(tmp_path / "run")
    assert "\n" not in str(caught.value)


@pytest.mark.fault
def test_test_examples_that_changed_are_refused_although_the_training_examples_are_the_same(small, tmp_path):
    path, x = tmp_path / "x.npz", np.random.default_rng(0).integers(0, 256, (60, 6, 5), dtype=np.uint8)
    np.savez(path, x_train=x[:40], x_test=x[40:])
    config = small(data__name=str(path), train__steps=5, train__save_every=5)
    fit(config, tmp_path / "run")
    np.savez(path, x_train=x[:40], x_test=x[41:])
    for call in (lambda: prepare_experiment(config, tmp_path / "run"), lambda: check_data(open_run(tmp_path / "run"))):
        with pytest.raises(InputError, match=r"\(test: 20 examples then, 19 now\)"):
            call()
    np.savez(path, x_train=x[:40], x_test=x[40:][::-1])
    with pytest.raises(InputError, match=r"\(test: other contents\)"):
        check_data(open_run(tmp_path / "run"))


def test_notes_about_the_data_are_reported_and_a_source_is_read_once(small, tmp_path):
    path, lines, sources = tmp_path / "x.npz", [], {}
    x = np.random.default_rng(0).integers(0, 256, (60, 6, 5), dtype=np.uint8)
    np.savez(path, x=x, y=np.arange(60) % 3, more=np.zeros(3))
    config = small(data__name=str(path), model="m2", model__num_classes=3, data__labelled=6)
    first, _ = prepare_experiment(config, tmp_path / "run", log=lines.append, sources=sources)
    path.unlink()
    second, _ = prepare_experiment(override(config, seed=1), tmp_path / "other", log=lines.append, sources=sources)
    assert first.source is second.source
    drawn = override(config, data__labelled_draw=1)
    third, _ = prepare_experiment(drawn, tmp_path / "drawn", log=lines.append, sources=sources)
    assert first.source is third.source
    assert (third.labelled.draw, third.config.data.labelled_draw) == (1, 1)
    assert lines == [f"data.name={str(path)!r}: 1 other array(s) left out: more.npy"]


def test_labels_are_needed_only_by_a_model_that_reads_them(small, tmp_path):
    x = np.random.default_rng(0).integers(0, 256, (60, 6, 5), dtype=np.uint8)
    np.savez(tmp_path / "x.npz", x=x, y=np.arange(60) % 3)
    np.save(tmp_path / "new.npy", x)
    config = small(data__name=str(tmp_path / "x.npz"))
    experiment, _ = prepare_experiment(config, tmp_path / "run")
    config_file.write_config(RunDirectory(tmp_path / "run"), experiment, [])
    opened = open_run(tmp_path / "run", data__name=str(tmp_path / "new.npy"))
    assert opened.experiment.dataset("all").arrays.keys() == {"x"}
    assert opened.experiment.dataset("all").origin["index"].tolist() == list(range(60))
