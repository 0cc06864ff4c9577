"""The sections of the report of one run: results first, then curves, figures, protocol, settings, environment."""

import base64
import re
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vae_jax.config import SECTIONS
from vae_jax.report.charts import line_chart
from vae_jax.report.command import changed_settings, nearest_preset, training_command
from vae_jax.report.contents import RunContents
from vae_jax.report.markup import definitions, element, escape, note, number, section, table, with_error
from vae_jax.runs import metric_panels
from vae_jax.runtime import atomic_files

CARDS = {  # metric: (title, digits, unit)
    "elbo": ("ELBO", 2, "nats"),
    "reconstruction": ("Reconstruction, E log p(x|z)", 2, "nats"),
    "kl": ("KL(q(z|x) ‖ p(z))", 2, "nats"),
    "bits_per_dim": ("Bits per dimension", 3, ""),
    "squared_error": ("Squared error", 3, "per example"),
    "psnr": ("PSNR", 2, "dB"),
    "explained_variance": ("Explained variance", 3, ""),
    "log_squared_error": ("Squared error of log(1 + n)", 3, "per example"),
    "active_units": ("Active units", 0, ""),
    "ess": ("Effective sample size, median", 1, ""),
    "pareto_k": ("Pareto k̂ of the weights, median", 2, ""),
    "nll_unlabelled": ("−log p(x), summed over the labels", 2, "nats"),
    "classifier_error": ("Classification error of q(y|x)", 4, "of the examples"),
    "generative_error": ("Classification error of p(y|x)", 4, "of the examples"),
    "code_perplexity": ("Perplexity of the codes", 1, ""),
    "code_usage": ("Share of the codes that occur", 3, ""),
    "bits_per_code": ("Bits per code", 2, ""),
}
FIGURES = {  # name: what the figure shows, in the order of the report
    "samples": "Decoded codes that are drawn from the prior",
    "samples_by_class": "Samples of each class, a row each",
    "decoded_codes": "The codes of a file, decoded",
    "uniform_samples": "Decoded codes with equal probabilities",
    "reconstructions": "Test examples, each with its reconstruction",
    "top_layers": "Test images decoded from their top layers, a row for each number of these; the rest is drawn",
    "draws": "Test images, each with images that have the same top layers and other draws of the layers below",
    "transfer": "Test examples, and their codes decoded under another condition",
    "styles": "A test example, and its code decoded with the label of each class",
    "interpolations": "Images decoded between the codes of two test images",
    "traversals": "One latent varied from −3 to 3, the others fixed; the latents that vary most",
    "manifold": "The plane of two latents, decoded",
    "layers": "KL and active units of each stochastic layer, from the top",
    "code_usage": "How often each code is used",
    "codebook": "Codes at all places, decoded, the most frequent first",
    "reliability": "How often the most probable class is the label, by its probability",
    "marginals": "Marginal distributions: data, reconstructions and samples",
    "pairs": "Pairs of variables: data, reconstructions and samples",
    "mean_variance": "Means against variances of the counts",
    "zero_fractions": "Fractions of zeros of the counts",
    "latent_map": "Codes of the test examples, coloured by label",
    "prior_map": "The density of the prior, and the codes of the test examples",
}
WIDE = 1.55  # ratio of width to height from which on a figure has a row for itself
_PNG = b"\x89PNG\r\n\x1a\n"


def headline(evaluation: Mapping[str, Any], scores: Mapping[str, np.ndarray]) -> str:
    """Return the most important number with its error and its protocol, and cards with the other numbers.

    Args:
      evaluation: evaluation.json.
      scores: {name: [N]}, its scores of each example; {} if they are unknown.
    """
    examples = f"{evaluation['num_examples']:,} {evaluation['split']} examples"
    if "nll" in evaluation:
        samples = f"importance sampling, K = {evaluation['num_samples']:,}"
        big = [_big("Negative log-likelihood, −log p(x)", evaluation, "nll", f"{samples} · {examples}")]
    else:
        name = "elbo" if "elbo" in evaluation else "reconstruction"
        big = [_big(CARDS[name][0], evaluation, name, f"one posterior sample · {examples}")]
    if annealed := evaluation.get("ais"):
        same, sizes = evaluation["split"], ("num_examples", "num_distributions")
        found = max(annealed, key=lambda entry: (entry["split"] == same, *(entry[size] for size in sizes)))
        big.append(_big_annealed(found, evaluation, scores))
    cards = [_card(name, evaluation) for name in CARDS if name in evaluation]
    return element("div", *big, class_="hero") + element("div", *cards, class_="cards") + _remarks(evaluation)


def not_evaluated(run: RunContents) -> str:
    """Return why a run has no evaluation, in place of the headline."""
    return note(f"This run has no evaluation. {run.why_not_evaluated}")


def _big(title: str, values: Mapping[str, Any], name: str, protocol: str) -> str:
    label = element("div", escape(title), class_="label")
    unit = element("div", "nats per example, ± standard error", class_="unit")
    stated = element("div", escape(protocol), class_="protocol")
    return element("div", label, _value(values, name, 2), unit, stated, class_="big")


def _big_annealed(found: Mapping[str, Any], evaluation: Mapping[str, Any], scores: Mapping[str, np.ndarray]) -> str:
    """Return the estimate by annealed importance sampling, next to importance sampling of the same examples."""
    path = f"{found['num_distributions']:,} distributions from the {found['start']}, {found['num_chains']} chains"
    examples = f"{found['num_examples']:,} {found['split']} examples"
    bounds = f" · BDMC gap {number(found['bdmc']['gap'])}" if "bdmc" in found else ""
    protocol = f"{path} · {examples}{bounds}"
    if "nll" in scores and found["split"] == evaluation["split"] and len(scores["nll"]) > found["num_examples"]:
        mean = float(scores["nll"][: found["num_examples"]].mean())
        protocol += f" · importance sampling of the same examples: {number(mean)}"
    return _big("−log p(x) by annealed importance sampling", found, "nll", protocol)


def _card(name: str, values: Mapping[str, Any]) -> str:
    title, digits, unit = CARDS[name]
    if name == "bits_per_dim":
        unit = f"of the {values['bits_per_dim_of'].upper()}"
    if name == "ess":
        unit = f"of {values['num_samples']:,} samples"
    if name == "pareto_k":
        unit = f"above 0.7 for {values['pareto_k_above']:.0%} of the examples"
    label, below = element("div", escape(title), class_="label"), element("div", escape(unit), class_="unit")
    return element("div", label, _value(values, name, digits), below, class_="card")


def _value(values: Mapping[str, Any], name: str, digits: int) -> str:
    """Return a number with its standard error, if it has one."""
    error = values.get(f"{name}_se")
    shown = "" if error is None else element("span", f" ± {number(error, digits)}", class_="error")
    return element("div", number(values[name], digits), shown, class_="value")


def _remarks(evaluation: Mapping[str, Any]) -> str:
    """Return the warnings, and which metrics are undefined and why."""
    reasons: dict[str, list[str]] = {}
    for name, reason in evaluation.get("undefined", {}).items():
        reasons.setdefault(reason, []).append(name)
    undefined = [note(f"Undefined: {', '.join(names)}. {_sentence(why)}") for why, names in reasons.items()]
    return "".join(note(_sentence(text), "warning") for text in evaluation.get("warnings", ())) + "".join(undefined)


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:].rstrip('.')}." if text else ""


def curves(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the section of the metrics against the step."""
    charts = [
        line_chart(panel.series, title=panel.title, unit=panel.unit, limits=panel.limits, log=panel.scale == "log")
        for panel in metric_panels(rows)
    ]
    return section("Training", element("div", *charts, class_="charts") if charts else "")


def figures(paths: Sequence[Path]) -> str:
    """Return the section of the figures, those of `FIGURES` first; the metrics are the section before it."""
    order = {name: place for place, name in enumerate(FIGURES)}
    shown = sorted(paths, key=lambda path: (order.get(_words(path)[0], len(order)), path.stem))
    pictures = [picture(path, caption(path)) for path in shown if path.stem != "curves"]
    return section("Figures", element("div", *pictures, class_="pictures") if pictures else "")


def caption(path: Path) -> str:
    """Return what a figure shows; its name ends with a hyphen and the variant, see `RunDirectory`."""
    base, variant = _words(path)
    text = FIGURES.get(base, base.replace("_", " "))
    return f"{text}. Here: {variant}" if variant else text


def _words(path: Path) -> tuple[str, str]:
    base, _, variant = path.stem.partition("-")
    return base, re.sub(r"(?<=\w)(?<!\de)-", " ", variant)  # the minus of a number remains


def picture(path: Path, caption: str) -> str:
    """Return a figure that contains the bytes of a PNG file; "" if it is none."""
    try:
        content = atomic_files.read_file(path)
    except OSError:
        return ""
    if not content.startswith(_PNG) or len(content) < 24:
        return ""
    width, height = struct.unpack(">II", content[16:24])
    source = "data:image/png;base64," + base64.b64encode(content).decode()
    image = element("img", src=source, alt=caption, width=width, height=height)
    title = element("figcaption", element("b", escape(path.stem.replace("_", " ").capitalize())), escape(f" {caption}"))
    return element("figure", title, image, class_="picture wide" if width > WIDE * height else "picture")


def protocol(evaluation: Mapping[str, Any]) -> str:
    """Return the section that states how the numbers of the evaluation are computed."""
    if not evaluation:
        return ""
    rows = {
        "Split": f"{evaluation['split']}, {evaluation['num_examples']:,} examples, each once",
        "Input of the model": evaluation.get("preprocess"),
        "Likelihood p(x|z)": evaluation.get("likelihood"),
        "Weights": f"step {evaluation['step']:,}" if "step" in evaluation else None,
        "Seed of the draws": evaluation.get("seed"),
        "Checksum of the training examples": _short(evaluation.get("training_examples")),
        "Checksum of the test examples": _short(evaluation.get("test_examples")),
    }
    if "nll" in evaluation:
        rows["NLL"] = (
            f"−log 1/K Σ p(x|z) p(z) / q(z|x) with K = {evaluation['num_samples']:,} samples of q(z|x): an upper bound "
            "on −log p(x) in expectation, which falls as K grows"
        )
    rows["Errors"] = "standard errors of the mean over the examples; another seed of the training is not part of them"
    return section("Evaluation protocol", definitions({n: value for n, value in rows.items() if value is not None}))


def annealed(evaluation: Mapping[str, Any]) -> str:
    """Return the section of the estimates by annealed importance sampling, with the bounds of their error."""
    header = (
        "Path",
        "Examples",
        "NLL ± standard error",
        "Monte Carlo error",
        "Acceptance",
        "BDMC lower",
        "upper",
        "gap",
    )
    rows = []
    for found in evaluation.get("ais", ()):
        bounds = found.get("bdmc")
        cells = [f"{found['num_distributions']:,} from the {found['start']}, {found['num_chains']} chains"]
        cells += [f"{found['num_examples']:,} {found['split']}", with_error(found["nll"], found["nll_se"])]
        error = found["monte_carlo_se"]
        cells += ["undefined" if error is None else number(error, 3), number(found["acceptance"])]
        cells += ["not computed"] * 3 if bounds is None else [number(bounds["lower"]), number(bounds["upper"])]
        cells += [] if bounds is None else [with_error(bounds["gap"], bounds["gap_se"], 3)]
        rows.append(cells)
    text = (
        "Nats per example. The estimate is an upper bound on −log p(x) in expectation. Lower and upper are bounds on "
        "log p(x) of examples that the model has simulated, and the gap is their mean difference, which bounds the "
        "error of the estimate. The Monte Carlo error is that of the finite number of chains."
    )
    return _results("Annealed importance sampling", header, rows, text)


def inference_gap(evaluation: Mapping[str, Any]) -> str:
    """Return the section of the gap between −log p(x) and the ELBO, in its two parts."""
    rows = []
    for found in evaluation.get("optimized", ()):
        names = ("elbo", "optimized_elbo", "nll", "approximation_gap", "amortization_gap")
        settings = f"{found['num_steps']:,} steps, K = {found['evaluation_samples']:,}"
        values = [with_error(found[name], found[f"{name}_se"]) for name in names]
        rows.append([settings, f"{found['num_examples']:,} {found['split']}", *values])
    header = ("Optimization", "Examples", "ELBO of q", "ELBO of q*", "NLL from q*", "Approximation", "Amortization")
    text = (
        "Nats per example, ± standard error. q is the posterior of the encoder, and q* a Gaussian that is optimized "
        "for each example. Approximation = −NLL − ELBO of q*: a Gaussian is not the posterior. Amortization = ELBO of "
        "q* − ELBO of q: the encoder does not find the best Gaussian."
    )
    return _results("Gap between NLL and ELBO", header, rows, text)


def _results(title: str, header: Sequence[str], rows: Sequence[Sequence[str]], text: str) -> str:
    """Return a section with a table of results and an explanation; empty without results."""
    shown = table(tuple(map(escape, header)), rows, class_="results") + element("p", escape(text), class_="hint")
    return section(title, shown) if rows else ""


def _short(checksum: str | None) -> str | None:
    return None if checksum is None else f"SHA-256 {checksum[:16]}…"


def settings(contents: RunContents) -> str:
    """Return the section of all settings; those that differ from the nearest preset are marked."""
    stored, flat = contents.stored, contents.stored.settings
    if not stored.has_config:
        text = note("The experiment was made by a script, not from settings; these describe it.")
        return section("Settings", text, definitions(flat))
    preset = nearest_preset(flat)
    changed = changed_settings(flat, preset)
    groups: dict[str, list[tuple[str, str]]] = {}
    for path, value in flat.items():
        group, _, field = path.partition(".")
        mark = element("mark", escape(_text(value))) if path in changed else escape(_text(value))
        groups.setdefault(group, []).append((escape(field or ("name" if path in SECTIONS else path)), mark))
    cards = [
        element("div", element("h3", escape(name)), table((), rows, class_="pairs"), class_="group")
        for name, rows in groups.items()
    ]
    legend = element("p", f"Marked: different from the preset <code>{escape(preset)}</code>.", class_="hint")
    return section("Settings", legend, element("div", *cards, class_="groups"), _changes(contents))


def _text(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _changes(contents: RunContents) -> str:
    """Return a table of the settings that a resumed run has changed."""
    rows = [
        (
            f"step {change['step']:,}",
            escape(change["setting"]),
            escape(_text(change["from"])),
            escape(_text(change["to"])),
        )
        for change in contents.stored.changes
    ]
    if not rows:
        return ""
    header = tuple(map(escape, ("Changed at", "Setting", "From", "To")))
    return element("h3", "Changes when the run was resumed") + table(header, rows)


def data(contents: RunContents) -> str:
    """Return the section of the data: kind, numbers and shapes."""
    described, held_out = contents.stored.data, contents.stored.held_out
    shape = "×".join(map(str, described["arrays"]["x"]["shape"]))
    rows = {
        "Data set": contents.stored.settings.get("data.name"),
        "Kind": f"{described['kind']}, {shape} {described['arrays']['x']['dtype']}",
        "Training examples": f"{described['num_examples']:,}",
        **{f"{split.capitalize()} examples": f"{found['num_examples']:,}" for split, found in held_out.items()},
    }
    return section("Data", definitions({name: value for name, value in rows.items() if value is not None}))


def environment(contents: RunContents) -> str:
    """Return the section of versions and devices of the training."""
    found = contents.environment
    if not found:
        return section("Environment", note("environment.json is missing: the versions were not recorded."))
    rows = {
        "Started": found.get("started"),
        "Steps of the last start": _steps_of(found),
        "Devices": f"{found.get('num_devices')} × {found.get('device')}, {found.get('num_processes')} process(es)",
        "Processor": f"{found.get('processor')}, {found.get('cores')} cores for this process",
        "Platform": f"{found.get('platform')}, Python {found.get('python')}",
        **found.get("versions", {}),
    }
    return section("Environment", definitions({name: value for name, value in rows.items() if value is not None}))


def _steps_of(found: Mapping[str, Any]) -> str | None:
    if "seconds" not in found:
        return None
    return f"{found['first_step']:,} to {found['last_step']:,} in {found['seconds']:,.0f} s, compilation included"


def repeat(contents: RunContents) -> str:
    """Return the section with the command that trains the same model again."""
    if not contents.stored.has_config:
        return section("Repeat it", note("Run the script that trained this model."))
    command = training_command(contents.stored.settings, f"runs/{contents.name}-again")
    text = "The same versions, devices and data give the same numbers."
    if contents.stored.changes:
        text = "Settings were changed when the run was resumed, so this command gives other numbers."
    return section("Repeat it", element("pre", element("code", escape(command))), element("p", text, class_="hint"))
