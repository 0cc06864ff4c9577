"""`vae-jax encode RUN`: the codes of a split."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from vae_jax.cli.messages import log
from vae_jax.cli.output import output_folder
from vae_jax.cli.parsing import OutputOptions, parse_run_command
from vae_jax.runtime import atomic_files

HELP = (("encode RUN", "the codes of a split, as an .npz file"),)


@dataclasses.dataclass(frozen=True)
class Encode(OutputOptions):
    """Write the posterior's mean and standard deviation of every image of a split: codes-SPLIT.npz."""

    split: str = "test"
    """train, validation or test."""


def run(argv: Sequence[str]) -> dict[str, Any]:
    """Write the codes of a split; return the file's path."""
    directory, options = parse_run_command("encode", Encode, argv)
    import numpy as np

    from vae_jax.runs import check_images, encode_images, evaluation_key, open_run, restored_params

    opened = open_run(directory)
    folder = output_folder(options, opened)
    check_images(opened)
    images = opened.images(options.split)
    with restored_params(opened, log) as (step, params):
        codes = encode_images(opened, params, evaluation_key(opened, options.split), images)
    path = folder / f"codes-{options.split}.npz"
    atomic_files.write_file(path, lambda file: np.savez(file, mean=codes["mean"], scale=codes["scale"]))
    return {"workdir": str(directory), "step": step, "codes": str(path), "num_examples": len(images)}
