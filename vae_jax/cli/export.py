"""`vae-jax export RUN`: the encoder, the decoder and a sampler as programs that need JAX only."""

import contextlib
import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from vae_jax.cli.commands import register_command
from vae_jax.cli.messages import log
from vae_jax.cli.output import output_folder
from vae_jax.cli.parsing import OutputOptions, parse_run_command
from vae_jax.runtime import atomic_files

if TYPE_CHECKING:
    from jax.export import Exported


@dataclasses.dataclass(frozen=True)
class Export(OutputOptions):
    """Write the encoder, the decoder and a sampler as programs that contain the weights: exported/*.jax.

    They need JAX and flatbuffers, but not this package. Each accepts any number of examples, on a CPU, a GPU or a
    TPU. The encoder accepts examples with the preprocessing of the training, float32: for images in [0, 1], and
    binarized if the model was trained on binarized images. Programs of a model that reads labels receive them as a
    second argument; -1 is no label. programs.json lists inputs, outputs, the step, the kind of the data, and the
    preprocessing.
    """


@register_command(
    "export", "the encoder, the decoder and a sampler as programs for JAX without this package", arguments="RUN",
    order=100,
)  # fmt: skip
def run(argv: Sequence[str]) -> dict[str, Any]:
    """Write the programs of a run; return the shapes of their inputs and outputs."""
    directory, options = parse_run_command("export", Export, argv)
    import jax

    from vae_jax.data import KINDS
    from vae_jax.models import PLATFORMS, export_programs
    from vae_jax.runs import open_run, restored_params

    run = open_run(directory)
    folder = output_folder(options, run.directory).path / "exported"
    experiment, _, placement, changed = run
    with restored_params(experiment, run.directory, placement, log, changed=changed) as (step, params):
        value_range = KINDS[experiment.kind].value_range
        local = jax.device_get(params)  # the gradient of a program would need as many devices as its parameters are on
        programs = export_programs(local, model=experiment.model, shape=experiment.shape, value_range=value_range)
    written = {}
    for name, program in programs.items():
        path, (content, has_gradient) = folder / f"{name}.jax", _serialize(program)
        atomic_files.write_file(path, lambda file, content=content: file.write(content))
        outputs = jax.tree.unflatten(program.out_tree, map(str, program.out_avals))
        written[name] = {
            "file": path.name,
            "takes": ", ".join(map(str, program.in_avals)),
            "gives": outputs,
            "gradient": has_gradient,
        }
    settings = experiment.description()
    preprocess = {path: value for path, value in settings.items() if path.partition(".")[0] == "preprocess"}
    result = {"step": step, "kind": experiment.kind, **preprocess, "platforms": PLATFORMS}
    atomic_files.write_json(folder / "programs.json", result | {"programs": written})
    return {"workdir": str(directory), "exported": str(folder)} | result | {"programs": written}


def _serialize(program: "Exported") -> tuple[bytes, bool]:
    """Return a program as bytes, and whether it contains its gradient in its argument."""
    import jax.numpy as jnp

    if jnp.issubdtype(program.in_avals[0].dtype, jnp.inexact):
        with contextlib.suppress(Exception):  # JAX raises many kinds of errors for what it cannot differentiate
            return bytes(program.serialize(vjp_order=1)), True
    return bytes(program.serialize()), False
