"""Variational autoencoders in JAX: bounds of normalised densities, complete runs in one program, on one device or many.

`__init__.pyi` lists the public names. Each is imported when it is first used, so `import vae_jax` alone imports no JAX.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
__version__ = "0.2.0"
