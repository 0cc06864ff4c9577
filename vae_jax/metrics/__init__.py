"""Metrics of samples and of codes: pure functions of arrays of features, codes, factors and labels."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
