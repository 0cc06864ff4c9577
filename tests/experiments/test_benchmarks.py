"""experiments/benchmarks: the scripts run, in quick form, and say what they promise to say."""

import itertools
import json
import subprocess
import sys
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scripts import EXPERIMENTS, load

from vae_jax.cli import sweep as sweep_command, train as train_command
from vae_jax.config.building import override
from vae_jax.config.presets import PRESETS
from vae_jax.config.schema import ModelConfig
from vae_jax.errors import InputError
from vae_jax.models.build import build_model
from vae_jax.runs.members import make_members

SCRIPT = EXPERIMENTS / "benchmarks" / "peers.py"


@pytest.fixture
def peers():
    return load("benchmarks/peers")


@pytest.fixture
def images(tmp_path):
    path = tmp_path / "images.npy"
    np.save(path, np.random.default_rng(0).integers(0, 256, (600, 8, 8), np.uint8))
    return path


def run(images, *rows, options=()):
    arguments = ["--quick", "--here", "--holdout", "0.3", "--data", images, *options, "--rows", *rows]
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *map(str, arguments)], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    *table, last = done.stdout.splitlines()
    result = json.loads(last)
    assert [entry["row"] for entry in result["rows"]] == list(rows)
    for row, line in zip(rows, table[-len(rows) :], strict=True):
        assert line.startswith(row)
        assert "nats" in line
    return result


def test_rows_in_jax_train_the_same_model_on_the_same_images(images):
    result = run(images, "vae_jax", "vae_jax-per-step", "flax-example", "numpyro")
    assert (result["steps"], result["rounds"]) == (3, 1)
    assert {"jax", "flax", "optax"} <= set(result["versions"]["ours"])
    ours, *others = result["rows"]
    assert "ratio" not in ours
    assert others[0]["loss"] == pytest.approx(ours["loss"], rel=1e-5)  # the same steps in other dispatches
    assert others[0]["test_elbo"] == pytest.approx(ours["test_elbo"], rel=1e-5)
    for entry in others:
        assert entry["ratio"]["median"] == pytest.approx(ours["seconds"]["median"] / entry["seconds"]["median"])
        # 64 pixels of noise, about 64 log 2 nats; the gain of the first steps is alike.
        assert entry["test_elbo"] == pytest.approx(ours["test_elbo"], abs=4)
        assert entry["loss"] == pytest.approx(ours["loss"], abs=4)


def test_the_residual_model_is_trained_in_bfloat16(images, peers):
    result = run(images, "vae_jax", options=["--model", "residual", "--precision", "bfloat16", "--overlap"])
    (entry,), task = result["rows"], result["task"]
    assert (task["network"], task["precision"], entry["seconds_to_target"]) == ("residual", "bfloat16", None)
    assert entry["test_elbo"] == pytest.approx(-48, abs=4)  # 64 pixels of noise
    train = np.load(images)[:420, ..., None]

    def loss(precision):  # of the mlp, which is sooner compiled
        makers = peers.load_trainer("ours").trainers(
            train, train, 3, task | peers.MODELS["mlp"] | {"precision": precision}
        )
        epoch, _ = makers["vae_jax"]()
        return epoch()

    assert loss("bfloat16") != pytest.approx(loss("float32"), rel=1e-6)
    assert loss("bfloat16") == pytest.approx(loss("float32"), rel=0.02)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    ("model", "rows"), [("mlp", ("torch-example", "torch-loader", "torch-plain")), ("residual", ("torch-plain",))]
)
def test_rows_in_torch_train_the_same_model_on_the_same_images(images, model, rows, precision):
    pytest.importorskip("torch")
    result = run(images, "vae_jax", *rows, options=["--model", model, "--precision", precision])
    ours, *others = result["rows"]
    for entry in others:
        assert entry["test_elbo"] == pytest.approx(ours["test_elbo"], abs=4)


def flax_params(network):
    """The weights of a residual network in PyTorch as vae_jax has them, for images of one channel."""

    def array(tensor):
        return jnp.asarray(tensor.detach().numpy())

    def dense(layer):
        return {"kernel": array(layer.weight).T, "bias": array(layer.bias)}

    def conv(layer):
        return {"kernel": array(layer.weight).transpose(2, 3, 1, 0), "bias": array(layer.bias)}

    def down(layer):  # [O, C, 2, 2] -> [2·2·C, O]
        kernel = array(layer.weight).transpose(2, 3, 1, 0)
        return {"kernel": kernel.reshape(-1, kernel.shape[-1]), "bias": array(layer.bias)}

    def up(layer):  # outputs (C, 2, 2) -> (2, 2, C)
        def turned(values):
            return values.reshape(*values.shape[:-1], -1, 4).swapaxes(-2, -1).reshape(values.shape)

        return {"kernel": turned(array(layer.weight)[:, :, 0, 0].T), "bias": turned(array(layer.bias))}

    def blocks(layers):
        return {f"ConvBlock_{i}": {"Conv_0": conv(b.first), "Conv_1": conv(b.last)} for i, b in enumerate(layers)}

    return {
        "encoder": {f"Dense_{i}": down(layer) for i, layer in enumerate(network.down)} | blocks(network.encoder_blocks),
        "posterior_mean": dense(network.mean),
        "posterior_log_variance": dense(network.log_variance),
        "decoder": {"Dense_0": dense(network.start), **blocks(network.decoder_blocks)}
        | {f"Dense_{i}": up(layer) for i, layer in enumerate(network.up, start=1)},
        "output_bias": array(network.output_bias).reshape(network.image_shape),
    }


def test_the_residual_network_in_torch_is_the_same_function(peers, monkeypatch):
    torch = pytest.importorskip("torch")
    networks = load("benchmarks/trainers/torch_networks")
    task = peers.MODELS["residual"]
    network = networks.make(task, (28, 28, 1))
    config = ModelConfig(network="residual", hidden=tuple(task["hidden"]), latent_dim=50, activation="gelu")
    model = build_model(config, (28, 28, 1))
    x = np.random.default_rng(0).uniform(size=(2, 28, 28, 1)).astype(np.float32)
    initial = jax.eval_shape(model.init, jax.random.key(0), x)["params"]
    assert jax.tree.map(jnp.shape, flax_params(network)) == jax.tree.map(jnp.shape, initial)
    assert sum(p.numel() for p in network.parameters()) == sum(p.size for p in jax.tree.leaves(initial))

    with torch.no_grad():
        for weights in network.parameters():  # none of them zero
            weights += 0.05 * torch.randn_like(weights)
    monkeypatch.setattr(networks, "sample", lambda mean, log_variance: mean + torch.exp(0.5 * log_variance))
    logits, mean, log_variance = (value.detach().numpy() for value in network(torch.from_numpy(x).flatten(1)))
    variables = {"params": flax_params(network)}
    q = model.apply(variables, x, method="encode")
    p = model.apply(variables, q.loc + jnp.exp(q.log_scale), method="decode")
    np.testing.assert_allclose(mean, q.loc, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(log_variance, 2 * q.log_scale, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(logits, p.logits.reshape(2, -1), rtol=1e-4, atol=1e-4)


def test_the_mlp_in_torch_has_as_many_parameters(peers):
    pytest.importorskip("torch")
    network = load("benchmarks/trainers/torch_networks").make(peers.MODELS["mlp"], (28, 28, 1))
    model = build_model(ModelConfig(hidden=(400,), latent_dim=20, activation="relu"), (28, 28, 1))
    initial = jax.eval_shape(model.init, jax.random.key(0), np.zeros((1, 28, 28, 1), np.float32))
    assert sum(p.numel() for p in network.parameters()) == sum(p.size for p in jax.tree.leaves(initial))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--rows", "torch-cuda-graph"], "torch-cuda-graph is there with --platform gpu only, cpu given"),
        (["--rows", "vae_jax", "numpyro", "--model", "residual"], "numpyro is there with --model mlp only"),
        (["--rows", "flax-example", "--precision", "bfloat16"], "flax-example is there with --precision float32 only"),
        (["--rows", "pythae", "--platform", "gpu", "--here"], "pythae is there with --platform cpu only, gpu given"),
        (["--platform", "gpu"], "--platform gpu needs --here"),
    ],
)
def test_what_cannot_be_is_refused_in_a_line(peers, capsys, arguments, said):
    with pytest.raises(SystemExit):
        peers.main(arguments)
    assert said in capsys.readouterr().err.splitlines()[-1]


def test_the_processes_of_a_card_share_its_memory_and_the_others_see_none(peers, tmp_path, monkeypatch):
    started = []
    monkeypatch.setattr(peers.subprocess, "Popen", lambda command, **settings: started.append((command, settings)))
    for platform in peers.PLATFORMS:
        peers.Worker(sys.executable, "ours", tmp_path, 3, {"platform": platform})
    (_, on_cpu), (command, on_gpu) = started
    assert on_cpu["env"]["JAX_PLATFORMS"] == "cpu"
    assert (on_gpu["env"]["JAX_PLATFORMS"], on_gpu["env"]["XLA_PYTHON_CLIENT_PREALLOCATE"]) == ("cuda", "false")
    assert json.loads(command[-1]) == {"platform": "gpu"}


def test_a_missing_data_set_is_said_in_words(peers, images):
    with pytest.raises(SystemExit, match=r"nowhere\.npy"):
        peers.main(["--quick", "--here", "--rows", "vae_jax", "--data", str(images.parent / "nowhere.npy")])


def test_an_environment_is_made_once_and_again_when_it_is_not_whole(peers, tmp_path, monkeypatch):
    calls = []

    def fake(command, **settings):
        calls.append(command)
        if "venv" in command:
            (tmp_path / "pytorch").mkdir(exist_ok=True)

    monkeypatch.setattr(peers.subprocess, "run", fake)
    python = peers.environment_python("pytorch", tmp_path)
    assert python == str(tmp_path / "pytorch" / "bin" / "python")
    venv, install = calls
    assert "venv" in venv
    assert install[:4] == [python, "-m", "pip", "install"]
    assert set(peers.load_trainer("pytorch").REQUIREMENTS) <= set(install)
    peers.environment_python("pytorch", tmp_path)
    assert len(calls) == 2
    (tmp_path / "pytorch" / "requirements.txt").write_text("torch==1.0")
    peers.environment_python("pytorch", tmp_path)
    assert len(calls) == 4
    assert peers.environment_python("ours", tmp_path) == sys.executable


class Scripted:
    """A worker whose epochs take these seconds, and whose test ELBO rises by 10 nats with each."""

    def __init__(self, *seconds):
        self.seconds, self.done = seconds, 0

    def ask(self, what, row):
        if what == "test":
            return {"elbo": -130.0 + 10 * self.done}
        self.done += 1
        return {"seconds": self.seconds[self.done - 1], "loss": 9.0 - self.done}


def test_ratios_are_taken_round_by_round_and_the_first_epoch_counts_for_the_target(peers):
    workers = {"vae_jax": Scripted(5.0, 1.0, 2.0, 1.0), "torch-plain": Scripted(3.0, 2.0, 4.0, 4.0)}
    found = peers.measure(workers, list(workers), warmup=1, rounds=3, target=-110.0)
    ours, other = peers.summarise(found)
    assert ours == {"row": "vae_jax", "seconds": {"median": 1.0, "min": 1.0, "max": 2.0}, "loss": 5.0,
                    "test_elbo": -90.0, "seconds_to_target": 6.0}  # fmt: skip
    assert other["seconds"] == {"median": 4.0, "min": 2.0, "max": 4.0}
    assert other["ratio"] == {"median": 0.5, "min": 0.25, "max": 0.5}
    assert other["seconds_to_target"] == 5.0


def test_without_a_target_first_epochs_run_side_by_side(peers, capsys):
    meeting = threading.Barrier(2, timeout=60)

    class Meeting(Scripted):
        def ask(self, what, row):
            if what == "epoch" and not self.done:
                meeting.wait()
            return super().ask(what, row)

    one, other = Meeting(5.0, 1.0, 2.0, 1.0, 2.0, 3.0), Meeting(3.0, 2.0, 4.0)
    workers = {"vae_jax": one, "vae_jax-per-step": one, "torch-plain": other}
    found = peers.measure(workers, list(workers), warmup=1, rounds=2, target=None)
    assert [[epoch["seconds"] for epoch in this["epochs"]] for this in found.values()] == [[2.0, 2.0], [1.0, 3.0],
                                                                                           [2.0, 4.0]]  # fmt: skip
    table = peers.summarise(found)
    assert all(entry["seconds_to_target"] is None for entry in table)
    peers.show(table, {}, rounds=2, target=None)
    assert "not yet" not in capsys.readouterr().out


def test_a_target_that_is_not_reached_is_said(peers, capsys):
    workers = {"vae_jax": Scripted(5.0, 1.0)}
    table = peers.summarise(peers.measure(workers, ["vae_jax"], warmup=1, rounds=1, target=-1.0))
    assert table[0]["seconds_to_target"] is None
    peers.show(table, {}, rounds=1, target=-1.0)
    assert "not yet" in capsys.readouterr().out


def test_a_row_that_fails_is_left_out_and_the_others_go_on(peers, capsys):
    class Failing:
        def ask(self, what, row):
            return {"error": "no compiler"}

    workers = {"vae_jax": Scripted(1.0, 1.0, 1.0), "torch-compiled": Failing()}
    found = peers.measure(workers, list(workers), warmup=1, rounds=2, target=0.0)
    assert {row: len(this["epochs"]) for row, this in found.items()} == {"vae_jax": 2}
    assert "torch-compiled: left out (no compiler)" in capsys.readouterr().err


class TestSteps:
    def test_each_row_is_the_program_with_what_it_names_undone(self, data_dir, capsys):
        script = load("benchmarks/steps")
        rows = ["as it is", "all three"]
        result = script.main(["--quick", "--rows", *rows, "--data-dir", data_dir])
        assert [row["row"] for row in result["rows"]] == rows
        assert all(row["steps_per_second"] > 0 for row in result["rows"])
        assert json.loads(capsys.readouterr().out.splitlines()[-1]) == result

    def test_ratios_are_of_processor_time_round_by_round(self):
        found = {"as it is": [(9.0, 1.0), (9.0, 2.0), (3.0, 4.0)], "SGD": [(1.0, 2.0), (2.0, 1.0), (3.0, 1.0)]}
        own, other = load("benchmarks/steps").summarise(found, steps=18)
        assert own == {"row": "as it is", "steps_per_second": 2, "steps_per_cpu_second": 9, "ratio": 1}
        assert other["ratio"] == 0.5


class TestLikelihood:
    @pytest.fixture
    def script(self):
        return load("benchmarks/likelihood")

    def test_the_quick_form(self, script, data_dir, capsys):
        script.main(["--quick", "--images", "30", "--data-dir", data_dir])
        *table, last = capsys.readouterr().out.splitlines()
        result = json.loads(last)
        # digits: 64-256-128, two heads of 6, and 6-128-256-64
        once, each = 64 * 256 + 256 * 128 + 2 * 128 * 6, 6 * 128 + 128 * 256 + 256 * 64
        assert result["operations_per_image"] == 2 * (once + 20 * each)
        assert [row["row"] for row in result["rows"]] == ["matrix", "products", "evaluation"]
        assert len(table) == 4
        for row in result["rows"]:
            share = row["flops"]["median"] / result["rows"][0]["flops"]["median"]
            assert row["share"]["median"] == pytest.approx(share)

    def test_the_operations_of_the_mnist_preset_are_those_counted_by_hand(self, script):
        widths = {"encoder": (784, 200, 200), "posterior_mean": (200, 50), "posterior_log_variance": (200, 50),
                  "decoder": (50, 200, 200, 784)}  # fmt: skip
        params = {
            name: {f"layer_{i}": {"kernel": np.zeros(shape), "bias": np.zeros(shape[1])}
                   for i, shape in enumerate(itertools.pairwise(sizes))}
            for name, sizes in widths.items()
        } | {"output_bias": np.zeros((28, 28, 1))}  # fmt: skip
        assert script.operations(params, 5000) == 2 * 216_800 + 5000 * 2 * 206_800
        assert [kernel.shape for kernel in script.kernels(params, encoder=False)] == [(50, 200), (200, 200), (200, 784)]

    def test_memory_is_that_of_a_process_for_each_number_of_samples(self, script, monkeypatch, capsys):
        asked = []

        def child(argv):
            asked.append(argv)
            return {"num_samples": int(argv[-1]), "peak_bytes": 10 * 2**20 + int(argv[-1]), "seconds": 1.0}

        monkeypatch.setattr(script, "in_child", child)
        script.main(["--quick", "--memory"])
        *lines, last = capsys.readouterr().out.splitlines()
        assert asked == [["--quick", "--memory", "--peak", "20"], ["--quick", "--memory", "--peak", "200"]]
        assert len(lines) == 2
        assert json.loads(last)["ratio"] == pytest.approx((10 * 2**20 + 200) / (10 * 2**20 + 20))

    def test_a_network_whose_operations_are_not_those_of_its_kernels_is_refused(self, script, tmp_path):
        config = override(PRESETS["digits"], model__latent_layers=(4,))
        with pytest.raises(InputError, match="one stochastic layer"):
            script.check_countable(config)


class TestSweep:
    def test_both_sides_train_the_same_models(self, tmp_path):
        script = load("benchmarks/sweep")
        found = script.commands(tmp_path, (0.5, 2.0), (0, 1, 2), ["--train.steps", "7"])
        (sweep,) = found["sweep"]
        asked, config, varied = sweep_command.parse_arguments(sweep[1:])
        runs_alone = [train_command.parse_arguments(line[1:]) for line in found["train"]]
        assert [member.config for member in make_members(config, varied)] == [alone for _, alone in runs_alone]
        assert len({alone.workdir for alone, _ in runs_alone} | {asked.workdir}) == 7
        assert {alone.compilation_cache for alone, _ in runs_alone} != {asked.compilation_cache}
        assert config.train.steps == 7

    def test_the_ratio_is_that_of_whole_commands(self):
        def done(seconds):
            return {"seconds": seconds, "result": {"train_seconds": 1.0}}

        found = {"sweep": [done(6.0)], "train": [done(9.0), done(2.0), done(1.0)]}
        table = load("benchmarks/sweep").summarise(found, models=3)
        assert table["ratio"] == 0.5
        assert table["train"] == {"commands": 3, "seconds": 12.0, "train_seconds": 3.0}
        # Two more, each as the median of those after the first.
        table = load("benchmarks/sweep").summarise(found, models=5)
        assert table["train"] == {"commands": 3, "seconds": 15.0, "train_seconds": 5.0}
        assert table["ratio"] == 0.4


def test_streaming_is_measured_beside_memory(data_dir, tmp_path):
    script = load("benchmarks/streaming")
    dots = np.zeros((2, 9, 9, 1), np.uint8)
    dots[:, 4, 4] = [[1], [2]]
    found = list(script.moved(dots, 300, seed=0))
    places = {tuple(np.argwhere(image)[0][:2] - 4) for image in found}
    assert places == {(down, right) for down in range(-3, 4) for right in range(-3, 4)}
    assert [image.sum() for image in found] == [1, 2] * 150

    asked = ["--quick", "--folder", tmp_path, "--data-dir", data_dir, "--rows", "memory", "streamed"]
    result = script.main(list(map(str, asked)))
    made = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.array_record*")}
    script.make(tmp_path, "digits", 2000, 100, data_dir=data_dir)  # which is there
    assert made == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.array_record*")} != {}
    held, streamed = result["rows"]
    assert (held["row"], streamed["row"], result["bytes"]) == ("memory", "streamed", 2000 * 64)
    assert held["speed"]["median"] == 1
    assert streamed["speed"]["median"] == pytest.approx(streamed["steps_per_second"] / held["steps_per_second"])


def test_a_training_under_a_limit_on_memory_is_told_apart(data_dir, tmp_path):
    limited = load("benchmarks/streaming").limited
    argv = ["--data.data-dir", data_dir, "--train.batch-size", "9999999", "--compilation-cache", "None"]
    found = limited(2**34, argv)
    assert (found["code"], found["result"]) == (2, None)
    assert "train.batch_size: 9999999 given" in found["said"]
    assert limited(2**25, argv)["code"] not in (0, 2)  # too little to import what it needs


def test_the_products_of_a_step_and_the_options_of_the_compiler(data_dir, capsys):
    script = load("benchmarks/compiler")
    script.OPTIONS = {"as it is": {}, "none": {"xla_cpu_no_such_option": True}}
    result = script.main(["--quick", "--data-dir", data_dir])
    assert [row["option"] for row in result["options"]] == ["as it is"]
    assert result["options"][0]["ratio"] == 1
    assert "xla_cpu_no_such_option" in result["left_out"]["none"]
    # 64-8-(2 means, 2 scales) and 2-8-64, batches of 128: forwards, and back to all but the image.
    forwards = 64 * 8 + 8 * 4 + 2 * 8 + 8 * 64
    assert sum(p["operations"] for p in result["products"]) == 2 * 128 * (3 * forwards - 64 * 8)
    assert "all products of a step" in capsys.readouterr().out


def test_the_start_of_a_training_is_measured(data_dir, capsys):
    found = load("benchmarks/startup").main(["--starts", "1", "--presets", "digits", "--data-dir", data_dir])
    assert list(found) == ["--help", "imports", "of others", "digits, cold", "digits, warm"]
    assert all(len(seconds) == 1 and seconds[0] > 0 for seconds in found.values())
    with pytest.raises(SystemExit, match="--preset: nothing given"):
        load("benchmarks/startup").to_first_step(["--preset", "nothing"], data_dir)
    capsys.readouterr()
