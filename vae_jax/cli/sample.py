"""`vae-jax sample RUN`: images decoded from codes drawn from the prior."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from vae_jax.cli.messages import log
from vae_jax.cli.output import output_folder
from vae_jax.cli.parsing import OutputOptions, parse_run_command, require_positive
from vae_jax.errors import InputError
from vae_jax.runtime import atomic_files

HELP = (("sample RUN", "images from the prior"),)


@dataclasses.dataclass(frozen=True)
class Sample(OutputOptions):
    """Decode codes drawn from the prior: figures/samples.png and samples.npy."""

    count: int = 100
    """Number of images."""
    seed: int = 0
    """Seed of the codes."""


def run(argv: Sequence[str]) -> dict[str, Any]:
    """Write samples of a run; return their paths."""
    directory, options = parse_run_command("sample", Sample, argv)
    require_positive(count=options.count)
    if not 0 <= options.seed < 2**32:
        raise InputError(f"--seed={options.seed} must be at least 0 and less than 2^32")
    import jax
    import numpy as np

    from vae_jax.runs import decode_images, image_grids, open_run, restored_params, sample_prior

    opened = open_run(directory)
    folder = output_folder(options, opened)
    with restored_params(opened, log) as (step, params):
        codes = sample_prior(opened, params, jax.random.key(options.seed), options.count)
        images = decode_images(opened, params, codes)
    figure, array = folder / "figures" / "samples.png", folder / "samples.npy"
    image_grids.save_samples(figure, images)
    pixels = np.rint(images * 255).astype(np.uint8)
    atomic_files.write_file(array, lambda file: np.save(file, pixels, allow_pickle=False))
    return {"workdir": str(directory), "step": step, "figure": str(figure), "images": str(array)}
