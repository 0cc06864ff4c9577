"""`vae-jax sweep`: train the product of several settings as few programs, evaluate each member, and compare them."""

import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vae_jax.cli.commands import register_command
from vae_jax.cli.messages import log
from vae_jax.cli.output import log_changed_files
from vae_jax.cli.parsing import TrainingOptions, parse_preset_command
from vae_jax.cli.train import use_compilation_cache
from vae_jax.config import Config, parse_setting
from vae_jax.errors import InputError, NotFiniteError
from vae_jax.runtime import atomic_files, signals

if TYPE_CHECKING:
    from vae_jax.runs import Member


@dataclasses.dataclass(frozen=True)
class Sweep(TrainingOptions):
    """Train the product of several values of some settings, and compare the members.

    Members that differ only in the seed, the draw of the labels, the optimizer's rate, b1, b2, eps and weight decay,
    and the objective's weights, floor and capacity are trained as one program. Other members need a second program,
    trained afterwards. Each member is a run in a subdirectory. The same command resumes an interrupted sweep.
    """

    workdir: str | None = None
    """The sweep's directory, with a subdirectory for each member; default: runs/sweep-PRESET."""
    vary: tuple[str, ...] = ()
    """The settings to vary and their values: seed=0,1,2 objective.beta=0.5,1,2."""


def parse_arguments(argv: Sequence[str]) -> tuple[Sweep, Config, dict[str, list[Any]]]:
    """Return (options, the config that all members share, {setting: values})."""
    options, config = parse_preset_command("sweep", Sweep, argv)
    varied: dict[str, list[Any]] = {}
    for word in options.vary:
        path, equals, values = word.partition("=")
        if not equals or not values:
            raise InputError(f"--vary={word} must be SETTING=VALUE,VALUE,...")
        if path in varied:
            raise InputError(f"--vary={path} is given twice; give it once, with all of its values")
        varied[path] = [parse_setting(path, value) for value in values.split(",")]
    if not varied:
        raise InputError("--vary is empty; give SETTING=VALUE,VALUE,... at least once")
    return options, config, varied


@register_command(
    "sweep", "many models in one program: seed=0,1,2 objective.beta=0.5,1,2; a table and a figure",
    arguments="--vary ...", order=20,
)  # fmt: skip
def run(argv: Sequence[str]) -> dict[str, Any]:
    """Train and evaluate all members; return the summary."""
    options, config, varied = parse_arguments(argv)
    directory = Path(options.workdir or f"runs/sweep-{options.preset}")
    use_compilation_cache(options.compilation_cache)
    start = time.perf_counter()
    from vae_jax.runs import Interrupted, evaluate_members, fit_group, group_members, make_members, prepare_members

    members = make_members(config, varied)
    groups = group_members(members)
    log(f"{len(members)} members, {len(groups)} program(s), one after another; {directory}")
    with signals.stop_on_signals() as stop, signals.save_on_signal() as save:
        trained, sources = {}, {}
        if len(groups) > 1:  # refuse an invalid later group before the first is trained
            for group in groups:
                prepare_members(group, directory, log=log, sources=sources)
        for group in groups:
            models = fit_group(group, directory, stop=stop, save=save, log=log, sources=sources)
            if models is None:
                log("interrupted, saved; the same command resumes")
                return {"workdir": str(directory), "status": "interrupted"}
            trained |= dict(zip([member.name for member in group], models, strict=True))
        train_seconds = time.perf_counter() - start
        try:
            results = evaluate_members([trained[member.name] for member in members], stop=stop)
        except Interrupted:
            log("interrupted during the evaluation, after the training; the same command evaluates again")
            return {"workdir": str(directory), "status": "interrupted"}
    for source in sources.values():
        log_changed_files(source)
    for member, result in zip(members, results, strict=True):
        for warning in result.get("warnings", ()):
            log(f"warning: {member.name}: {warning}")
    summary = _write_summary(directory, members, results)
    if all("failure" in result for result in results):
        raise NotFiniteError(f"none of the {len(members)} members finished: {results[0]['failure']}")
    return {
        "workdir": str(directory), "status": "done", "members": len(members), "programs": len(groups),
        "failed": [member.name for member, result in zip(members, results, strict=True) if "failure" in result],
        "train_seconds": round(train_seconds, 2), "seconds": round(time.perf_counter() - start, 2),
        "summary": summary,
    }  # fmt: skip


def _write_summary(
    directory: Path, members: "Sequence[Member]", results: Sequence[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Write sweep.json, sweep.md and sweep.png; return the summary."""
    from vae_jax.runs import markdown_table, save_rate_distortion, summarize

    summary = summarize(members, results)
    text = markdown_table(summary)
    rows = [member.varied | result for member, result in zip(members, results, strict=True)]
    atomic_files.write_json(directory / "sweep.json", {"members": rows, "summary": summary})
    atomic_files.write_file(directory / "sweep.md", lambda file: file.write(text.encode()))
    save_rate_distortion(directory / "sweep.png", summary)
    log(text.rstrip())
    return summary
