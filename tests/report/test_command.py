"""vae_jax/report/command.py: the command has the settings of the run, whatever the preset and the choices are."""

import json
import shlex

import pytest

from vae_jax.cli.parsing import parse_train_command
from vae_jax.cli.train import Train
from vae_jax.config import PRESETS, flatten, override
from vae_jax.report import training_command
from vae_jax.report.command import changed_settings, nearest_preset

CHANGED = {
    "choice": ("mnist", {"objective": "renyi", "objective__alpha": 0.25, "estimator": "pathwise", "seed": 3}),
    "shared": ("digits", {"optimizer": "adamw", "optimizer__weight_decay": 0.0, "optimizer__learning_rate": 1e-4}),
    "list": ("mnist", {"network__hidden": (7, 8, 9), "network__tied": True}),
    "no list": ("mnist", {"network__hidden": ()}),
    "text": ("digits", {"data__name": "a file; rm *.npz", "data__resize": None, "data__holdout": 0.25}),
    "false": ("pca", {"network__tied": False}),
}


@pytest.mark.parametrize("case", [*((name, {}) for name in PRESETS), *CHANGED.values()], ids=str)
def test_the_command_gives_the_settings_of_the_run(case):
    preset, changes = case
    config = override(PRESETS[preset], **changes) if changes else PRESETS[preset]
    stored = json.loads(json.dumps(flatten(config)))
    words = shlex.split(training_command(stored, "runs/new one"))
    assert words[:2] == ["vae-jax", "train"]
    options, parsed = parse_train_command(Train, words[2:])
    assert flatten(parsed) == flatten(config)
    assert options.workdir == "runs/new one"


def test_the_preset_is_the_nearest_one():
    flat = flatten(override(PRESETS["mnist-conv"], seed=5))
    assert nearest_preset(flat) == "mnist-conv"
    assert changed_settings(flat, "mnist-conv") == {"seed": 5}
    assert training_command(flat, "d") == "vae-jax train --preset mnist-conv --workdir d --seed 5"
