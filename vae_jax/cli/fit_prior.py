"""`vae-jax fit-prior RUN --prior NAME`: a density of the codes of a trained model."""

import dataclasses
import time
from collections.abc import Sequence
from typing import Any

from vae_jax.cli.commands import register_command
from vae_jax.cli.messages import log
from vae_jax.cli.parsing import parse_prior_command
from vae_jax.runtime import atomic_files


@dataclasses.dataclass(frozen=True)
class FitPrior:
    """Fit a density to the codes of the training examples: fitted_prior/, for `vae-jax sample RUN --prior fitted`.

    The model does not change. `standard-normal` is one Gaussian with full covariance; the other densities have standard
    deviations and correlations of the codes at the start. The results are mean log densities in nats of the codes of
    training and validation.
    """

    steps: int | None = None
    """Updates; default: 5000."""
    batch_size: int | None = None
    """Codes of an update; default: 256, or all if there are fewer."""
    learning_rate: float | None = None
    """Maximum learning rate of Adam, which decreases to 0; default: 0.001."""
    seed: int = 0
    """Seed of the fit."""


@register_command("fit-prior", "a density of the codes of a trained model", arguments="RUN", order=55)
def run(argv: Sequence[str]) -> dict[str, Any]:
    """Fit a density and store it in the directory of the run; return its log densities."""
    directory, options, prior = parse_prior_command("fit-prior", FitPrior, argv)
    from vae_jax.runs import FitSettings, check_data, fit_prior, open_run, restored_params, write_fitted_prior

    start, run = time.perf_counter(), open_run(directory)
    settings = FitSettings(options.steps, options.batch_size, options.learning_rate, options.seed)
    experiment, _, placement, changed = run
    atomic_files.check_writable(run.directory.fitted_prior, "RUN")
    check_data(run, log)
    with restored_params(experiment, run.directory, placement, log, changed=changed) as (step, params):
        fitted = fit_prior(experiment, params, prior, settings, placement, log=log)
        write_fitted_prior(run.directory, fitted, params, step=step)
    described = {"workdir": str(directory), "step": step, "fitted_prior": str(run.directory.fitted_prior)}
    return described | fitted.summary | {"fit_seconds": round(time.perf_counter() - start, 2)}
