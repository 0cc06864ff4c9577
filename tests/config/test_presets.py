"""Presets: each is valid and survives JSON."""

import json

import pytest

from vae_jax.config import presets
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
    assert isinstance(back.network.hidden, tuple)  # JSON has lists only, and a list would not compare equal


@pytest.mark.parametrize("name", PRESETS)
def test_no_preset_ends_before_its_warm_up(name):
    config = PRESETS[name]
    warm_ups = [getattr(part, "warmup_steps", 0) for part in (config.objective, config.schedule)]
    assert max(warm_ups) < config.train.steps


@pytest.mark.fault
def test_an_unknown_preset_is_refused_with_the_most_similar_one():
    with pytest.raises(KeyError, match=r"preset 'digitz' must be one of .*; did you mean 'digits'\?"):
        PRESETS["digitz"]
    assert PRESETS.get("digitz") is None


def test_the_presets_are_a_mapping_of_which_the_names_are_known_without_their_configs(monkeypatch):
    monkeypatch.setattr(presets, "apply_overrides", None)
    assert len(PRESETS) == len(list(PRESETS)) > 5
    assert "mnist" in PRESETS
    assert "mnits" not in PRESETS
    with pytest.raises(KeyError):
        PRESETS["mnits"]
