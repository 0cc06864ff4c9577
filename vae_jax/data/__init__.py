"""Images by name or path: preparing, loading, streaming, the order of examples, and preprocessing."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
