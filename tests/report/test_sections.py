"""vae_jax/report/sections.py: what each section shows, what is undefined and why, and that every text is escaped."""

import base64
import json
import re

import numpy as np
import pytest
from report_runs import ENVIRONMENT, EVALUATION, write_run
from scripts import ROOT

from vae_jax.report import read_contents, sections


def plain(html):
    """Return the text of HTML, its parts separated by one space."""
    return " ".join(re.sub(r"<[^>]*>", " ", html).split())


def test_the_headline_is_the_nll_with_its_error_and_its_number_of_samples():
    shown = plain(sections.headline(EVALUATION, {}))
    assert shown.startswith(
        "Negative log-likelihood, −log p(x) 22.12 ± 0.19 nats per example, ± standard error "
        "importance sampling, K = 5,000 · 40 test examples"
    )
    for part in ("ELBO −22.50 ± 0.25 nats", "Active units 6", "median 480.5 of 5,000 samples", "0.510 of the NLL",
                 "median 0.55 above 0.7 for 25% of the examples"):  # fmt: skip
        assert part in shown


def test_without_an_nll_the_headline_is_the_next_number_and_the_reason_is_stated():
    some = {
        name: v
        for name, v in EVALUATION.items()
        if name not in ("nll", "nll_se", "ess", "num_samples") and "pareto" not in name
    }
    assert "one posterior sample · 40 test examples" in plain(sections.headline(some, {}))
    point = {name: v for name, v in some.items() if not name.startswith(("elbo", "kl", "bits"))}
    point |= {"undefined": {"elbo": "a point has no density", "nll": "a point has no density"}}
    point |= {"warnings": ["likelihood=<b> is a density"]}
    shown = sections.headline(point, {})
    assert plain(shown).startswith("Reconstruction, E log p(x|z) −18.00 ± 0.20")
    assert "Undefined: elbo, nll. A point has no density." in shown
    assert '<p class="note warning">Likelihood=&lt;b&gt; is a density.</p>' in shown


def test_annealed_importance_sampling_is_shown_with_its_error():
    ais = {"num_distributions": 1000, "start": "encoder", "num_chains": 16, "num_examples": 30, "split": "test",
           "nll": 21.5, "nll_se": 0.25, "monte_carlo_se": 0.0125, "acceptance": 0.64}  # fmt: skip
    bounds = {"lower": -22.0, "upper": -21.75, "gap": 0.25, "gap_se": 0.125, "num_examples": 100}
    both = EVALUATION | {"ais": [ais | {"num_distributions": 100}, ais | {"bdmc": bounds}]}
    assert (
        "annealed importance sampling 21.50 ± 0.25 nats per example, ± standard error "
        "1,000 distributions from the encoder, 16 chains · 30 test examples · BDMC gap 0.25"
    ) in plain(sections.headline(both, {}))
    of_train = ais | {"split": "train", "num_examples": 900, "nll": 1.5}
    assert "21.50" in plain(sections.headline(both | {"ais": [*both["ais"], of_train]}, {}))
    nll = np.arange(40.0)
    assert "same examples: 14.50" in plain(sections.headline(both, {"nll": nll}))
    assert "same examples" not in sections.headline(both, {"nll": nll[:30]})  # the first number is that of them
    shown = plain(sections.annealed(both))
    assert (
        "100 from the encoder, 16 chains 30 test 21.50 ± 0.25 0.013 0.64 not computed not computed not computed"
        in shown
    )
    assert "0.64 −22.00 −21.75 0.250 ± 0.125" in shown
    assert sections.annealed(EVALUATION) == ""


def test_the_gap_between_nll_and_elbo_is_shown_in_its_parts():
    parts = {"elbo": -25.0, "optimized_elbo": -23.0, "nll": 22.5, "approximation_gap": 0.5, "amortization_gap": 2.0}
    found = parts | {f"{name}_se": 0.25 for name in parts} | {"split": "test", "num_examples": 1000}
    shown = plain(sections.inference_gap({"optimized": [found | {"num_steps": 500, "evaluation_samples": 1000}]}))
    assert "500 steps, K = 1,000 1,000 test −25.00 ± 0.25 −23.00 ± 0.25 22.50 ± 0.25 0.50 ± 0.25 2.00 ± 0.25" in shown
    assert sections.inference_gap(EVALUATION) == ""


def test_figures_are_in_the_file_in_order(tmp_path):
    directory = write_run(tmp_path / "run", figures=("curves", "mine", "reconstructions", "samples"))
    directory.figure("broken").write_text("no PNG")
    html = sections.figures(read_contents(directory).figures)
    assert re.findall(r"<b>([^<]*)</b>", html) == ["Samples", "Reconstructions", "Mine"]  # curves are drawn as SVG
    sources = re.findall(r'src="data:image/png;base64,([^"]*)"', html)
    assert base64.b64decode(sources[0]) == directory.figure("samples").read_bytes()
    assert 'width="6" height="4"' in html
    assert sections.figures([]) == ""


def test_the_caption_of_a_figure_of_other_things_states_them(tmp_path):
    names = ("samples-fitted-temperature-0.8-condition--0.3,1e-05", "samples", "reconstructions-new-all")
    directory = write_run(tmp_path / "run", figures=names)
    html = sections.figures(read_contents(directory).figures)
    own = "Decoded codes that are drawn from the prior"
    assert re.findall(r'alt="([^"]*)"', html) == [
        own, f"{own}. Here: fitted temperature 0.8 condition -0.3,1e-05",
        "Test examples, each with its reconstruction. Here: new all",
    ]  # fmt: skip


def test_every_figure_of_a_run_has_a_caption():
    source = "".join(path.read_text() for path in (ROOT / "vae_jax" / "runs" / "figures").glob("*.py"))
    saved = set(re.findall(r"^def save_(\w+)\(", source, re.MULTILINE))
    no_figures_of_a_run = {"figure", "png", "curves", "rate_distortion", "comparison"}
    assert saved - no_figures_of_a_run <= set(sections.FIGURES)
    assert set(sections.FIGURES) - saved == {
        "codebook", "decoded_codes", "uniform_samples", "transfer",
    }  # fmt: skip  # saved by another name


def test_curves_are_those_of_the_metrics(tmp_path):
    html = sections.curves(read_contents(write_run(tmp_path / "run")).rows)
    assert html.count("<svg") == 2
    assert "training<b>−25</b>" in re.sub("</?(i|span)[^>]*>", "", html)
    assert "validation<b>−26</b>" in re.sub("</?(i|span)[^>]*>", "", html)
    assert sections.curves([]) == ""


def test_the_protocol(tmp_path):
    shown = plain(sections.protocol(EVALUATION))
    for part in (
        "test, 40 examples, each once",
        "dynamic-binarization",
        "step 20",
        f"SHA-256 {'b' * 16}…",
        "K = 5,000",
    ):
        assert part in shown
    assert sections.protocol({}) == ""


def test_settings_that_differ_from_the_preset_are_marked(tmp_path):
    directory = write_run(tmp_path / "run", settings={"network__hidden": (32, 16), "seed": 4})
    content = json.loads(directory.config.read_text())
    content["changes"] = [{"step": 7, "setting": "train.steps", "from": 5, "to": 9}]
    directory.config.write_text(json.dumps(content))
    run = read_contents(directory)
    html = sections.settings(run)
    assert re.findall("<mark>([^<]*)</mark>", html) == ["32, 16", "4"]
    assert "step 7 train.steps 5 9" in plain(html)
    assert "gives other numbers" in sections.repeat(run)
    assert "--network.hidden 32 16 --seed 4" in plain(sections.repeat(run))
    assert "runs/run-again" in sections.repeat(run)


def test_a_run_of_a_script_has_no_command(tmp_path):
    directory = write_run(tmp_path / "run")
    content = json.loads(directory.config.read_text()) | {
        "has_config": False,
        "settings": {"model": "<Mine>", "seed": 0},
    }
    directory.config.write_text(json.dumps(content))
    run = read_contents(directory)
    assert "&lt;Mine&gt;" in sections.settings(run)
    assert "Run the script" in sections.repeat(run)
    assert run.summary == "data of a script, images · step 20"


def test_data_and_environment(tmp_path):
    run = read_contents(write_run(tmp_path / "run"))
    assert "images, 8×8×1 uint8 Training examples 1,294 Test examples 40" in plain(sections.data(run))
    shown = plain(sections.environment(run))
    for part in ("0 to 20 in 12 s", "1 × cpu, 1 process(es)", "A processor, 2 cores", "jax 0.10.2", "Python 3.11.2"):
        assert part in shown
    stopped = {name: value for name, value in ENVIRONMENT.items() if name not in ("last_step", "seconds")}
    assert " in 12 s" not in sections.environment(run._replace(environment=stopped))
    assert "were not recorded" in sections.environment(run._replace(environment={}))


@pytest.mark.fault
def test_a_figure_that_disappears_is_skipped(tmp_path):
    assert sections.picture(tmp_path / "absent.png", "caption") == ""
