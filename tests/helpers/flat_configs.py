"""The flat config of preset `digits`, and the message with which a flat config is refused."""

import pytest

from vae_jax.config.building import from_flat
from vae_jax.config.flat import flatten
from vae_jax.config.presets import PRESETS
from vae_jax.errors import InputError

DIGITS = flatten(PRESETS["digits"])


def refusal(settings):
    """The message of the InputError that `from_flat` raises, which is one line with exit code 2."""
    with pytest.raises(InputError) as caught:
        from_flat(settings)
    message = str(caught.value)
    assert "\n" not in message
    assert caught.value.exit_code == 2
    return message
