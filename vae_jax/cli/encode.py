"""`vae-jax encode RUN`: the codes of a split."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from vae_jax.cli.commands import register_command
from vae_jax.cli.messages import log
from vae_jax.cli.output import open_for_examples, output_folder, read_examples
from vae_jax.cli.parsing import ExampleOptions, parse_run_command
from vae_jax.runtime import atomic_files


@dataclasses.dataclass(frozen=True)
class Encode(ExampleOptions):
    """Write codes-SPLIT.npz with an entry for each example: mean and scale of the posterior, and index in the data.

    `file_name` is its path in a folder of images, `label` its label if there is one, and `split` its split in `all`.
    Integer codes are `codes`, which `sample --codes` decodes, in place of mean and scale.
    """


@register_command("encode", "the codes of a split, as an .npz file", arguments="RUN", order=90)
def run(argv: Sequence[str]) -> dict[str, Any]:
    """Write the codes of a split; return the file's path."""
    directory, options = parse_run_command("encode", Encode, argv)
    import numpy as np

    from vae_jax.runs import encode_examples, identify_examples, restored_params

    run = open_for_examples(directory, options)
    folder = output_folder(options, run.directory)
    experiment, _, placement, changed = run
    dataset, key = read_examples(run, options), experiment.evaluation_key(options.chosen_split)
    with restored_params(experiment, run.directory, placement, log, changed=changed) as (step, params):
        codes = encode_examples(experiment, params, key, dataset.arrays, placement, with_seen=False)
    path = folder.path / f"codes-{options.label}.npz"
    is_integer = np.issubdtype(codes["mean"].dtype, np.integer)
    found = {"codes": codes["mean"]} if is_integer else {"mean": codes["mean"], "scale": codes["scale"]}
    arrays = found | identify_examples(dataset)
    atomic_files.write_file(path, lambda file: np.savez(file, allow_pickle=False, **arrays))
    return {"workdir": str(directory), "step": step, "codes": str(path), "num_examples": len(dataset)}
