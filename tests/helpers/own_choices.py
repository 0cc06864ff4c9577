"""Choices that tests register, and that other tests do not see."""

import contextlib

from vae_jax.config import registry


@contextlib.contextmanager
def own_choices():
    """Forget the choices that are registered inside of the context."""
    for section in registry.SECTIONS:
        registry.choices(section)
    before = {section: dict(known) for section, known in registry._registered.items()}
    try:
        yield
    finally:
        for section, known in before.items():
            registry._registered[section].clear()
            registry._registered[section].update(known)
