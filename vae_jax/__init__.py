"""Variational autoencoders in JAX: exact bounds, complete runs in one compiled program, on any number of devices.

`__init__.pyi` lists the public names. Each is imported when it is first used, so `import vae_jax` alone imports no JAX.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
__version__ = "0.2.0"
