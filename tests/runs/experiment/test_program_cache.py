"""The cache of compiled programs: equal parts, parts without a hash, and a bounded size."""

import dataclasses
import gc
import weakref

import numpy as np
from hand_made import hand_made

from vae_jax.runs import compile_program, place_initial_state
from vae_jax.runs.experiment import memory, program_cache


@dataclasses.dataclass(frozen=True)
class Part:
    size: int


class Unhashable:
    __hash__ = None

    def __init__(self):
        self.mean = np.zeros(3)

    def __eq__(self, other):
        raise AssertionError("parts without a hash are compared by identity")


def build_counter():
    built = []

    @program_cache.cache_programs
    def build(*parts):
        """Build."""
        built.append(parts)
        return object()

    return build, built


def test_equal_parts_share_a_program():
    build, built = build_counter()
    assert build(Part(1), 2) is build(Part(1), 2)
    assert build(Part(1), 3) is not build(Part(2), 3)
    assert built == [(Part(1), 2), (Part(1), 3), (Part(2), 3)]
    assert build.__doc__ == "Build."


def test_parts_without_a_hash_are_compared_by_identity():
    build, built = build_counter()
    first, second = Unhashable(), Unhashable()
    assert build(first) is build(first)
    assert build(second) is not build(first)
    assert len(built) == 2


def test_a_number_and_a_part_of_the_same_hash_are_different():
    build, built = build_counter()
    unhashable = Unhashable()
    assert build(id(unhashable)) is not build(unhashable)
    assert len(built) == 2


def test_the_oldest_program_is_released():
    build, built = build_counter()
    for number in range(program_cache.MAX_PROGRAMS + 1):
        build(number)
    build(0)
    assert len(built) == program_cache.MAX_PROGRAMS + 2


def test_results_are_stored_with_the_experiment():
    built = []

    @program_cache.cache_on_experiment
    def build(experiment, size=1, *, donate=True):
        built.append((size, donate))
        return object()

    first, second = hand_made(), hand_made()
    assert build(first, 2) is build(first, 2)
    assert build(first, 2) is not build(second, 2)
    assert build(first, 2, donate=False) is not build(first, 2)
    assert built == [(2, True), (2, True), (2, False)]


def test_an_experiment_and_its_data_are_freed_with_its_programs(one_device):
    experiment = hand_made()
    memory.trace_walk(experiment)
    data = experiment.training_data.read_all()
    compile_program(experiment, one_device)(place_initial_state(experiment, one_device), data, 1)
    held = weakref.ref(experiment), weakref.ref(experiment.training_data)
    del experiment
    gc.collect()
    assert [reference() for reference in held] == [None, None]
