"""`vae-jax sample RUN`: examples decoded from codes drawn from the prior, or from a fitted one."""

import dataclasses
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from vae_jax.cli.commands import register_command
from vae_jax.cli.conditions import condition_variant, repeat_condition
from vae_jax.cli.messages import log
from vae_jax.cli.output import output_folder
from vae_jax.cli.parsing import OutputOptions, parse_run_command, require_positive
from vae_jax.errors import InputError
from vae_jax.runtime import atomic_files

if TYPE_CHECKING:
    import numpy as np
    from jax import Array

    from vae_jax.inference import Params
    from vae_jax.runs import Experiment, OpenedRun, RunDirectory
    from vae_jax.runtime import Placement

_MAX_TEMPERATURE = 100.0
_DEFAULT_COUNT = 100
_MAX_SHOWN = 100  # decoded codes in a figure
_FILES = {"y": "labels", "c": "conditions"}


@dataclasses.dataclass(frozen=True)
class Sample(OutputOptions):
    """Decode codes drawn from the prior: samples.npy and a figure.

    Images are the means of p(x|z), in figures/samples.png. Counts and vectors are samples of x; the figure compares
    them with the data. Samples of a model that reads labels are equally many of each class, in the order of labels.npy;
    their figure is figures/samples_by_class.png. Those of a model that reads vectors have the conditions of the test
    examples, in the order of conditions.npy. With --prior fitted, --temperature, --condition or --codes the names of
    the files end with this, for example samples-fitted.npy and figures/samples-fitted.png.
    """

    count: int | None = None
    """Number of examples; default: 100."""
    prior: Literal["model", "fitted"] = "model"
    """The density of the codes: p(z) of the model, or the one that `vae-jax fit-prior RUN` has fitted."""
    seed: int | None = None
    """Seed of the codes; default: 0."""
    temperature: float = 1.0
    """Factor of the standard deviations of p(z): of its normal distributions, of the components of a mixture, of the
    noise of a flow."""
    condition: str | None = None
    """What all samples are given: a class, numbers such as 0.3,1.2, or none; default: each class in turn, or the
    conditions of the test examples."""
    codes: Path | None = None
    """A file of `vae-jax encode`, of which all codes are decoded in place of codes from the prior."""

    @property
    def chosen_count(self) -> int:
        """The number of examples, or the default one."""
        return _DEFAULT_COUNT if self.count is None else self.count

    @property
    def variant(self) -> str:
        """The end of the names of files: the options that change the distribution of the samples, or the codes."""
        prior = "fitted" if self.prior == "fitted" else ""
        temperature = "" if self.temperature == 1 else f"temperature-{self.temperature:g}"
        codes = "" if self.codes is None else self.codes.stem
        return "-".join(filter(None, (prior, temperature, condition_variant(self.condition), codes)))


@register_command("sample", "examples from the prior", arguments="RUN", order=60)
def run(argv: Sequence[str]) -> dict[str, Any]:
    """Write samples of a run; return their paths."""
    directory, options = parse_run_command("sample", Sample, argv)
    require_positive(count=options.chosen_count)
    seed = options.seed or 0
    if not 0 <= seed < 2**32:
        raise InputError(f"--seed={seed} must be at least 0 and less than 2^32")
    if not 0 < options.temperature <= _MAX_TEMPERATURE:
        raise InputError(f"--temperature={options.temperature} must be greater than 0 and at most {_MAX_TEMPERATURE}")
    import jax
    import numpy as np

    from vae_jax.runs import open_run, read_fitted_prior, restored_params

    run = open_run(directory)
    experiment, _, placement, changed = run
    conditions = _conditions(run, options)
    given = None if options.codes is None else _read_codes(experiment, options)
    folder, key = output_folder(options, run.directory, options.variant), jax.random.key(seed)
    sample = _sample_images if experiment.kind == "images" else _sample_numbers
    with restored_params(experiment, run.directory, placement, log, changed=changed) as (step, params):
        if options.prior == "fitted":
            fitted = read_fitted_prior(run.directory, experiment, params, step=step)
            experiment, params = fitted.replace_prior(experiment, params)
        if given is not None:
            samples, figures = _decode(experiment, params, given, placement, folder)
        else:
            samples, figures = sample(run._replace(experiment=experiment), params, key, options, conditions, folder)
    arrays = {"samples": samples} | {_FILES[name]: array for name, array in conditions.items()}
    ending = options.variant and f"-{options.variant}"
    paths = {name: folder.path / f"{name}{ending}.npy" for name in arrays}
    for name, array in arrays.items():
        atomic_files.write_file(paths[name], lambda file, array=array: np.save(file, array, allow_pickle=False))
    described = {"workdir": str(directory), "step": step, "prior": options.prior}
    written = {name: str(path) for name, path in paths.items()}
    return described | written | {"figures": [str(path) for path in figures]}


def _conditions(run: "OpenedRun", options: Sample) -> "dict[str, np.ndarray]":
    """Return what the samples are given: labels {"y": int32 [N]}, vectors {"c": float32 [N, C]}, or nothing.

    Raises:
      InputError: see `repeat_condition`; or no condition is known.
    """
    import numpy as np

    from vae_jax.distributions import label_mask
    from vae_jax.runs import check_data, condition_dim, num_classes, spread_classes

    experiment, count = run.experiment, options.chosen_count
    if options.condition is not None:
        return repeat_condition(experiment, options.condition, count)
    if (classes := num_classes(experiment.model)) is not None:
        return {"y": spread_classes(count, classes)}
    if condition_dim(experiment.model) is None:
        return {}
    check_data(run)
    arrays = experiment.dataset("test").arrays
    known = label_mask(arrays)
    conditions = arrays["c"] if known is None else arrays["c"][known]
    if not len(conditions):
        raise InputError("no test example has a known condition; use --condition")
    return {"c": conditions[np.arange(count) % len(conditions)]}


def _read_codes(experiment: "Experiment", options: Sample) -> "np.ndarray":
    """Return the codes of a file of `encode`, or the means of its posteriors, [N, D].

    Raises:
      InputError: another option has no effect, or the file has no codes.
    """
    import numpy as np

    from vae_jax.runs import condition_dim, num_classes

    sampling = options.prior != "model" or options.temperature != 1
    if sampling or options.count is not None or options.seed is not None:
        raise InputError("--prior, --temperature, --count and --seed have no effect with --codes; remove them")
    if num_classes(experiment.model) is not None or condition_dim(experiment.model) is not None:
        raise InputError("--codes needs a model that reads no labels; use `vae-jax sample RUN` with --condition")
    try:
        with np.load(str(options.codes), allow_pickle=False) as arrays:
            return arrays["codes"] if "codes" in arrays else arrays["mean"]
    except (OSError, ValueError, KeyError, EOFError, TypeError, AttributeError, zipfile.BadZipFile) as error:
        raise InputError(f"--codes={options.codes} is no file of `vae-jax encode` ({error})") from None


def _decode(
    experiment: "Experiment", params: "Params", codes: "np.ndarray", placement: "Placement", folder: "RunDirectory"
) -> "tuple[np.ndarray, list[Path]]":
    """Return the means of p(x|z) of codes, of images uint8 with a figure; raise InputError for other codes."""
    import numpy as np

    from vae_jax.runs import code_grid, decode_codes, image_grids, layer_shapes

    size = sum(layer.size for layer in layer_shapes(experiment, params).values())
    grid, is_integer = code_grid(experiment, params), np.issubdtype(codes.dtype, np.integer)
    if codes.ndim != 2 or not len(codes) or codes.shape[1] != size or is_integer != (grid is not None):
        kind = "floats" if grid is None else "integers"
        raise InputError(
            f"--codes has {codes.dtype} of shape {list(codes.shape)}; use the codes of this model, {kind} [N, {size}]"
        )
    if grid is not None and not (codes.min() >= 0 and codes.max() < grid.num_codes):
        raise InputError(f"--codes has numbers from {codes.min()} to {codes.max()}; the codes of this model are 0 to "
                         f"{grid.num_codes - 1}")  # fmt: skip
    x = decode_codes(experiment, params, codes, placement)
    if experiment.kind != "images":
        return x, []
    figure, shown = folder.figure("decoded_codes"), x[:_MAX_SHOWN]
    image_grids.save_samples(figure, shown, title="Decoded codes")
    return np.rint(x * 255).astype(np.uint8), [figure]


def _sample_images(
    run: "OpenedRun",
    params: "Params",
    key: "Array",
    options: Sample,
    conditions: "dict[str, np.ndarray]",
    folder: "RunDirectory",
) -> "tuple[np.ndarray, list[Path]]":
    """Return means of p(x|z), uint8 [N, H, W, C], and their figure."""
    import numpy as np

    from vae_jax.runs import image_grids, sample_means

    count, temperature = options.chosen_count, options.temperature
    images = sample_means(
        run.experiment, params, key, count, run.placement, conditions=conditions, temperature=temperature
    )
    if "y" not in conditions or options.condition is not None:
        figure = folder.figure("samples")
        image_grids.save_samples(figure, images)
    else:
        figure = folder.figure("samples_by_class")
        image_grids.save_samples_by_class(figure, images, conditions["y"])
    return np.rint(images * 255).astype(np.uint8), [figure]


def _sample_numbers(
    run: "OpenedRun",
    params: "Params",
    key: "Array",
    options: Sample,
    conditions: "dict[str, np.ndarray]",
    folder: "RunDirectory",
) -> "tuple[np.ndarray, list[Path]]":
    """Return samples of x [N, *shape], and figures that compare others with the test examples, or those of the class.

    The samples are int64 if they are counts, else float32, as the model reads them.
    """
    import numpy as np

    from vae_jax.distributions import label_mask
    from vae_jax.runs import check_data, plots, sample_examples

    check_data(run)
    experiment, placement, temperature = run.experiment, run.placement, options.temperature
    samples = sample_examples(
        experiment, params, key, options.chosen_count, placement, conditions=conditions, temperature=temperature
    )
    arrays = experiment.dataset("test").arrays
    if "y" in conditions and options.condition is not None:
        chosen, known = arrays["y"] == conditions["y"][0], label_mask(arrays)
        chosen = chosen if known is None else chosen & known
        arrays = {name: array[chosen] for name, array in arrays.items()}
    shown, figures = len(arrays["x"]), []
    given = None if options.condition is None else repeat_condition(experiment, options.condition, shown)
    if shown:
        figures = plots.plot_kind(
            experiment, params, folder, arrays, placement, key=key, conditions=given, temperature=temperature
        )
    counts = getattr(experiment.preprocess, "values", "") == "counts"
    return samples.astype(np.int64) if counts else samples, figures
