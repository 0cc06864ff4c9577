"""The processes of peers.py, one for each file of `trainers/`, and their virtual environments.

The main process sends a line ["epoch" or "test", row] to the stdin of a worker, and reads one line of JSON as answer.
"""

import contextlib
import importlib.util
import json
import os
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

TRAINERS = Path(__file__).parent / "trainers"


def load_trainer(name: str) -> ModuleType:
    """Import the file `trainers/name.py`; it imports its libraries only when its function `trainers` is called."""
    spec = importlib.util.spec_from_file_location(f"trainer_{name}", TRAINERS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Worker:
    """A running process of the rows of one trainer: `request("epoch", row)` runs one epoch there and waits for it.

    Call `wait_until_ready` once, before the first request.
    """

    def __init__(self, python: str, trainer: str, path: Path, steps: int, task: dict[str, Any]):
        command = [python, str(Path(__file__).resolve()), trainer, str(path), str(steps), json.dumps(task)]
        environment = os.environ | {
            "JAX_PLATFORMS": {"cpu": "cpu", "gpu": "cuda"}[task["platform"]],
            "XLA_PYTHON_CLIENT_PREALLOCATE": "false",  # several processes share a GPU
        }
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        self.error: str | None = None
        self.versions: dict[str, str] = {}

    def wait_until_ready(self) -> None:
        """Read the first answer: the versions of the libraries, or an error."""
        first = self._read()
        self.error, self.versions = first.get("error"), first.get("versions", {})

    def _read(self) -> dict[str, Any]:
        line = self.process.stdout.readline()
        if not line:
            return {"error": f"the process ended with exit code {self.process.wait()}"}
        return json.loads(line)

    def request(self, what: str, row: str) -> dict[str, Any]:
        """Send a request, "epoch" or "test", and return its answer: the results, or an error."""
        if self.error is None:
            try:
                print(json.dumps([what, row]), file=self.process.stdin, flush=True)
            except BrokenPipeError:
                self.error = f"the process ended with exit code {self.process.wait()}"
        return {"error": self.error} if self.error is not None else self._read()

    def close(self) -> None:
        """End the process."""
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait()


def environment_python(trainer: str, folder: Path) -> str:
    """Return the Python of the virtual environment for `trainer`; create it in `folder` unless it is complete."""
    requirements = load_trainer(trainer).REQUIREMENTS
    if not requirements:
        return sys.executable
    environment, python = folder / trainer, folder / trainer / "bin" / "python"
    stamp = environment / "requirements.txt"
    if not stamp.exists() or stamp.read_text().split() != list(requirements):
        print(f"{environment}: installing {', '.join(requirements)}", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(environment)], check=True)
        constraints = [] if "torch" in "".join(requirements) else ["-c", str(TRAINERS.parents[2] / "constraints.txt")]
        command = [str(python), "-m", "pip", "install", "--quiet", *requirements, *constraints]
        subprocess.run(command, check=True, stdout=sys.stderr)
        stamp.write_text("\n".join(requirements))  # last: marks the environment as complete
    return str(python)


def serve(name: str, path: Path, steps: int, task: dict[str, Any]) -> None:
    """Answer each line on stdin, ["epoch" or "test", row], with a line of JSON on stdout."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # other output goes to stderr

    def answer(**content: Any) -> None:
        print(json.dumps(content), file=answers, flush=True)

    def attempt(call: Callable[[], Any]) -> Any:
        try:
            return call()
        except Exception as error:  # the main process prints it, and continues without the row
            at = traceback.extract_tb(error.__traceback__)[-1]
            text = " ".join(str(error).split())[:200]
            answer(error=f"{type(error).__name__} at {Path(at.filename).name}:{at.lineno}: {text}")

    from importlib.metadata import version

    import numpy as np

    with np.load(path, allow_pickle=False) as images:
        train, test = images["train"], images["test"]
    module = load_trainer(name)
    rows = attempt(lambda: module.trainers(train, test, steps, task))
    if rows is None:
        return
    answer(versions={package: version(package) for package in module.VERSIONS})
    started: dict[str, tuple] = {}

    def epoch(row: str) -> dict[str, float]:
        start = time.perf_counter()
        if row not in started:
            started[row] = rows[row]()
        loss = started[row][0]()
        return {"seconds": time.perf_counter() - start, "loss": loss}

    def test_elbo(row: str) -> dict[str, float]:
        return {"elbo": started[row][1]()}

    for line in sys.stdin:
        what, row = json.loads(line)
        result = attempt(lambda what=what, row=row: (epoch if what == "epoch" else test_elbo)(row))
        if result is not None:
            answer(**result)


if __name__ == "__main__":
    serve(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), json.loads(sys.argv[4]))
