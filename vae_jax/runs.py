"""A run: a config, its data and its directory, and what follows from them. The directory is enough to go on.

runs/NAME/config.json  checkpoints/STEP/  metrics.jsonl  events.out.tfevents.*  figures/*.png  evaluation.json
"""

import contextlib
import dataclasses
import functools
import json
import math
import os
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax

from vae_jax import data, machine, sharding
from vae_jax.checkpoints import Checkpoints, Restored
from vae_jax.config import RESUMABLE, SPANS_THE_STEPS, Config, DataConfig
from vae_jax.data import Records
from vae_jax.data.batches import batch_indices
from vae_jax.data.splits import SPLITS
from vae_jax.digests import named_leaves, plain, spec
from vae_jax.errors import CheckpointError, InputError, StorageError
from vae_jax.evaluation import Evaluator
from vae_jax.inference import Params
from vae_jax.models import VAE, build_model
from vae_jax.reading import describe, load_images, training_images
from vae_jax.settings import differences, flat_items, flatten, from_flat, suggestion, unread, validate, with_numbers
from vae_jax.storage import check_writable, write_json
from vae_jax.training import (
    DATA_STREAM,
    EVALUATION_STREAM,
    TrainState,
    init_state,
    make_optimizer,
)

CONFIG_FILE = "config.json"
MAX_PIXELS = 1 << 28  # in an image; a config.json that says more is damaged, or a trap
CHANGE = ("setting", "from", "to")
_DEFAULTS = plain(flatten(Config()))
# What an older config.json does not have of these changes nothing that its run computed.
_RESUMABLE_DEFAULTS = {path: value for path, value in _DEFAULTS.items() if path in RESUMABLE}
DECIDE_IMAGES = {"data.name", "data.holdout", "data.binarization"}  # and the seed, where they are binarised once


@dataclasses.dataclass(frozen=True, eq=False)
class Run:
    """A validated config, the description of its training data, the run's directory, and the mesh it runs on."""

    config: Config
    data: dict[str, Any]  # fingerprint, num_examples and image_shape of the training images
    directory: Path
    mesh: Any
    changes: tuple[dict[str, Any], ...] = ()  # allowed ones: setting, from, to and, once it goes on, from which step
    streamed: bool = False  # whether training reads its images from disk as it goes

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return tuple(self.data["image_shape"])

    def images(self, split: str) -> np.ndarray:
        """The images of a split; raises InputError if they are not of the shape that the run was trained on."""
        images = load_images(self.config, split)
        if images.shape[1:] != self.image_shape:
            raise InputError(
                f"data.name: the images of {self.config.data.name} are {list(images.shape[1:])} now, "
                f"{self.directory} was trained on {list(self.image_shape)}"
            )
        return images

    @functools.cached_property
    def model(self) -> VAE:
        return build_model(self.config.model, self.image_shape)

    @functools.cached_property
    def training_model(self) -> VAE:
        """`model` as training computes it: model.compute_dtype and model.remat count here and nowhere else."""
        return build_model(self.config.model, self.image_shape, training=True)

    @functools.cached_property
    def optimizer(self) -> optax.GradientTransformation:
        return make_optimizer(self.config.optimizer, self.config.train.steps)

    @functools.cached_property
    def state_shardings(self) -> TrainState:
        """Where each leaf of the state lives."""
        return sharding.state_shardings(jax.eval_shape(self.initial_state, self.key), self.mesh)

    @property
    def microbatches(self) -> int:
        return machine.parts_of_a_batch(self.config, self.mesh)

    @property
    def images_shape(self) -> tuple[int, ...]:
        """The shape of the images that the training program takes: all of them, or the batches of a dispatch."""
        train = self.config.train
        if not self.streamed:
            return (self.data["num_examples"], *self.image_shape)
        parts = (self.microbatches,) if self.microbatches > 1 else ()
        return (train.log_every, *parts, train.batch_size // self.microbatches, *self.image_shape)

    @property
    def images_sharding(self) -> Any:
        """Where they live."""
        if not self.streamed:
            return sharding.replicated(self.mesh)
        return sharding.steps_sharding(self.mesh, microbatches=self.microbatches)

    @property
    def key(self) -> jax.Array:
        return jax.random.key(self.config.seed)

    def examples(self, step: int) -> np.ndarray:
        """Which of the training images a step reads, int32 [batch_size]."""
        count, size = self.data["num_examples"], self.config.train.batch_size
        order_key = jax.random.fold_in(self.key, DATA_STREAM)
        return np.asarray(batch_indices(order_key, step, num_examples=count, batch_size=size))

    def initial_state(self, key: jax.Array, mean_image: jax.Array | None = None) -> TrainState:
        """The state before the first step, as a pure function of the run's key and the mean of its images."""
        ema = self.config.train.ema_decay > 0
        return init_state(key, model=self.model, optimizer=self.optimizer, ema=ema, mean_image=mean_image)

    def evaluator(self, batch_size: int | None = None) -> Evaluator:
        """The run's evaluations; the batch is spread over the mesh."""
        return Evaluator(
            self.model,
            self.config.data.binarization,
            batch_size=batch_size or self.config.evaluation.batch_size,
            placement=sharding.batch_sharding(self.mesh),
            compiler_options=sharding.compiler_options(self.mesh),
        )


def read_description(directory: Path) -> dict[str, Any] | None:
    """{"config": flat settings, "data": ..., "changes": ...} of the run in `directory`; None where there is none.

    A setting that nothing reads, which older versions took at any value, is at its default; so is one that they did not
    have, if it may differ between the parts of a run.
    Raises StorageError if the path cannot be looked at, CheckpointError if the file is there and makes no sense.
    """
    path = directory / CONFIG_FILE
    try:
        stored = json.loads(path.read_text())
        data = {name: stored["data"][name] for name in ("fingerprint", "num_examples", "image_shape")}
        data["image_shape"] = height, width, channels = [int(length) for length in data["image_shape"]]
        if min(height, width, channels) < 1 or height * width * channels > MAX_PIXELS:
            raise ValueError(f"images of {height}x{width}x{channels}")
        changes = [{name: change[name] for name in ("step", *CHANGE)} for change in stored.get("changes", ())]
        config = _RESUMABLE_DEFAULTS | flat_items(stored["config"])
        config |= {path: _DEFAULTS[path] for path in unread(config)}
        return {"config": config, "data": data, "changes": changes}
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise StorageError(f"{directory}: cannot be read as a run ({error.strerror})") from None
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise CheckpointError(f"{path}: not readable as the config of a run ({error})") from None


def open_run(directory: str | os.PathLike) -> Run:
    """The run in a directory, from that directory alone; raises InputError where there is none."""
    directory = Path(directory)
    stored = read_description(directory)
    if stored is None:
        raise InputError(f"{directory}: no run here ({CONFIG_FILE} is missing); `vae-jax train --workdir` makes one")
    config = from_flat(stored["config"])
    # Whoever looks at a run may do so with fewer devices than it was trained on.
    fsdp = math.gcd(config.mesh.fsdp, jax.device_count())
    return Run(config, stored["data"], directory, sharding.make_mesh(fsdp=fsdp), tuple(stored["changes"]))


def prepare_run(
    config: Config,
    directory: str | os.PathLike,
    *,
    allow_change: Sequence[str] = (),
    say: Callable[[str], None] = lambda line: None,
) -> tuple[Run, np.ndarray | Records]:
    """(run, its `training_images`) for training in `directory`, which nothing is written to yet.

    `say` is told of what may take minutes.
    Raises InputError if a setting or the data cannot be used, or if the directory holds a run with other settings than
    `allow_change` names or with other data; StorageError if the directory cannot be written to.
    """
    validate(config)
    directory = Path(directory)
    mesh = sharding.make_mesh(config.mesh.data, config.mesh.fsdp)
    rows = config.train.batch_size // machine.parts_of_a_batch(config, mesh)
    sharding.check_batch_size(rows, mesh, setting=_per_dispatch(config))
    stored = read_description(directory)
    # Where the same images lie may change, and what else is wrong is told before they are read.
    differing = functools.partial(_changed_settings, directory=directory, allow_change=allow_change)
    changes = differing(stored, config, ignore={"data.name"}) if stored else []
    images = training_images(config)
    name = data.located(config.data.name, data_dir=config.data.data_dir)
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, name=name))
    if isinstance(images, Records):
        size = f"{len(images):,} images, {images.nbytes / 2**30:.2f} GiB"
        say(f"{config.data.name}: {size}, are streamed; a data set's first start looks through all of them once")
    if config.train.batch_size > len(images):
        raise InputError(
            f"train.batch_size: {config.train.batch_size} given, must be at most the {len(images)} training images"
        )
    description = describe(images)
    if stored and stored["data"] != description:
        changes = differing(stored, config)
        changes += _changed_data(stored["data"], description, directory, config.data, allow_change)
    if config.train.patience:
        load_images(config, "validation")  # refused if there are none: without them training would never stop early
    check_writable(directory)
    changes = (*(stored["changes"] if stored else ()), *changes)
    return Run(config, description, directory, mesh, changes, isinstance(images, Records)), images


def check_images(run: Run) -> None:
    """Refuses images that are no longer those of the run, by the fingerprint of its training images; InputError."""
    try:
        found = describe(training_images(run.config))
    except InputError as error:
        raise InputError(
            f"{error}; it is {run.directory / CONFIG_FILE} that names it: `vae-jax train --workdir {run.directory} "
            "--data.name NAME` says where the same images are now"
        ) from None
    if found != run.data:
        raise InputError(_others(run.config.data, run.directory) + f", or train {run.directory} on with them: `vae-jax "
                         f"train --workdir {run.directory} --allow-change data.name`")  # fmt: skip


def _others(config: DataConfig, directory: Path) -> str:
    return f"data.name: the images of {config.name} are no longer those that {directory} was trained on"


def require_in_memory(run: Run, what: str) -> None:
    """Refuses a streamed run for what needs all of its images at hand; raises InputError."""
    if run.streamed:
        raise InputError(
            f"data.streaming: {run.config.data.streaming} given, {what} holds all {run.data['num_examples']} images in "
            "memory: it must be never, and they must fit"
        )


def _per_dispatch(config: Config) -> str:
    return "train.batch_size" + (" / train.microbatches" if config.train.microbatches > 1 else "")


def _changed_settings(
    description: dict[str, Any],
    config: Config,
    directory: Path,
    allow_change: Sequence[str],
    *,
    ignore: Collection[str] = (),
) -> list[dict[str, Any]]:
    stored, given = description["config"], plain(flatten(config))
    for path in allow_change:
        if path not in given:
            raise InputError(f"--allow-change: {path} given, no such setting{suggestion(path, given)}")
    changed = differences(stored, given, ignore=RESUMABLE.union(ignore))
    if config.optimizer.schedule in SPANS_THE_STEPS:
        changed += ["train.steps"] if stored.get("train.steps") != given["train.steps"] else []
    if refused := [path for path in changed if path not in {*allow_change, "train.steps"}]:
        told = ", ".join(f"{path}: {stored.get(path)} in {directory}, {given.get(path)} asked" for path in refused)
        before = with_numbers(config, {path: value for path, value in stored.items() if path in given})
        same = _arrays(before, description["data"]) == _arrays(config, description["data"])
        other = f", or allow it by --allow-change {' '.join(refused)}" if same else ""
        raise InputError(f"{told}; choose another --workdir, or give --workdir alone and keep what the run has{other}")
    return [dict(zip(CHANGE, (path, stored.get(path), given.get(path)), strict=True)) for path in changed]


def _arrays(config: Config, data: dict[str, Any]) -> dict[str, str]:
    """Dtype and shape of each array that a run with these settings saves."""
    run = Run(config, data, Path(), mesh=None)
    return {path: spec(leaf) for path, leaf in named_leaves(jax.eval_shape(run.initial_state, run.key))}


def _changed_data(
    stored: dict[str, Any], given: dict[str, Any], directory: Path, config: DataConfig, allow_change: Sequence[str]
) -> list[dict[str, Any]]:
    changed = [field for field in stored if stored[field] != given[field]]
    decide = DECIDE_IMAGES | ({"seed"} if config.binarization == "static" else set())
    if "image_shape" in changed or (changed and not decide.intersection(allow_change)):
        allowing = "" if "image_shape" in changed else ", or allow it by --allow-change data.name"
        raise InputError(f"{_others(config, directory)}; choose another --workdir{allowing}")
    return [dict(zip(CHANGE, (field, stored[field], given[field]), strict=True)) for field in changed]


def changes_told(run: Run, step: int) -> list[str]:
    """A line for each change that holds from `step` on, where it is one of this start of the run."""

    def why(setting: str) -> str:
        if setting == "train.steps":
            return f"which the schedule {run.config.optimizer.schedule} of the learning rate spans"
        return "as allowed"

    new = [(c["setting"], c["from"], c["to"]) for c in run.changes if "step" not in c]
    return [f"{name}: {old} until step {step}, {now} from then on, {why(name)}" for name, old, now in new]


def write_config(run: Run, *, first_step: int = 0) -> None:
    """Writes the run's config.json, creating its directory; what may change does so at `first_step`, or has before."""
    changes = [change | {"step": min(first_step, change.get("step", first_step))} for change in run.changes]
    content = {"config": dataclasses.asdict(run.config), "data": run.data}
    write_json(run.directory / CONFIG_FILE, content | ({"changes": changes} if changes else {}))


def restore(run: Run, checkpoints: Checkpoints, *, at_most: int | None = None) -> Restored | None:
    """The newest whole state of the run (up to step `at_most`), placed on its mesh; None where nothing is saved yet."""
    target = sharding.abstract(jax.eval_shape(run.initial_state, run.key), run.state_shardings)
    config, changed = dataclasses.asdict(run.config), {change["setting"] for change in run.changes}
    # Where the images lie is told by config.json, and which they are by `data`.
    ignore = RESUMABLE.union(changed, unread(flatten(run.config)), {"data.name"})
    restored = checkpoints.restore(target, config=config, data=run.data, ignore=ignore, at_most=at_most)
    if restored and "seed" in changed:
        key = jax.jit(lambda: run.key, out_shardings=sharding.replicated(run.mesh))()
        restored = restored._replace(state=restored.state._replace(key=key))
    return restored


def evaluation_params(state: TrainState, config: Config) -> Params:
    """The weights to judge and to draw with: their moving average if one is kept."""
    return state.ema_params if config.train.ema_decay else state.params


@contextlib.contextmanager
def saved_params(run: Run, say: Callable[[str], None]) -> Iterator[tuple[int, Params]]:
    """(step, parameters) of the newest whole checkpoint, read without touching the run; CheckpointError if none."""
    with Checkpoints(run.directory, read_only=True) as checkpoints:
        restored = restore(run, checkpoints)
        if restored is None:
            raise CheckpointError(f"{run.directory}: no checkpoint has been saved yet")
        for note in restored.notes:
            say(note)
        yield restored.step, evaluation_params(restored.state, run.config)


def evaluation_key(run: Run, split: str) -> jax.Array:
    """The key of all evaluations of a split: the same draws each time, so that two evaluations can be compared."""
    return jax.random.fold_in(jax.random.fold_in(run.key, EVALUATION_STREAM), SPLITS.index(split))
