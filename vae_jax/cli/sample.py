"""`vae-jax sample RUN`: examples decoded from codes drawn from the prior, or from a fitted one."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from vae_jax.cli.commands import register_command
from vae_jax.cli.messages import log
from vae_jax.cli.output import output_folder
from vae_jax.cli.parsing import OutputOptions, parse_run_command, require_positive
from vae_jax.errors import InputError
from vae_jax.runtime import atomic_files

if TYPE_CHECKING:
    import numpy as np
    from jax import Array

    from vae_jax.inference import Params
    from vae_jax.runs import Experiment
    from vae_jax.runtime import Placement

_MAX_TEMPERATURE = 100.0


@dataclasses.dataclass(frozen=True)
class Sample(OutputOptions):
    """Decode codes drawn from the prior: samples.npy and a figure.

    Images are the means of p(x|z), in figures/samples.png. Counts and vectors are samples of x; the figure compares
    them with the data.
    """

    count: int = 100
    """Number of examples."""
    prior: Literal["model", "fitted"] = "model"
    """The density of the codes: p(z) of the model, or the one that `vae-jax fit-prior RUN` has fitted."""
    seed: int = 0
    """Seed of the codes."""
    temperature: float = 1.0
    """Factor of the standard deviations of p(z): of its normal distributions, of the components of a mixture, of the
    noise of a flow."""


@register_command("sample", "examples from the prior", arguments="RUN", order=60)
def run(argv: Sequence[str]) -> dict[str, Any]:
    """Write samples of a run; return their paths."""
    directory, options = parse_run_command("sample", Sample, argv)
    require_positive(count=options.count)
    if not 0 <= options.seed < 2**32:
        raise InputError(f"--seed={options.seed} must be at least 0 and less than 2^32")
    if not 0 < options.temperature <= _MAX_TEMPERATURE:
        raise InputError(f"--temperature={options.temperature} must be greater than 0 and at most {_MAX_TEMPERATURE}")
    import jax
    import numpy as np

    from vae_jax.runs import check_data, open_run, plots, read_fitted_prior, restored_params, sample_prior

    run = open_run(directory)
    experiment, _, placement, changed = run
    folder, key, figures = output_folder(options, run.directory), jax.random.key(options.seed), []
    if experiment.kind != "images":  # their figure compares the samples with the data
        check_data(run)
    with restored_params(experiment, run.directory, placement, log, changed=changed) as (step, params):
        if options.prior == "fitted":
            fitted = read_fitted_prior(run.directory, experiment, params, step=step)
            experiment, params = fitted.replace_prior(experiment, params)
        if experiment.kind == "images":
            codes = sample_prior(experiment, params, key, options.count, placement, temperature=options.temperature)
            samples = _decode_images(experiment, params, codes, placement, folder.figure("samples"))
            figures.append(folder.figure("samples"))
        else:
            samples = _sample_numbers(experiment, params, key, options, placement)
            arrays, temperature = experiment.dataset("test").arrays, options.temperature
            figures += plots.plot_kind(experiment, params, folder, arrays, placement, key=key, temperature=temperature)
    path = folder.path / "samples.npy"
    atomic_files.write_file(path, lambda file: np.save(file, samples, allow_pickle=False))
    described = {"workdir": str(directory), "step": step, "prior": options.prior}
    return described | {"samples": str(path), "figures": [str(path) for path in figures]}


def _decode_images(
    experiment: "Experiment", params: "Params", codes: "np.ndarray", placement: "Placement", figure: Path
) -> "np.ndarray":
    """Return means of p(x|z), uint8 [N, H, W, C], and save them as a figure."""
    import numpy as np

    from vae_jax.runs import decode_codes, image_grids

    images = decode_codes(experiment, params, codes, placement)
    image_grids.save_samples(figure, images)
    return np.rint(images * 255).astype(np.uint8)


def _sample_numbers(
    experiment: "Experiment", params: "Params", key: "Array", options: Sample, placement: "Placement"
) -> "np.ndarray":
    """Return samples of x [N, *shape]: int64 if they are counts, else float32, as the model reads them."""
    import numpy as np

    from vae_jax.runs import sample_examples

    samples = sample_examples(experiment, params, key, options.count, placement, temperature=options.temperature)
    return samples.astype(np.int64) if getattr(experiment.preprocess, "values", "") == "counts" else samples
