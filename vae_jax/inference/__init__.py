"""Bounds on log p(x): terms, objectives, gradient estimators and importance sampling."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
