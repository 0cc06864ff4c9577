"""Training as pure functions: state, loss, step, many steps in one program, optimizers and evaluation."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
