"""`vae-jax encode RUN`: the codes of a split."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from vae_jax.cli.commands import register_command
from vae_jax.cli.messages import log
from vae_jax.cli.output import output_folder
from vae_jax.cli.parsing import OutputOptions, parse_run_command
from vae_jax.runtime import atomic_files


@dataclasses.dataclass(frozen=True)
class Encode(OutputOptions):
    """Write codes-SPLIT.npz: posterior means, standard deviations, and labels if there are any, of all examples."""

    split: str = "test"
    """train, validation or test."""


@register_command("encode", "the codes of a split, as an .npz file", arguments="RUN", order=90)
def run(argv: Sequence[str]) -> dict[str, Any]:
    """Write the codes of a split; return the file's path."""
    directory, options = parse_run_command("encode", Encode, argv)
    import numpy as np

    from vae_jax.runs import check_data, encode_examples, open_run, restored_params

    run = open_run(directory)
    folder = output_folder(options, run.directory)
    check_data(run)
    experiment, _, placement, changed = run
    arrays, key = experiment.dataset(options.split).arrays, experiment.evaluation_key(options.split)
    with restored_params(experiment, run.directory, placement, log, changed=changed) as (step, params):
        codes = encode_examples(experiment, params, key, arrays, placement)
    labels = {"label": arrays["y"]} if "y" in arrays else {}
    path = folder.path / f"codes-{options.split}.npz"
    atomic_files.write_file(
        path,
        lambda file: np.savez(file, allow_pickle=False, mean=codes["mean"], scale=codes["scale"], **labels),
    )
    return {"workdir": str(directory), "step": step, "codes": str(path), "num_examples": len(arrays["x"])}
