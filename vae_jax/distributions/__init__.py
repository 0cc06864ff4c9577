"""Probability distributions as pytrees, with `sample`, `log_prob` in nats and `mean`; and KL divergences."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
