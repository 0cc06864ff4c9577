"""Device meshes and shardings, several processes, memory, signals, locks and atomic files."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
