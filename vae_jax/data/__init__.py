"""Data sets by name, by path or from arrays: preparation, loading, streaming, batch order and preprocessing."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
