"""Images by name or path, and which of them a step reads.

Importing this package imports neither JAX nor TFDS: start-up time counts.
"""

from vae_jax.data.cache import fingerprint
from vae_jax.data.preparing import available, prepare
from vae_jax.data.records import Records
from vae_jax.data.sources import load, load_labels, located, open_records

__all__ = ["Records", "available", "fingerprint", "load", "load_labels", "located", "open_records", "prepare"]
