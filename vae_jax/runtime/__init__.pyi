from . import (
    atomic_files as atomic_files,
    defaults as defaults,
    host as host,
    lock as lock,
    multihost as multihost,
    sharding as sharding,
    signals as signals,
    streams as streams,
)
from .placement import Placement as Placement
