"""List words and phrases that the language guide replaces, with the field's term for each.

Usage: python .ci/wording.py [PATH ...]        exit code 1 if anything is found
"""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]

# (pattern, what to write instead). The patterns ignore case; letters directly before or after a pattern do not match.
GUIDE = (
    (r"judg(e[sd]?|ing|e?ment)", "evaluate, evaluation"),
    (r"(what|which) is said of|said of (a|the|this) \w+", "report"),
    (r"feeding|feeds", "input pipeline, pass"),
    (r"(?<=vae_jax[./])(reading|drawing|fitting|digests|chains)", "dataset, plots, train_loop, checksums"),
    (r"reader with fresh eyes|read again|read once more", "review"),
    (r"talk(s|ing|ed)?( to)?", "communicate, communication"),
    (r"(is|are|was|were|be|been) (not )?told|tells?(?!\()|told", "receives, reports, prints"),
    (r"says?|said", "reports, states, specifies"),
    (r"wholly|whole", "replicated, complete, entire"),
    (r"(its|one's|their|his) own|(of|on) (your|our) own", "custom, user-defined, separate"),
    (r"that there (is|are) not|there is not (a|an) \w+ (of|by)", "unknown"),
    (r"remember(s|ed|ing)?", "store"),
    (r"leave|leaving|left alone|let be|left as it", "permission, keep"),
    (r"mend(s|ed|ing)?|cures?", "fix"),
    (r"anew|afresh", "again"),
    (r"beside", "next to, in addition to"),
    (r"hence|wherefore|thereby|thereof|whence", "therefore"),
    (r"put on from outside|from outside", "applied through jax.jit"),
    (r"where it is asked for no step|asked for no step", "when it is called with zero steps"),
    (r"least time of", "lower bound on"),
    (r"(not )?to be had", "cannot be reached in practice"),
    (r"by heart|in vain|at hand", "memorize, without effect, available"),
)
PATTERNS = tuple(
    (re.compile(rf"(?<![A-Za-z])(?:{pattern})(?![A-Za-z])", re.IGNORECASE), term) for pattern, term in GUIDE
)
TEXT = (".py", ".pyi", ".md", ".toml", ".yml", ".yaml", ".cff", ".txt")
EXEMPT = (Path(".ci/wording.py"), Path("tests/test_wording.py"))


def findings(text: str) -> list[tuple[int, str, str]]:
    """Return (line number, words found, the field's term) for each finding in a text."""
    found = []
    for number, line in enumerate(text.splitlines(), start=1):
        found += [(number, match[0], term) for pattern, term in PATTERNS for match in pattern.finditer(line)]
    return found


def tracked_files() -> list[Path]:
    """Return the repository's text files, relative to its root."""
    names = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    return [path for path in map(Path, names.split("\n")) if path.suffix in TEXT and path not in EXEMPT]


def main(paths: list[str]) -> int:
    """Print every finding; return 1 if there are any."""
    chosen = [Path(path).resolve().relative_to(ROOT) for path in paths]
    count = 0
    for path in tracked_files():
        if not (ROOT / path).exists() or (chosen and not any(c in (path, *path.parents) for c in chosen)):
            continue
        for number, words, term in findings((ROOT / path).read_text()):
            print(f"{path}:{number}: {words!r}: {term}")
            count += 1
    print(f"{count} findings", file=sys.stderr)
    return 1 if count else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
