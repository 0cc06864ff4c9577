"""bench.batch_search."""

from collections.abc import Callable

SEARCHED = 6  # programs compiled at most in the search for the largest batch
CLOSE_ENOUGH = 0.02


def largest_batch(
    memory_of: Callable[[int], int], *, start: int, limit: int, multiple: int, at_most: int
) -> int | None:
    """The largest batch found to fit: a multiple of `multiple`, at most `at_most`, with memory_of(batch) <= limit.

    Memory is nearly linear in the batch, so each guess lies on the line through the largest that fits and the smallest
    that does not, or through the last two; it ends within 2 % of the largest, or after `SEARCHED` calls of `memory_of`.
    None where no batch that was tried fits, down to the smallest.
    """
    known: dict[int, int] = {}
    top = at_most // multiple

    def look(units: float) -> None:
        batch = multiple * min(top, max(1, int(units)))
        known[batch] = memory_of(batch)

    if top < 1:
        return None
    look(start / multiple)
    while len(known) < SEARCHED:
        fits, too_large = _split(known, limit)
        low, high = max(fits, default=0), min(too_large, default=None)
        if low == top * multiple or high == multiple:
            break
        if high is not None and low and high - low <= max(multiple, CLOSE_ENOUGH * low):
            break
        guess = _guess(known, limit) / multiple
        first, last = low / multiple + 1, (high / multiple - 1) if high else top
        before = len(known)
        look(min(max(guess, first), last))
        if len(known) == before:
            break
    fits, _ = _split(known, limit)
    return max(fits, default=None)


def _split(known: dict[int, int], limit: int) -> tuple[list[int], list[int]]:
    return [b for b, m in known.items() if m <= limit], [b for b, m in known.items() if m > limit]


def _guess(known: dict[int, int], limit: int) -> float:
    """Where a line through two known points meets the limit; without two, the double or the half; far, where flat."""
    fits, too_large = _split(known, limit)
    if len(known) < 2:
        return 2 * fits[0] if fits else too_large[0] / 2
    nearest = sorted(known, key=lambda batch: abs(known[batch] - limit))[:2]
    low, high = sorted([max(fits), min(too_large)] if fits and too_large else nearest)
    slope = (known[high] - known[low]) / (high - low)
    return (
        low + 0.995 * (limit - known[low]) / slope if slope > 0 else 16 * max(known)
    )  # a little below: it rather fits
