"""Caches of programs: those that experiments with equal parts share, and those that belong to one experiment."""

import functools
from collections.abc import Callable
from typing import Any, TypeVar, cast

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])
MAX_PROGRAMS = 32  # of each function; the oldest is released


class _Part:
    """An argument of a cached function; an argument without a hash is equal only to itself."""

    def __init__(self, value: Any):
        self.value = value
        try:
            self._hash, self._has_hash = hash(value), True
        except TypeError:  # for example, a model with an array as attribute
            self._hash, self._has_hash = id(value), False

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, _Part):
            return NotImplemented
        return self.value is other.value or (self._has_hash and other._has_hash and self.value == other.value)


def cache_programs(build: Callable[..., T]) -> Callable[..., T]:
    """Return a function that calls `build` once for equal arguments.

    The arguments are parts of an experiment, not the experiment, so that the cache holds no data.

    Args:
      build: a function of positional arguments, such as a model and a sharding, that returns compiled programs.

    Returns:
      The function with a cache. A model that has no hash is compared by identity.
    """

    @functools.lru_cache(maxsize=MAX_PROGRAMS)
    def cached(*parts: _Part) -> T:
        return build(*(part.value for part in parts))

    @functools.wraps(build)
    def look_up(*values: Any) -> T:
        return cached(*map(_Part, values))

    return look_up


def cache_on_experiment(build: F) -> F:
    """Return a function that calls `build` once for an experiment and equal other arguments.

    The results are stored with the experiment, so that they and its data are freed when nothing else refers to it.

    Args:
      build: a function whose first argument is an experiment; the others have a hash.

    Returns:
      The function with a cache.
    """
    name = f"results of {build.__module__}.{build.__qualname__}"

    @functools.wraps(build)
    def look_up(experiment: Any, *args: Any, **options: Any) -> Any:
        results = vars(experiment).setdefault(name, {})
        key = args, tuple(sorted(options.items()))
        if key not in results:
            results[key] = build(experiment, *args, **options)
        return results[key]

    return cast(F, look_up)
