"""Settings of a run: frozen dataclasses, their validation, flat dictionaries of them, and presets. No JAX."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
