"""`vae-jax evaluate RUN`: evaluate the model of a run on a split."""

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from vae_jax.cli.commands import register_command
from vae_jax.cli.messages import log
from vae_jax.cli.output import open_for_examples, output_folder, read_examples
from vae_jax.cli.parsing import ExampleOptions, parse_run_command, require_positive
from vae_jax.errors import InputError
from vae_jax.runtime import atomic_files

if TYPE_CHECKING:
    import numpy as np

    from vae_jax.data import ArrayDataset
    from vae_jax.inference import Params
    from vae_jax.runs import Experiment, OpenedRun
    from vae_jax.runtime import Placement

_INTERVAL = 10  # seconds between two lines of progress


@dataclasses.dataclass(frozen=True)
class AISOptions:
    """Annealed importance sampling, with --likelihood ais."""

    distributions: int = 1000
    """Distributions of the path from the start to the posterior."""
    chains: int = 16
    """Chains of each example."""
    start: Literal["encoder", "prior"] = "encoder"
    """Where the path starts: q(z|x) or p(z)."""
    examples: int | None = None
    """The first so many examples of the split; default: all."""
    simulated: int = 100
    """Examples that are simulated to bound the error of the estimate; 0: none."""


@dataclasses.dataclass(frozen=True)
class OptimizedOptions:
    """A posterior optimized for each example, with --likelihood optimized."""

    steps: int = 500
    """Steps of Adam from the posterior of the encoder."""
    samples: int = 1000
    """Samples of each posterior, for its ELBO and for the NLL."""
    examples: int | None = None
    """The first so many examples of the split; default: all."""


@dataclasses.dataclass(frozen=True)
class Evaluate(ExampleOptions):
    """Evaluate a run: ELBO and its parts, NLL by importance sampling with its error, active units, bits/dim.

    figures/layers.png shows KL and active units of each of several stochastic layers. With --likelihood ais only the
    NLL, by annealed importance sampling, with bounds of its error; the same command continues an interrupted one. With
    --likelihood optimized only the gap between NLL and ELBO, in the part of the family of posteriors and that of the
    encoder. evaluation.json and report.html of the run receive both.
    """

    prior: Literal["model", "fitted"] = "model"
    """p(z) of the bounds: that of the model, or the density that `vae-jax fit-prior RUN` has fitted."""
    per_example: bool = False
    """Write scores-SPLIT.npz: reconstruction, kl, elbo and nll of each example, its index, file name and label; and
    log_qy and log_px_y given each class of a model that reads labels. The name ends with -fitted or -K5000 with these
    options."""
    num_samples: int | None = None
    """K of the NLL; default: the run's evaluation.num_samples; 0: no NLL."""
    chunk: int | None = None
    """Samples decoded at a time; default: the run's evaluation.chunk."""
    batch_size: int | None = None
    """Examples at a time; default: the run's evaluation.batch_size."""
    likelihood: Literal["importance", "ais", "optimized"] = "importance"
    """How -log p(x) is estimated: importance sampling; annealed importance sampling, ais; or importance sampling from a
    posterior that is optimized for each example."""
    ais: AISOptions = dataclasses.field(default_factory=AISOptions)
    optimized: OptimizedOptions = dataclasses.field(default_factory=OptimizedOptions)

    @property
    def label(self) -> str:
        """The split in the name of a file, with the prior and K if they are given."""
        return self._with_prior + ("" if self.num_samples is None else f"-K{self.num_samples}")

    @property
    def variant(self) -> str:
        """The end of the name of the figure of the layers, which does not depend on K."""
        return "" if self._with_prior == "test" else self._with_prior

    @property
    def _with_prior(self) -> str:
        return super().label + ("-fitted" if self.prior == "fitted" else "")


@register_command(
    "evaluate", "ELBO and its parts, NLL with its standard error, active units, bits/dim", arguments="RUN", order=50
)
def run(argv: Sequence[str]) -> dict[str, Any]:
    """Evaluate a run and return the numbers."""
    directory, options = parse_run_command("evaluate", Evaluate, argv)
    _check_likelihood(options)
    from vae_jax.runs import RunDirectory, read_stored_run
    from vae_jax.runtime import defaults

    stored = read_stored_run(RunDirectory(directory))
    if stored is not None:
        defaults.use_cores_as_devices(options.batch_size or stored.settings.get("evaluation.batch_size", 1))
    changes = {
        f"evaluation__{name}": value
        for name in ("num_samples", "chunk", "batch_size")
        if (value := getattr(options, name)) is not None
    }
    evaluate = {"importance": _evaluate_sampled, "ais": _evaluate_annealed, "optimized": _evaluate_gap}
    return evaluate[options.likelihood](open_for_examples(directory, options, **changes), options)


def _check_likelihood(options: Evaluate) -> None:
    """Raise InputError for options that belong to another likelihood than the chosen one."""
    given = {
        "--prior=fitted": ("importance", options.prior == "fitted"),
        "--per-example": ("importance", options.per_example),
        "--num-samples": ("importance", options.num_samples is not None),
        "--ais.*": ("ais", options.ais != AISOptions()),
        "--optimized.*": ("optimized", options.optimized != OptimizedOptions()),
    }
    for flag, (likelihood, is_given) in given.items():
        if is_given and options.likelihood != likelihood:
            raise InputError(f"{flag} has no effect with --likelihood={options.likelihood}; remove one of them")
    if options.ais.simulated < 0:
        raise InputError(f"--ais.simulated={options.ais.simulated} must be at least 0")


def _evaluate_sampled(run: "OpenedRun", options: Evaluate) -> dict[str, Any]:
    """Return the bounds, the NLL by importance sampling and the other numbers; write the files that belong to them."""
    from vae_jax.runs import (
        layer_shapes,
        plot_layers,
        read_fitted_prior,
        reduction_note,
        restored_params,
        write_scores,
    )

    experiment, directory, placement, changed = run
    has_layers = len(layer_shapes(experiment, experiment.evaluation_params(experiment.abstract_state))) > 1
    writes = options.per_example or has_layers
    folder = output_folder(options, directory, options.variant) if writes else None
    dataset, split, scores = read_examples(run, options), options.chosen_split, {}
    if note := reduction_note(experiment, placement):
        log(note)
    with restored_params(experiment, directory, placement, log, changed=changed) as (step, params):
        if options.prior == "fitted":
            fitted = read_fitted_prior(directory, experiment, params, step=step)
            experiment, params = fitted.replace_prior(experiment, params)
        result = evaluate_and_log(experiment, params, placement, split=split, receive=scores.update)
        figure = None if folder is None else plot_layers(experiment, params, folder, result)
    result = {"workdir": str(directory), "step": step, "prior": options.prior} | result
    result |= _identify_other_data(options, dataset)
    if figure is not None:
        result["figure"] = str(figure)
    if folder is not None and options.per_example:
        path = folder.scores(options.label)
        write_scores(path, scores, dataset)
        result["scores"] = str(path)
    return result


def _evaluate_annealed(run: "OpenedRun", options: Evaluate) -> dict[str, Any]:
    """Return the NLL by annealed importance sampling."""
    from vae_jax.inference import Annealing
    from vae_jax.runs import AnnealedEvaluation, evaluate_annealed, restored_params

    ais = options.ais
    require_positive(**{"ais.distributions": ais.distributions, "ais.chains": ais.chains})
    annealing = Annealing(num_distributions=ais.distributions, num_chains=ais.chains, start=ais.start)
    settings = AnnealedEvaluation(annealing, ais.examples, ais.simulated)
    folder, start = output_folder(options, run.directory), time.perf_counter()
    dataset = read_examples(run, options)
    settings_of_file = f"{ais.distributions}-{ais.chains}-{ais.start}-{ais.examples}"
    chunks = folder.path / f"ais-{options.label}-{settings_of_file}.npz"
    with restored_params(run.experiment, run.directory, run.placement, log, changed=run.changed) as (step, params):
        result = evaluate_annealed(
            run.experiment, params, settings, split=options.chosen_split, placement=run.placement, step=step,
            partial=chunks, report=lambda what, done, total: log(f"AIS: {done} of {total} {what}"),
        )  # fmt: skip
    result |= _identify_other_data(options, dataset) | {"seconds": round(time.perf_counter() - start, 2)}
    return _store_estimate(run, options, "ais", result, chunks)


def _evaluate_gap(run: "OpenedRun", options: Evaluate) -> dict[str, Any]:
    """Return the parts of the gap between NLL and ELBO, with a posterior that is optimized for each example."""
    from vae_jax.inference import PosteriorOptimization
    from vae_jax.runs import evaluate_inference_gap, restored_params

    optimized = options.optimized
    require_positive(**{"optimized.steps": optimized.steps, "optimized.samples": optimized.samples})
    settings = PosteriorOptimization(num_steps=optimized.steps, evaluation_samples=optimized.samples)
    output_folder(options, run.directory)  # refuses one that cannot be written before the computation
    start = time.perf_counter()
    dataset = read_examples(run, options)
    with restored_params(run.experiment, run.directory, run.placement, log, changed=run.changed) as (step, params):
        result = evaluate_inference_gap(
            run.experiment, params, settings, split=options.chosen_split, placement=run.placement,
            num_examples=optimized.examples,
            report=lambda done, total: log(f"optimized posteriors: {done} of {total} examples"),
        )  # fmt: skip
    result |= _identify_other_data(options, dataset) | {"seconds": round(time.perf_counter() - start, 2)}
    return _store_estimate(run, options, "optimized", {"step": step, **result})


def _identify_other_data(options: Evaluate, dataset: "ArrayDataset") -> dict[str, str]:
    """Return the name of other data and the checksum of their examples; {} for the data of the run."""
    from vae_jax.data import checksum_of_examples

    return {} if options.data.name is None else {"data": options.data.name, "examples": checksum_of_examples(dataset)}


def _store_estimate(
    run: "OpenedRun", options: Evaluate, name: str, result: dict[str, Any], chunks: Path | None = None
) -> dict[str, Any]:
    """Add an estimate to evaluation.json of the same weights and to the report, unless --to names another folder.

    The file of the chunks of which it consists is removed when it is stored.
    """
    from vae_jax.report import write_report
    from vae_jax.runs import merge_estimate, read_evaluation, write_evaluation

    evaluation = read_evaluation(run.directory, result["step"])
    if evaluation is not None and options.data.name is None and options.to is None:
        write_evaluation(run.directory, merge_estimate(evaluation, name, result))
        if chunks is not None:
            atomic_files.remove(chunks)
        log(f"report: {write_report(run.directory)}")
    return {"workdir": str(run.directory), **result}


class _LikelihoodProgress:
    """Lines about the estimation of the NLL: one before it, and from the second batch on one every 10 seconds.

    The first batch includes the time to compile, so the time left is computed from those after it.
    """

    def __init__(self, num_samples: int, split: str):
        self._what = f"{split} examples, {num_samples} samples of each"
        self._first: tuple[float, int] | None = None
        self._print_from = 0.0

    def __call__(self, done: int, total: int) -> None:
        """Print a line if it is due."""
        now = time.monotonic()
        if not done:
            log(f"NLL of {total} {self._what}; it can take as long as the training (evaluation.num_samples=0: none)")
        elif self._first is None:
            self._first = now, done
        elif now >= self._print_from and done < total:
            left = (now - self._first[0]) / (done - self._first[1]) * (total - done)
            if self._print_from or left > _INTERVAL:
                log(f"NLL: {done} of {total} examples, {left:.0f} s left")
                self._print_from = now + _INTERVAL


def evaluate_and_log(
    experiment: "Experiment",
    params: "Params",
    placement: "Placement",
    *,
    split: str,
    stop: Callable[[], bool] = lambda: False,
    receive: "Callable[[Mapping[str, np.ndarray]], None]" = lambda scores: None,
) -> dict[str, Any]:
    """Evaluate a model on a split, with lines of progress, and with a line for each number that is undefined.

    Raises:
      Interrupted: `stop()` returned true before the end.
      NotFiniteError: a number is not finite.
    """
    from vae_jax.runs import evaluate_run, evaluation_protocol

    start = time.perf_counter()
    report_progress = _LikelihoodProgress(evaluation_protocol(experiment).get("num_samples", 0), split)
    result = evaluate_run(
        experiment, params, split=split, placement=placement, report_progress=report_progress, stop=stop,
        receive=receive,
    )  # fmt: skip
    for reason in dict.fromkeys(result["undefined"].values()):
        names = ", ".join(name for name, why in result["undefined"].items() if why == reason)
        log(f"no {names}: {reason}")
    for warning in result["warnings"]:
        log(f"warning: {warning}")
    return result | {"evaluation_seconds": round(time.perf_counter() - start, 2)}
