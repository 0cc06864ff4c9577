"""The flat config of preset `digits`, and the messages with which flat configs and changes of it are refused."""

import pytest

from vae_jax.config.building import apply_overrides, from_flat
from vae_jax.config.flat import flatten
from vae_jax.config.presets import PRESETS
from vae_jax.errors import InputError

DIGITS = flatten(PRESETS["digits"])


def changed(settings):
    """Return preset `digits` with other settings, validated."""
    return apply_overrides(PRESETS["digits"], settings)


def refusal(settings, build=changed):
    """The message of the InputError with which settings are refused, which is one line with exit code 2."""
    with pytest.raises(InputError) as caught:
        build(settings)
    message = str(caught.value)
    assert "\n" not in message
    assert caught.value.exit_code == 2
    return message


def flat_refusal(settings):
    """The same message for all settings of a config."""
    return refusal(settings, from_flat)
