"""Search for the largest batch."""

import pytest

from vae_jax.bench import batch_search


@pytest.mark.parametrize(
    ("memory_of", "expected", "most"),
    [
        (lambda b: 1000 + 10 * b, 9900, 3),
        (lambda b: 1000 + 10 * b + 40 * (b % 7), 9876, 4),  # not quite linear
        (lambda b: 1000 + max(10 * b, 40_000), 9900, 5),  # constant for small batches
        (lambda b: 5, 50_000, 6),  # all images fit
        (lambda b: 200_000, None, 6),
        (lambda b: 1000 + 12_000 * b, 8, 6),  # only the smallest batches fit
    ],
)
def test_the_largest_batch_is_found_in_few_compilations(memory_of, expected, most):
    tried = []

    def measure(batch):
        tried.append(batch)
        return memory_of(batch)

    largest = batch_search.largest_batch(measure, start=128, limit=100_000, multiple=4, max_batch=50_003)
    assert len(tried) <= most <= batch_search.MAX_PROGRAMS
    assert len(tried) == len(set(tried))
    assert all(batch % 4 == 0 for batch in tried)
    if expected is None:
        assert largest is None
    else:
        assert memory_of(largest) <= 100_000
        assert largest == pytest.approx(expected, rel=0.03)
