"""What each command of `vae-jax` does: it reads its arguments, calls the library, and returns its results."""

import dataclasses
import functools
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from vae_jax import processes, storage
from vae_jax.arguments import (
    Encode,
    Evaluate,
    Export,
    Interpolate,
    Reconstruct,
    Sample,
    parse_bench,
    parse_on_run,
    parse_plan,
    parse_sweep,
    parse_train,
    require_positive,
)
from vae_jax.errors import InputError, NotFiniteError
from vae_jax.signals import stop_on_signals

# Heavy imports (jax, flax, orbax, ...) stand inside the commands, so that `--help` and a typing error answer at once.


def train(argv: Sequence[str]) -> dict[str, Any]:
    """`vae-jax train`: fits, evaluates, draws."""
    asked, config = parse_train(argv)
    directory = Path(asked.workdir or f"runs/{asked.preset}")
    _use_compilation_cache(asked.compilation_cache)
    start = time.perf_counter()
    processes.join(**dataclasses.asdict(asked.distributed))
    with stop_on_signals() as received:
        from vae_jax import drawing, fitting, judging, planning, runs

        stop = processes.agreed(received)
        allowed = [path.replace("-", "_") for path in asked.allow_change]  # as settings and as their flags are written
        profile = None if asked.profile is None else Path(asked.profile)

        def prepare() -> tuple[runs.Run, Any]:  # what is wrong is refused now, not after the training
            run, images = runs.prepare_run(config, directory, allow_change=allowed, say=_say)
            run.images("test")
            if profile is not None:
                storage.check_writable(profile, "--profile")
            planning.check_memory(run)
            return run, images

        run, images = processes.together(prepare)
        _say(_describe(run, len(images)))
        outcome = fitting.fit(run, images, stop=stop, profile=profile)
        trained = time.perf_counter() - start
        result: dict[str, Any] = {
            "workdir": str(directory), "status": outcome.status, "step": outcome.step, "seed": config.seed,
        }  # fmt: skip
        if outcome.status == "interrupted":
            saved = "saved" if outcome.step else "nothing to save yet"
            _say(f"interrupted at step {outcome.step} of {config.train.steps}, {saved}; the same command goes on")
            return result
        protocol = judging.evaluation_protocol(run)
        read = functools.partial(judging.read_evaluation, run.directory, outcome.step, protocol)
        if not outcome.trained_steps and (earlier := processes.from_first(read)) is not None:
            _say(f"all {outcome.step} steps are done ({outcome.status}); these are its results")
            return result | earlier
        params = runs.evaluation_params(outcome.state, config)
        drawn = drawing.draw_all(run, params)
        _say("drawn: " + ", ".join(str(path) for path in drawn))
        try:
            evaluation = _evaluate(run, params, split="test", stop=stop)
        except judging.Interrupted:
            _say("interrupted in the evaluation, after the training; the same command evaluates again")
            return result | {"status": "interrupted"}
        storage.write_json(run.directory / judging.EVALUATION_FILE, {"step": outcome.step, **evaluation})
        result |= {"train_seconds": round(trained, 2), "seconds": round(time.perf_counter() - start, 2)}
        return result | evaluation


def sweep(argv: Sequence[str]) -> dict[str, Any]:
    """`vae-jax sweep`: fits many models side by side, evaluates each, and compares them."""
    asked, config, varied = parse_sweep(argv)
    directory = Path(asked.workdir or f"runs/sweep-{asked.preset}")
    _use_compilation_cache(asked.compilation_cache)
    start = time.perf_counter()
    from vae_jax import figures, judging, sweeping

    members = sweeping.members(config, varied)
    parts = sweeping.groups(members)
    _say(f"{len(members)} members, {len(parts)} program(s), one after another; {directory}")
    with stop_on_signals() as stop:
        trained = {}
        if len(parts) > 1:  # what is wrong with a later one is refused now, not after those before it
            for group in parts:
                sweeping.prepare(group, directory)
        for group in parts:
            found = sweeping.fit_group(group, directory, stop=stop)
            if found is None:
                _say("interrupted, saved; the same command goes on")
                return {"workdir": str(directory), "status": "interrupted"}
            trained |= dict(zip([member.name for member in group], found, strict=True))
        train_seconds = time.perf_counter() - start
        try:
            results = sweeping.judge([trained[member.name] for member in members], stop=stop)
        except judging.Interrupted:
            _say("interrupted in the evaluation, after the training; the same command evaluates again")
            return {"workdir": str(directory), "status": "interrupted"}
    summary = sweeping.summarise(members, results)
    text = sweeping.markdown(summary)
    rows = [member.varied | result for member, result in zip(members, results, strict=True)]
    storage.write_json(directory / "sweep.json", {"members": rows, "summary": summary})
    storage.write_file(directory / "sweep.md", lambda file: file.write(text.encode()))
    figures.rate_distortion(directory / "sweep.png", summary)
    _say(text.rstrip())
    if all("failure" in result for result in results):
        raise NotFiniteError(f"none of the {len(members)} members has ended: {results[0]['failure']}")
    return {
        "workdir": str(directory), "status": "done", "members": len(members), "programs": len(parts),
        "failed": [member.name for member, result in zip(members, results, strict=True) if "failure" in result],
        "train_seconds": round(train_seconds, 2), "seconds": round(time.perf_counter() - start, 2),
        "summary": summary,
    }  # fmt: skip


def bench(argv: Sequence[str]) -> dict[str, Any]:
    """`vae-jax bench`: measures a model's step beside variants of it; or compares two measurements."""
    asked, config = parse_bench(argv)
    from vae_jax import benchmarking, reporting, runs, variants

    if asked.compare:
        before, after = map(benchmarking.read_report, asked.compare)
        found = benchmarking.compare(before, after)
        differ = benchmarking.not_alike(before, after)
        reporting.print_comparison(found, differ, sys.stderr)
        return {"before": asked.compare[0], "after": asked.compare[1], "rows": found, "not_alike": differ}
    names = list(variants.DEFAULT) if asked.variants is None else [n for n in asked.variants.split(",") if n]
    variants.check_names(names)
    directory = Path(asked.workdir or f"runs/bench-{asked.preset}")
    profile = None if asked.profile is None else Path(asked.profile)
    if profile is not None:
        storage.check_writable(profile, "--profile")
    run, images = runs.prepare_run(config, directory)
    runs.require_in_memory(run, "bench")
    report = benchmarking.bench(run, images, names, rounds=asked.rounds, say=_say, profile=profile)
    storage.write_json(directory / "bench.json", report)
    reporting.draw(directory / "bench.png", report)
    reporting.print_report(report, sys.stderr)
    return {"report": str(directory / "bench.json"), "figure": str(directory / "bench.png")} | report


def plan(argv: Sequence[str]) -> dict[str, Any]:
    """`vae-jax plan`: what a training costs, before it runs."""
    asked, config = parse_plan(argv)
    from vae_jax import data, planning, reading, reporting

    limit = None if asked.memory is None else round(asked.memory * reporting.GIB)
    images = reading.training_images(config)
    streamed = isinstance(images, data.Records)
    result = planning.plan(config, reading.describe(images), streamed=streamed, limit=limit)
    reporting.print_plan(result, sys.stderr)
    return result


def evaluate(argv: Sequence[str]) -> dict[str, Any]:
    """`vae-jax evaluate RUN`."""
    directory, asked = parse_on_run("evaluate", Evaluate, argv)
    from vae_jax import machine, runs, settings

    stored = runs.read_description(directory)
    if stored is not None:
        machine.split_into_devices(asked.batch_size or stored["config"].get("evaluation.batch_size", 1))
    run = runs.open_run(directory)
    changes = {
        f"evaluation__{name}": value
        for name in ("num_samples", "chunk", "batch_size")
        if (value := getattr(asked, name)) is not None
    }
    runs.check_images(run)
    run = dataclasses.replace(run, config=settings.override(run.config, **changes))
    with runs.saved_params(run, _say) as (step, params):
        return {"workdir": str(directory), "step": step} | _evaluate(run, params, split=asked.split)


def sample(argv: Sequence[str]) -> dict[str, Any]:
    """`vae-jax sample RUN`."""
    directory, asked = parse_on_run("sample", Sample, argv)
    require_positive(count=asked.count)
    if not 0 <= asked.seed < 2**32:
        raise InputError(f"--seed: {asked.seed} given, must be at least 0 and less than 2^32")
    import jax
    import numpy as np

    from vae_jax import drawing, figures, runs

    run = runs.open_run(directory)
    to = _folder_for(asked, run)
    with runs.saved_params(run, _say) as (step, params):
        codes = drawing.prior_codes(run, params, jax.random.key(asked.seed), asked.count)
        images = drawing.decode_images(run, params, codes)
    figure, array = to / "figures" / "samples.png", to / "samples.npy"
    figures.samples(figure, images)
    pixels = np.rint(images * 255).astype(np.uint8)
    storage.write_file(array, lambda file: np.save(file, pixels, allow_pickle=False))
    return {"workdir": str(directory), "step": step, "figure": str(figure), "images": str(array)}


def reconstruct(argv: Sequence[str]) -> dict[str, Any]:
    """`vae-jax reconstruct RUN`."""
    directory, asked = parse_on_run("reconstruct", Reconstruct, argv)
    from vae_jax import drawing

    return _draw_from_images(directory, asked, "count", 30, drawing.draw_reconstructions)


def interpolate(argv: Sequence[str]) -> dict[str, Any]:
    """`vae-jax interpolate RUN`."""
    directory, asked = parse_on_run("interpolate", Interpolate, argv)
    if asked.frames < 2:
        raise InputError(f"--frames: {asked.frames} given, must be 2 or more: both ends are among them")
    from vae_jax import drawing

    draw = functools.partial(drawing.draw_interpolations, frames=asked.frames)
    return _draw_from_images(directory, asked, "pairs", 8, draw, images_of_each=2)


def encode(argv: Sequence[str]) -> dict[str, Any]:
    """`vae-jax encode RUN`."""
    directory, asked = parse_on_run("encode", Encode, argv)
    import numpy as np

    from vae_jax import drawing, runs

    run = runs.open_run(directory)
    to = _folder_for(asked, run)
    runs.check_images(run)
    images = run.images(asked.split)
    with runs.saved_params(run, _say) as (step, params):
        codes = drawing.encode_images(run, params, runs.evaluation_key(run, asked.split), images)
    path = to / f"codes-{asked.split}.npz"
    storage.write_file(path, lambda file: np.savez(file, mean=codes["mean"], scale=codes["scale"]))
    return {"workdir": str(directory), "step": step, "codes": str(path), "num_examples": len(images)}


def export(argv: Sequence[str]) -> dict[str, Any]:
    """`vae-jax export RUN`."""
    directory, asked = parse_on_run("export", Export, argv)
    import jax

    from vae_jax import exporting, runs

    run = runs.open_run(directory)
    to = _folder_for(asked, run) / "exported"
    with runs.saved_params(run, _say) as (step, params):
        programs = exporting.export_programs(params, model=run.model)
    written = {}
    for name, program in programs.items():
        path, content = to / f"{name}.jax", program.serialize()
        storage.write_file(path, lambda file, content=content: file.write(content))
        gives = jax.tree.unflatten(program.out_tree, map(str, program.out_avals))
        written[name] = {"file": path.name, "takes": str(program.in_avals[0]), "gives": gives}
    result = {"step": step, "binarization": run.config.data.binarization, "platforms": exporting.PLATFORMS}
    storage.write_json(to / "programs.json", result | {"programs": written})
    return {"workdir": str(directory), "exported": str(to)} | result | {"programs": written}


def data(argv: Sequence[str]) -> dict[str, Any]:
    """`vae-jax data list` and `vae-jax data prepare NAME [--from DIR]`."""
    import argparse

    from vae_jax import data as library

    class Parser(argparse.ArgumentParser):
        def error(self, message: str) -> None:
            raise InputError(message)

    parser = Parser(prog="vae-jax data", description="List data sets, or prepare one on disk without TensorFlow.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="{list,prepare}")
    for name, text in (("list", "the data sets at hand"), ("prepare", "prepare a data set")):
        command = commands.add_parser(name, help=text, description=text)
        command.add_argument("--data-dir", help="where data sets are; $TFDS_DATA_DIR or ~/tensorflow_datasets")
    command.add_argument("name", help="mnist; or digits, moons, moons_gap, moons_full_half, which first use makes too")
    command.add_argument("--from", dest="source", metavar="DIR", help="take the official archives from DIR")
    asked = parser.parse_args(argv)
    if asked.command == "prepare":
        return library.prepare(asked.name, source=asked.source, data_dir=asked.data_dir)
    found = library.available(asked.data_dir)
    for entry in found:
        _say("  ".join(f"{name} {value}" for name, value in entry.items()))
    return {"datasets": found}


def _folder_for(asked: Any, run: Any) -> Path:
    """Where a command on a run writes, which is tried before anything is computed."""
    folder = run.directory if asked.to is None else Path(asked.to)
    storage.check_writable(folder, "--to")
    return folder


def _draw_from_images(
    directory: Path, asked: Any, flag: str, usual: int, draw: Callable[..., Path], *, images_of_each: int = 1
) -> dict[str, Any]:
    """Draws the first images of a split: `images_of_each` for each of --FLAG, or of the `usual` number, or of all."""
    from vae_jax import runs

    given = getattr(asked, flag)
    wanted = usual if given is None else given
    require_positive(**{flag: wanted})
    run = runs.open_run(directory)
    to = _folder_for(asked, run)
    runs.check_images(run)
    images, split = run.images(asked.split), asked.split
    most = len(images) // images_of_each
    count = min(wanted, most) if given is None else wanted
    if not 0 < count <= most:
        raise InputError(
            f"--{flag}: {wanted} given, must be at most {most}: the split {split} has {len(images)} image(s)"
        )
    with runs.saved_params(run, _say) as (step, params):
        key, shown = runs.evaluation_key(run, split), images[: count * images_of_each]
        path = draw(dataclasses.replace(run, directory=to), params, shown, key=key)
    return {"workdir": str(directory), "step": step, "figure": str(path)}


def _evaluate(run: Any, params: Any, *, split: str, stop: Callable[[], bool] = lambda: False) -> dict[str, Any]:
    from vae_jax import judging

    start = last = time.perf_counter()

    def say(done: int, total: int) -> None:
        nonlocal last
        if time.perf_counter() - last > 10:
            last = time.perf_counter()
            left = (last - start) / done * (total - done)
            _say(f"NLL: {done} of {total} images, {left:.0f} s left")

    result = judging.evaluate(run, params, split=split, say=say, stop=stop)
    for reason in dict.fromkeys(result["undefined"].values()):
        names = ", ".join(name for name, why in result["undefined"].items() if why == reason)
        _say(f"no {names}: {reason}")
    return result | {"evaluation_seconds": round(time.perf_counter() - start, 2)}


def _describe(run: Any, num_images: int) -> str:
    import jax

    shapes = jax.eval_shape(run.initial_state, run.key).params
    count = sum(leaf.size for leaf in jax.tree.leaves(shapes))
    height, width, channels = run.image_shape
    return (
        f"{run.config.data.name}: {num_images} images of {height}x{width}x{channels}; "
        f"{run.config.model.network} with {count:,} parameters and {run.config.model.latent_dim} latents; "
        f"{run.config.objective.name}; {run.mesh.size} {jax.devices()[0].device_kind} device(s); {run.directory}"
    )


def _use_compilation_cache(folder: str | None) -> None:
    """Lets JAX keep compiled programs, so that the next start of the same program need not compile it."""
    if folder is None or folder == "None":
        return
    import jax

    jax.config.update("jax_compilation_cache_dir", os.path.expanduser(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)


def _say(line: str) -> None:
    if processes.is_first():
        print(line, file=sys.stderr, flush=True)
