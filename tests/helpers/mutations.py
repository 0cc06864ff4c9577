"""Random damage to files, JSON documents and command lines, as a stranger, a disk or a typing error makes it."""

import json
import random
from collections.abc import Sequence
from pathlib import Path

_NUMBERS = (
    0, -1, 1, 7, 2**31, 2**63, 10**20, -(10**20), 0.5, -0.0, 1e-45, 1e308, float("nan"), float("inf"), float("-inf"),
)  # fmt: skip
_WORDS = (
    "", " ", "None", "nan", "inf", "-inf", "1e999", "0x10", "1_0", "true", "vae", "../..", "/", "~nosuchuser/x",
    "$HOME", "a" * 300, "é", "\udcff", "\x00", "\n", "{}", "[1", "%s", "--", "-", "*", "?", "mnist", "gaussian",
)  # fmt: skip


def any_word(rng: random.Random) -> str:
    """Return text that a setting may not expect."""
    return rng.choice((rng.choice(_WORDS), str(rng.choice(_NUMBERS)), str(rng.randint(-3, 40)), f"{rng.random():.3g}"))


def _any_value(rng: random.Random, depth: int = 0):
    kinds = [lambda: rng.choice(_NUMBERS), lambda: any_word(rng), lambda: None, lambda: rng.random() < 0.5]
    if depth < 2:
        kinds += [
            lambda: [_any_value(rng, depth + 1) for _ in range(rng.randint(0, 3))],
            lambda: {any_word(rng): _any_value(rng, depth + 1) for _ in range(rng.randint(0, 3))},
        ]
    return rng.choice(kinds)()


def damaged_bytes(rng: random.Random, content: bytes) -> bytes:
    """Return the content of a file after one to three random changes of its bytes."""
    data = bytearray(content)
    for _ in range(rng.randint(1, 3)):
        start = rng.randrange(len(data) + 1)
        if rng.random() < 0.5:  # most formats begin with the description of the rest
            start = min(start, rng.randrange(64))
        length = rng.choice((1, 2, 4, 8, 100))
        change = rng.randrange(6)
        if change == 0 and data:
            data[min(start, len(data) - 1)] ^= 1 << rng.randrange(8)
        elif change == 1:
            del data[start:]
        elif change == 2:
            del data[start : start + length]
        elif change == 3:
            data[start:start] = data[start : start + length] * rng.choice((1, 3))
        elif change == 4:
            data[start : start + length] = bytes(rng.choice((0, 255, 127, 128, 10)) for _ in range(length))
        else:
            data[start : start + length] = rng.randbytes(length)
    return bytes(data)


def _places(value) -> list:
    """Return (container, key) of each value in a JSON document."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [place for key, inner in items for place in ((value, key), *_places(inner))]


def damaged_json(rng: random.Random, content: bytes) -> bytes:
    """Return a JSON document in which one to three values, names or kinds are others."""
    chance = rng.random()
    if chance < 0.05:
        return rng.choice((b"[" * 100_000, b'{"a":' * 100_000, b"null", b"\xff\xfe{}", b"", b"9" * 5000, b'{"a":1}{'))
    if chance < 0.2:
        return json.dumps(_any_value(rng)).encode()
    if chance < 0.3:
        return damaged_bytes(rng, content)
    document = json.loads(content)
    for _ in range(rng.randint(1, 3)):
        places = _places(document)
        if not places:
            break
        container, key = rng.choice(places)
        change = rng.random()
        if change < 0.7:
            container[key] = _any_value(rng)
        elif change < 0.85:
            del container[key]
        elif isinstance(container, dict):
            container[any_word(rng)] = container[key]
    return json.dumps(document).encode()


def damaged_lines(rng: random.Random, content: bytes) -> bytes:
    """Return a file of JSON lines of which one is damaged, lost or repeated, or which is damaged as bytes."""
    if rng.random() < 0.3:
        return damaged_bytes(rng, content)
    lines = content.splitlines()
    position = rng.randrange(len(lines))
    change = rng.randrange(4)
    if change == 0:
        lines[position] = damaged_json(rng, lines[position])
    elif change == 1:
        del lines[position]
    elif change == 2:
        lines.insert(position, rng.choice(lines))
    else:
        rng.shuffle(lines)
    return b"\n".join(lines) + rng.choice((b"\n", b"", b"\n\n"))


def damaged_flags(rng: random.Random, settings: Sequence[tuple[str, str]], choices: Sequence[str]) -> list[str]:
    """Return a command line with one to four settings, some of which are no settings or have no such value.

    Args:
      rng: the source of randomness.
      settings: pairs of the path of a setting and its value.
      choices: names that settings may have.
    """
    argv = []
    for _ in range(rng.randint(1, 4)):
        path, value = rng.choice(settings)
        if rng.random() < 0.1:
            path = rng.choice((path[:-1], path + "x", path.replace(".", "_"), path.upper(), any_word(rng)))
        if rng.random() < 0.8:
            value = rng.choice((any_word(rng), rng.choice(choices)))
        argv += rng.choice(([f"--{path}", value], [f"--{path}={value}"], [f"--{path}"], [f"--{path}", value, value]))
    if rng.random() < 0.05:
        argv.insert(rng.randrange(len(argv) + 1), any_word(rng))
    return argv


def damage(path: Path, rng: random.Random, change) -> None:
    """Replace the content of a file by `change(rng, content)`."""
    path.write_bytes(change(rng, path.read_bytes()))
