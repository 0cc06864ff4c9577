"""`vae-jax evaluate RUN`: evaluate the model of a run on a split."""

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from vae_jax.cli.messages import log
from vae_jax.cli.parsing import parse_run_command
from vae_jax.config import override

if TYPE_CHECKING:
    from vae_jax.inference import Params
    from vae_jax.runs import Run

HELP = (("evaluate RUN", "ELBO and its parts, NLL with its standard error, active units, bits/dim"),)
_INTERVAL = 10  # seconds between two lines of progress


@dataclasses.dataclass(frozen=True)
class Evaluate:
    """Evaluate a run: ELBO and its parts, NLL by importance sampling with its error, active units, bits/dim."""

    split: str = "test"
    """train, validation or test."""
    num_samples: int | None = None
    """K of the NLL; default: the run's evaluation.num_samples; 0: no NLL."""
    chunk: int | None = None
    """Samples decoded at a time; default: the run's evaluation.chunk."""
    batch_size: int | None = None
    """Images at a time; default: the run's evaluation.batch_size."""


def run(argv: Sequence[str]) -> dict[str, Any]:
    """Evaluate a run and return the numbers."""
    directory, options = parse_run_command("evaluate", Evaluate, argv)
    from vae_jax.runs import check_images, open_run, read_description, restored_params
    from vae_jax.runtime import defaults

    stored = read_description(directory)
    if stored is not None:
        defaults.use_cores_as_devices(options.batch_size or stored["config"].get("evaluation.batch_size", 1))
    opened = open_run(directory)
    changes = {
        f"evaluation__{name}": value
        for name in ("num_samples", "chunk", "batch_size")
        if (value := getattr(options, name)) is not None
    }
    check_images(opened)
    opened = dataclasses.replace(opened, config=override(opened.config, **changes))
    with restored_params(opened, log) as (step, params):
        return {"workdir": str(directory), "step": step} | evaluate_and_log(opened, params, split=options.split)


def evaluate_and_log(
    run: "Run", params: "Params", *, split: str, stop: Callable[[], bool] = lambda: False
) -> dict[str, Any]:
    """Evaluate a model on a split, with lines of progress, and with a line for each number that is undefined.

    Raises:
      Interrupted: `stop()` returned true before the end.
      NotFiniteError: a number is not finite.
    """
    from vae_jax.runs import evaluate_run

    start = last = time.perf_counter()

    def report_progress(done: int, total: int) -> None:
        nonlocal last
        if time.perf_counter() - last > _INTERVAL:
            last = time.perf_counter()
            left = (last - start) / done * (total - done)
            log(f"NLL: {done} of {total} images, {left:.0f} s left")

    result = evaluate_run(run, params, split=split, report_progress=report_progress, stop=stop)
    for reason in dict.fromkeys(result["undefined"].values()):
        names = ", ".join(name for name, why in result["undefined"].items() if why == reason)
        log(f"no {names}: {reason}")
    return result | {"evaluation_seconds": round(time.perf_counter() - start, 2)}
