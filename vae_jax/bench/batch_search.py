"""Search for the largest batch whose training program fits the memory, with few compilations."""

from collections.abc import Callable

MAX_PROGRAMS = 6  # programs that the search compiles at most
RELATIVE_TOLERANCE = 0.02


def largest_batch(
    memory_of: Callable[[int], int], *, start: int, limit: int, multiple: int, max_batch: int
) -> int | None:
    """Return the largest batch found with memory_of(batch) <= limit, by a secant search.

    Memory is nearly linear in the batch. Each guess therefore lies on the line through the largest batch that fits and
    the smallest that does not, or through the two batches nearest to the limit. The search ends when the line meets the
    limit within 2 % of the largest batch that fits, or after `MAX_PROGRAMS` calls of `memory_of`.

    Args:
      memory_of: Returns the bytes of memory that a batch size needs. It compiles a program, so it is slow.
      start: The first batch size to try.
      limit: The memory in bytes.
      multiple: The batch size must be a multiple of this number.
      max_batch: The upper limit of the batch size.

    Returns:
      The batch size, or None if no batch that was tried fits, down to the smallest one.
    """
    measured: dict[int, int] = {}
    max_units = max_batch // multiple

    def measure(units: float) -> None:
        batch = multiple * min(max_units, max(1, int(units)))
        measured[batch] = memory_of(batch)

    if max_units < 1:
        return None
    measure(start / multiple)
    while len(measured) < MAX_PROGRAMS:
        fits, too_large = _split(measured, limit)
        low, high = max(fits, default=0), min(too_large, default=None)
        if low == max_units * multiple or high == multiple:
            break
        if high is not None and low and high - low <= max(multiple, RELATIVE_TOLERANCE * low):
            break
        guess = _guess(measured, limit) / multiple
        if len(measured) > 2 and low and guess * multiple - low <= max(multiple, RELATIVE_TOLERANCE * low):
            break
        first, last = low / multiple + 1, (high / multiple - 1) if high else max_units
        before = len(measured)
        measure(min(max(guess, first), last))
        if len(measured) == before:
            break
    fits, _ = _split(measured, limit)
    return max(fits, default=None)


def _split(measured: dict[int, int], limit: int) -> tuple[list[int], list[int]]:
    """Return the batches that fit and those that do not."""
    return [b for b, m in measured.items() if m <= limit], [b for b, m in measured.items() if m > limit]


def _guess(measured: dict[int, int], limit: int) -> float:
    """Return the batch at which a line through two measured batches meets the limit.

    With one measured batch, return its double or its half. If the line is flat, return 16 times the largest batch.
    """
    fits, too_large = _split(measured, limit)
    if len(measured) < 2:
        return 2 * fits[0] if fits else too_large[0] / 2
    nearest = sorted(measured, key=lambda batch: abs(measured[batch] - limit))[:2]
    low, high = sorted([max(fits), min(too_large)] if fits and too_large else nearest)
    slope = (measured[high] - measured[low]) / (high - low)
    if slope <= 0:
        return 16 * max(measured)
    return low + 0.995 * (limit - measured[low]) / slope  # 0.5 % below the line, so that the guess rather fits
