"""Members of a sweep: the product of the varied settings, and the groups that share one program."""

import pytest

from vae_jax.config import override
from vae_jax.errors import InputError
from vae_jax.runs import group_members, make_members
from vae_jax.runs.members import group_by_step, make_points

VARIED = {"objective.beta": [0.5, 2.0], "seed": [0, 1]}


def test_members_are_the_product_and_are_validated(sweep_config):
    members = make_members(sweep_config, VARIED)
    assert [m.name for m in members] == [f"objective.beta={b},seed={s}" for b in (0.5, 2.0) for s in (0, 1)]
    settings = [(m.config.objective.beta, m.config.seed) for m in members]
    assert settings == [(0.5, 0), (0.5, 1), (2.0, 0), (2.0, 1)]
    with pytest.raises(InputError, match=r"^objective\.beta=-1\.0 must be "):
        make_members(sweep_config, {"objective.beta": [-1.0]})
    with pytest.raises(InputError, match=r"^--vary contains a value twice"):
        make_members(sweep_config, {"seed": [1, 1]})
    with pytest.raises(InputError, match=r"^train\.patience=1 does not work in a sweep"):
        make_members(override(sweep_config, train__patience=1), {"seed": [1]})
    for fsdp, varied in ((2, {"seed": [1]}), (1, {"mesh.fsdp": [1, 2]})):
        with pytest.raises(InputError, match=r"^mesh\.fsdp=.* does not work in a sweep"):
            make_members(override(sweep_config, mesh__fsdp=fsdp), varied)


def test_points_are_the_product_whose_last_setting_varies_fastest():
    points = make_points({"a": (1, 2), "b": (3, 4)})
    assert points == [{"a": 1, "b": 3}, {"a": 1, "b": 4}, {"a": 2, "b": 3}, {"a": 2, "b": 4}]


def test_the_name_of_a_member_quotes_separators(sweep_config):
    (member,) = make_members(sweep_config, {"data.name": ["../a,b=c.npz"]})
    assert member.name == "data.name=..%2Fa%2Cb%3Dc.npz"


def test_a_change_of_a_shape_a_branch_or_the_data_is_another_program(sweep_config):
    def sizes(base, varied):
        return [len(group) for group in group_members(make_members(base, varied))]

    assert sizes(sweep_config, VARIED) == [4]
    assert sizes(sweep_config, {"optimizer.learning_rate": [1e-3, 1e-2], "seed": [0, 1]}) == [4]
    assert sizes(sweep_config, {"model.latent_dim": [2, 3], "seed": [0, 1, 2]}) == [3, 3]
    assert sizes(sweep_config, {"optimizer.clip_norm": [0.0, 1.0]}) == [1, 1]
    static = override(sweep_config, preprocess="static-binarization", likelihood="bernoulli")
    assert sizes(static, VARIED) == [2, 2]  # the seed also decides the binarized images


def test_started_members_are_grouped_by_a_step_that_all_of_a_group_have_saved():
    steps = {"a": [5, 10], "b": [30, 40], "c": [10, 15], "d": [15], "e": [40]}
    assert group_by_step([*steps], lambda name: steps[name]) == [["a", "c"], ["b", "e"], ["d"]]
