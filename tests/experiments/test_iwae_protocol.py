"""experiments/iwae_protocol.py: the settings are the published ones."""

import numpy as np
import pytest
from scripts import load

from vae_jax.training.optimizers import AdamConfig, StagedConfig, make_schedule


@pytest.fixture
def script():
    return load("iwae_protocol")


def test_the_full_schedule_has_the_published_rate_at_both_ends_of_every_stage(script):
    config = script.config_of(script.Cell(1, 1, "vae", "full", 0.9))
    rate = make_schedule(config)
    step = 0
    for i in range(1, 9):
        length = 60_000 // 20 * 3 ** (i - 1)
        for at in (step, step + length - 1):
            np.testing.assert_allclose(rate(at), 1e-3 * 10 ** (-(i - 1) / 7), rtol=1e-6, err_msg=f"stage {i}")
        step += length
    assert config.train.steps == step == 9_840_000
    assert (config.data.holdout, config.train.patience) == (0, 0)


@pytest.mark.parametrize("schedule", ["full", "medium", "short", "quick"])
def test_every_schedule_has_the_same_stages_and_few_rows_and_saves(script, schedule):
    config = script.config_of(script.Cell(1, 1, "vae", schedule, 0.9))
    train, stages = config.train, np.diff([0, *config.schedule.milestones, config.train.steps])
    np.testing.assert_array_equal(stages[1:], 3 * stages[:-1])
    assert train.steps / train.log_every <= 3280
    assert train.steps / train.save_every <= 110


def test_the_networks_and_adam_are_the_published_ones(script):
    for column, (objective, estimator) in script.COLUMNS.items():
        for layers in script.LAYERS:
            config = script.config_of(script.Cell(layers, 50, column, "full", 0.99))
            model, network, schedule = config.model, config.network, config.schedule
            assert config.optimizer == AdamConfig(learning_rate=1e-3, b1=0.99, b2=0.999, eps=5e-6)
            assert schedule == StagedConfig(milestones=schedule.milestones, decay=10 ** (-1 / 7))
            assert (network.name, network.hidden, network.activation) == ("mlp", (200, 200), "tanh")
            assert (model.name, model.latent_dim) == (("layered" if layers == 2 else "vae"), 50)
            if layers == 2:
                assert (model.latent_layers, model.layer_hidden) == ((100,), (100, 100))
            assert config.posterior.scale_head == "log-scale"
            assert (config.objective.name, config.estimator.name) == (objective, estimator)
            assert (config.objective.num_samples, config.evaluation.num_samples) == (50, 5000)
            assert config.preprocess.name == "dynamic-binarization"


def test_with_one_sample_two_columns_share_a_training(script, tmp_path):
    def directory(column, k):
        return script.Cell(1, k, column, "full", 0.9).directory(tmp_path)

    assert directory("iwae", 1) == directory("vae", 1) != directory("stl", 1) == directory("dreg", 1)
    assert len({directory(column, 5) for column in script.COLUMNS}) == 4
