"""Presets: each is valid and survives JSON."""

import json

import pytest

from vae_jax.config.building import from_flat
from vae_jax.config.flat import flatten
from vae_jax.config.presets import PRESETS
from vae_jax.config.validation import validate


@pytest.mark.parametrize("name", PRESETS)
def test_round_trip_of_a_preset_through_json(name):
    config = PRESETS[name]
    assert validate(config) is config
    flat = flatten(config)
    assert all(not isinstance(value, dict) for value in flat.values())
    back = from_flat(json.loads(json.dumps(flat)))
    assert back == config
    assert isinstance(back.model.hidden, tuple)  # JSON has lists only, and a list would not compare equal


@pytest.mark.parametrize("name", PRESETS)
def test_no_preset_ends_before_its_warm_up(name):
    config = PRESETS[name]
    assert max(config.objective.warmup_steps, config.optimizer.warmup_steps) < config.train.steps
