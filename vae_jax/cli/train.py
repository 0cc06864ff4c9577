"""`vae-jax train`: train a model or resume a run, evaluate it, plot its figures, and write its report."""

import dataclasses
import functools
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vae_jax.cli.commands import register_command
from vae_jax.cli.evaluate import evaluate_and_log
from vae_jax.cli.examples import examples_text, presets_text
from vae_jax.cli.messages import log
from vae_jax.cli.output import log_changed_files
from vae_jax.cli.parsing import TrainingOptions, flag_value, parse_train_command
from vae_jax.config import Config
from vae_jax.errors import InputError
from vae_jax.runtime import atomic_files, host, multihost, signals

if TYPE_CHECKING:
    from vae_jax.runs import Experiment, RunDirectory, TrainResult
    from vae_jax.runtime import Placement


@dataclasses.dataclass(frozen=True)
class Distributed:
    """Several processes that train one run. SLURM, Open MPI, Kubernetes and TPU pods need none of these options.

    Elsewhere each process needs the first three. The results do not depend on them, so a run does not store them.
    """

    coordinator: str | None = None
    """HOST:PORT of process 0, reachable by all."""
    num_processes: int | None = None
    """Number of processes; 1: this one only, even under a scheduler."""
    process_id: int | None = None
    """Number of this process, from 0."""
    initialization_timeout: int = 300
    """Seconds to wait for all processes at the start."""
    heartbeat_timeout: int = 100
    """Seconds without a heartbeat from a process after which the others end."""
    shutdown_timeout: int = 300
    """Seconds to wait for all processes at the end."""


@dataclasses.dataclass(frozen=True)
class Train(TrainingOptions):
    """Train a model, or resume a run; then evaluate it on the test examples, plot its figures and write report.html.

    Without arguments it trains on handwritten digits, which need no download. The same command resumes an
    interrupted run with identical results; a larger --train.steps continues a finished run.
    """

    workdir: str | None = None
    """The run's directory; default: runs/PRESET. Without --preset, an existing run keeps its settings."""
    allow_change: tuple[str, ...] = ()
    """Settings that a resumed run may change: train.batch_size data.holdout; config.json records the step."""
    distributed: Distributed = dataclasses.field(default_factory=Distributed)
    profile: str | None = None
    """Folder for a trace of one dispatch, for Perfetto and TensorBoard."""


def parse_arguments(argv: Sequence[str]) -> tuple[Train, Config]:
    """Return (options, config); with --help, print the help, which begins with examples, and exit."""
    if {"-h", "--help"} & set(argv):
        print(examples_text(), presets_text(), "", sep="\n\n", end="", flush=True)
    return parse_train_command(Train, argv, workdir=flag_value(argv, "--workdir"))


@register_command(
    "train", "train on a data set, evaluate, plot; --preset NAME, --workdir DIR, --section.field VALUE", order=10
)
def run(argv: Sequence[str]) -> dict[str, Any]:
    """Train, evaluate and plot; return the results."""
    options, config = parse_arguments(argv)
    use_compilation_cache(options.compilation_cache)
    start = time.perf_counter()
    multihost.initialize(**dataclasses.asdict(options.distributed))
    with signals.stop_on_signals() as received, signals.save_on_signal() as requested:
        from vae_jax.runs import RunDirectory, default_callbacks, fit, likelihood_warnings, reduction_note

        directory = RunDirectory(options.workdir or f"runs/{options.preset}")
        stop, save = multihost.any_process(received), multihost.any_process(requested)
        profile = None if options.profile is None else Path(options.profile)
        allowed = [path.replace("-", "_") for path in options.allow_change]  # settings, or their flags
        experiment, placement = multihost.run_on_all(lambda: _prepare(config, directory, allowed, profile))
        log(_description(experiment, placement, directory))
        for warning in likelihood_warnings(experiment):
            log(f"warning: {warning}")
        if note := reduction_note(experiment, placement):
            log(note)
        callbacks = default_callbacks(stop, save)
        outcome = fit(experiment, directory, placement, callbacks, allow_change=allowed, profile=profile)
        trained = time.perf_counter() - start
        result: dict[str, Any] = {
            "workdir": str(directory), "status": outcome.status, "step": outcome.step, "seed": config.seed,
        }  # fmt: skip
        if outcome.status == "interrupted":
            saved = "saved" if outcome.step else "nothing to save yet"
            log(f"interrupted at step {outcome.step} of {config.train.steps}, {saved}; the same command resumes")
            return result
        if profile is not None and not outcome.trained_steps:
            log(f"--profile={profile} has no effect, because no step is left to trace")
        log_changed_files(experiment.source)
        result |= _evaluate_result(experiment, directory, placement, outcome, stop, start=start, trained=trained)
        if sys.stderr is not None and sys.stderr.isatty() and "num_examples" in result:
            log(results_table(result, directory))
        return result


def use_compilation_cache(folder: str | None) -> None:
    """Store compiled programs in a folder, so that the next start of the same program need not compile."""
    if folder is None or folder == "None":
        return
    try:
        path = host.expand_home(folder, "--compilation-cache")
    except InputError:
        if folder != TrainingOptions.compilation_cache:
            raise
        return  # without a home directory there is no default folder
    import jax

    jax.config.update("jax_compilation_cache_dir", str(path))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)


def _prepare(
    config: Config, directory: "RunDirectory", allow_change: Sequence[str], profile: Path | None
) -> "tuple[Experiment, Placement]":
    """Return the experiment and its devices; refuse every invalid input here, before the training."""
    from vae_jax.bench import check_memory
    from vae_jax.runs import prepare_experiment

    experiment, placement = prepare_experiment(config, directory, allow_change=allow_change, log=log)
    experiment.dataset("test")
    if profile is not None:
        atomic_files.check_writable(profile, "--profile")
    check_memory(experiment, placement)
    return experiment, placement


def _evaluate_result(
    experiment: "Experiment",
    directory: "RunDirectory",
    placement: "Placement",
    outcome: "TrainResult",
    stop: Callable[[], bool],
    *,
    start: float,
    trained: float,
) -> dict[str, Any]:
    """Plot, evaluate and report a trained model, or read the evaluation of a run that was finished before.

    Another process may have continued the run since the training has released its lock; then nothing is written.
    """
    from vae_jax.report import write_report
    from vae_jax.runs import evaluation_protocol, lock_results, read_evaluation

    protocol = evaluation_protocol(experiment)
    read = functools.partial(read_evaluation, directory, outcome.step, protocol)
    with lock_results(directory, outcome.step) as refusal:
        if refusal:
            log(refusal)
            return {"status": "not evaluated"}
        if not outcome.trained_steps and (earlier := multihost.broadcast_from_primary(read)) is not None:
            log(f"all {outcome.step} steps are finished ({outcome.status}); these are the results")
            multihost.run_on_primary(lambda: directory.report.exists() or write_report(directory))
            return earlier
        evaluation = _plot_and_evaluate(experiment, directory, placement, outcome, stop)
        if evaluation is None:
            log("interrupted during the evaluation, after the training; the same command evaluates again")
            return {"status": "interrupted"}
        multihost.run_on_primary(lambda: write_report(directory))
        log(f"report: {directory.report}")
    times = {"train_seconds": round(trained, 2), "seconds": round(time.perf_counter() - start, 2)}
    return times | evaluation


def _plot_and_evaluate(
    experiment: "Experiment",
    directory: "RunDirectory",
    placement: "Placement",
    outcome: "TrainResult",
    stop: Callable[[], bool],
) -> dict[str, Any] | None:
    """Write the figures, the scores and the evaluation of a trained model; None if it is interrupted."""
    from vae_jax.runs import Interrupted, further_estimates, plot_layers, plots, write_evaluation, write_scores

    paths = plots.plot_all(experiment, outcome.params, directory, placement)
    log("plotted: " + ", ".join(str(path) for path in paths))
    scores: dict[str, Any] = {}
    try:
        evaluation = evaluate_and_log(
            experiment, outcome.params, placement, split="test", stop=stop, receive=scores.update
        )
    except Interrupted:
        return None
    plot_layers(experiment, outcome.params, directory, evaluation)
    write_scores(directory.scores("test"), scores, experiment.dataset("test"))
    write_evaluation(directory, {"step": outcome.step, **evaluation, **further_estimates(directory, outcome.step)})
    return evaluation


def _with_error(result: Mapping[str, Any], name: str, scale: float = 1) -> str:
    """Return a number and its standard error, which a single example does not have."""
    error = result[f"{name}_se"]
    return f"{scale * result[name]:.2f}" + ("" if error is None else f" +/- {scale * error:.2f}")


def results_table(result: Mapping[str, Any], directory: "RunDirectory") -> str:
    """Return the results of a finished run as a small table for people.

    Args:
      result: the results, as they are printed.
      directory: the run's directory, whose files are listed.
    """
    rows = [(f"{directory}", f"step {result['step']}, {result['num_examples']} {result['split']} examples")]
    for title, name in (("ELBO", "elbo"), ("NLL", "nll"), ("reconstruction", "reconstruction")):
        if name in result:
            samples = f", K={result['num_samples']}" if name == "nll" else ""
            rows.append((title, f"{_with_error(result, name)} nats{samples}"))
    if "nll_unlabelled" in result:
        value = _with_error(result, "nll_unlabelled")
        rows.append(("NLL without label", f"{value} nats, K={result['class_samples']} for each class"))
    for title, name in (("error of q(y|x)", "classifier_error"), ("error of p(y|x)", "generative_error")):
        if name in result:
            rows.append((title, f"{_with_error(result, name, 100)} %"))
    if "bits_per_dim" in result:
        rows.append(("bits/dim", f"{result['bits_per_dim']:.3f} of the {result['bits_per_dim_of'].upper()}"))
    rows += [(title, "undefined") for title, name in (("ELBO", "elbo"), ("NLL", "nll")) if name in result["undefined"]]
    rows.append(("active units", f"{result['active_units']}"))
    if "code_usage" in result:
        rows.append(("codes", f"perplexity {result['code_perplexity']:.1f}, {result['code_usage']:.0%} in use"))
    if "seconds" in result:
        rows.append(("seconds", f"{result['train_seconds']:.1f} to the last step, {result['seconds']:.1f} in all"))
    files = sorted(entry.name + "/" * entry.is_dir() for entry in os.scandir(directory.path) if entry.name != "lock")
    rows.append(("files", ", ".join(name for name in files if not name.startswith("events."))))
    width = max(len(title) for title, _ in rows[1:]) + 2
    return "\n".join((": ".join(rows[0]), *(f"  {title:<{width}}{value}" for title, value in rows[1:])))


def _description(experiment: "Experiment", placement: "Placement", directory: "RunDirectory") -> str:
    import jax

    from vae_jax.data import KINDS
    from vae_jax.report import model_name

    config, examples = experiment.config, experiment.training_data
    assert config is not None, "it is built from a config"
    shapes = experiment.abstract_state.params
    count = sum(leaf.size for leaf in jax.tree.leaves(shapes))
    size = "x".join(map(str, examples.spec["x"].shape))
    devices = f"{placement.mesh.size} {jax.devices()[0].device_kind} device(s)"
    return (
        f"{config.data.name}: {len(examples)} {KINDS[examples.kind].noun}s of {size}; {model_name(config)} with "
        f"{count:,} parameters; {config.objective.name}; {devices}; {directory}"
    )
