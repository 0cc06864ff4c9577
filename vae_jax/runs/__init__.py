"""A run on disk: its config, training loop, checkpoints, loggers, evaluation, figures, and sweeps of runs."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
