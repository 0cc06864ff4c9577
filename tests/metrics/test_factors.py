"""vae_jax/metrics/factors.py: each metric for codes of known quality, and against loops and scikit-learn."""

import itertools

import numpy as np
import pytest

from vae_jax.metrics import (
    attribute_predictability,
    dci,
    disentanglement_completeness,
    factor_metrics,
    factor_vae_score,
    mutual_information,
    mutual_information_gap,
)

FACTORS = np.array(list(itertools.product(range(3), range(4), range(5))) * 20)[
    np.random.default_rng(0).permutation(1200)
]
NOISE = np.random.default_rng(1).normal(size=(1200, 2))
PERFECT = np.concatenate([FACTORS * [1.0, -2.0, 0.5], NOISE], axis=1)  # a latent for each factor, and two others
ROTATED = PERFECT @ np.linalg.qr(np.random.default_rng(2).normal(size=(5, 5)))[0]


def test_mutual_information_is_that_of_a_loop_over_all_pairs_of_values():
    found = mutual_information(ROTATED, FACTORS, bins=6)
    for d, f in itertools.product(range(5), range(3)):
        edges = np.linspace(ROTATED[:, d].min(), ROTATED[:, d].max(), 7)
        binned = np.clip(np.digitize(ROTATED[:, d], edges) - 1, 0, 5)
        expected = 0.0
        for b, v in itertools.product(range(6), np.unique(FACTORS[:, f])):
            joint = np.mean((binned == b) & (FACTORS[:, f] == v))
            if joint:
                expected += joint * np.log(joint / (np.mean(binned == b) * np.mean(FACTORS[:, f] == v)))
        assert found[d, f] == pytest.approx(expected, abs=1e-12)


def test_mutual_information_of_discrete_codes_is_that_of_scikit_learn():
    from sklearn.metrics import mutual_info_score

    codes = FACTORS[:, :2] + FACTORS[:, 1:]  # few values: each has a bin
    found = mutual_information(codes.astype(float), FACTORS)
    expected = [[mutual_info_score(c, v) for v in FACTORS.T] for c in codes.T]
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_a_latent_for_each_factor_has_a_gap_of_1_and_none_if_each_factor_has_two():
    exact = np.concatenate([FACTORS, np.zeros((1200, 1))], axis=1).astype(float)  # with a latent that is constant
    assert mutual_information_gap(exact, FACTORS) == pytest.approx(1, abs=1e-12)
    assert mutual_information_gap(np.repeat(exact, 2, axis=1), FACTORS) == pytest.approx(0, abs=1e-12)
    # One of three factors has a second latent that contains all of it.
    two = np.concatenate([exact, exact[:, :1]], axis=1)
    assert mutual_information_gap(two, FACTORS) == pytest.approx(2 / 3, abs=1e-12)


def test_predictability_is_the_gap_of_determination_coefficients():
    from sklearn.linear_model import LinearRegression

    def determination(inputs, outputs):
        return LinearRegression().fit(inputs, outputs).score(inputs, outputs)

    scores = np.empty((5, 3))
    for d, f in itertools.product(range(5), range(3)):
        scores[d, f] = determination(ROTATED[:, [d]], FACTORS[:, f])
        if f == 0:
            scores[d, f] = determination(np.eye(3)[FACTORS[:, 0]], ROTATED[:, d])
    ordered = np.sort(scores, axis=0)
    found = attribute_predictability(ROTATED, FACTORS, categories=[0])
    assert found == pytest.approx(np.mean(ordered[-1] - ordered[-2]), rel=1e-9)
    assert found != attribute_predictability(ROTATED, FACTORS)


def test_predictability_of_a_category_whose_numbers_have_no_order():
    shapes = np.array([1, 0, 2])[FACTORS[:, :1]]  # the code has another order than the numbers of the category
    codes = np.concatenate([(FACTORS[:, :1] == 1) * 1.0, np.zeros((1200, 1))], axis=1)  # 1 for one of three
    assert attribute_predictability(codes, shapes, categories=[0]) == pytest.approx(1)
    assert attribute_predictability(codes, shapes) == pytest.approx(0.75)


def test_a_constant_latent_predicts_nothing_whatever_its_number():
    found = []
    for constant in (0.0, 0.1):  # the computed variance of 0.1 is above 0
        codes = np.concatenate([ROTATED, np.full((1200, 1), constant)], axis=1)
        found.append(attribute_predictability(codes, FACTORS, categories=[0]))
    assert found[0] == found[1]


def test_disentanglement_and_completeness_of_known_importances():
    assert disentanglement_completeness(np.eye(3)) == pytest.approx((1, 1))
    assert disentanglement_completeness(np.ones((4, 3))) == pytest.approx((0, 0))
    # Two latents for each factor: each latent has one factor, but a factor has half of 4 latents.
    assert disentanglement_completeness(np.repeat(np.eye(2), 2, axis=0)) == pytest.approx((1, 0.5))
    # A latent without importance has no weight; the first row has 3 of 4 parts of the sum.
    importance = np.array([[3.0, 0], [0.5, 0.5], [0, 0]])
    assert disentanglement_completeness(importance)[0] == pytest.approx(0.75)


@pytest.mark.parametrize("shape", [(1, 3), (3, 1)])
def test_importances_of_one_latent_or_one_factor_are_refused(shape):
    with pytest.raises(ValueError, match=r"^importance has shape \[\d, \d\]; pass 2 or more latents and factors$"):
        disentanglement_completeness(np.ones(shape))


def test_dci_of_separate_and_of_rotated_codes():
    separate, rotated = dci(PERFECT, FACTORS, trees=5), dci(ROTATED, FACTORS, trees=5)
    assert separate == pytest.approx((1, 1, 1), abs=1e-3)
    assert max(rotated[:2]) < 0.5
    assert 0.3 < rotated.informativeness < 0.9


def test_the_score_of_votes_for_separate_and_for_rotated_codes():
    assert factor_vae_score(PERFECT, FACTORS, num_votes=100) == 1
    assert factor_vae_score(ROTATED, FACTORS, num_votes=100) < 0.75
    assert factor_vae_score(PERFECT / 100, FACTORS, num_votes=100) == 0  # all latents are inactive
    # An inactive latent has the smallest variance everywhere, relative to rounding: it must not have votes.
    with_dead = np.concatenate([PERFECT, np.full((1200, 1), 1e-3)], axis=1)
    assert factor_vae_score(with_dead, FACTORS, num_votes=100) == 1


def test_codes_that_do_not_depend_on_the_factors_have_the_score_of_the_most_frequent_factor():
    assert factor_vae_score(NOISE, FACTORS, num_votes=300) == pytest.approx(1 / 3, abs=0.12)


def test_all_metrics_do_not_depend_on_the_numbering_and_the_seed_is_used():
    found = factor_metrics(ROTATED, FACTORS, categories=[0], num_examples=600, trees=3)
    shifted = factor_metrics(ROTATED, FACTORS * 7 - 3, categories=[0], num_examples=600, trees=3)
    assert found == pytest.approx(shifted, rel=1e-12)
    assert list(found) == [
        "mig", "sap", "disentanglement", "completeness", "informativeness", "factor_vae_score",
    ]  # fmt: skip
    assert found["mig"] == mutual_information_gap(ROTATED, FACTORS)
    assert found["sap"] == attribute_predictability(ROTATED, FACTORS, categories=[0])
    chosen = np.random.default_rng(0).permutation(1200)[:600]
    assert found["completeness"] == dci(ROTATED[chosen], FACTORS[chosen], trees=3).completeness
    other = factor_metrics(ROTATED, FACTORS, categories=[0], num_examples=600, trees=3, seed=1)
    assert found["factor_vae_score"] != other["factor_vae_score"]
    assert found["completeness"] != other["completeness"]


def test_a_factor_with_one_value_is_refused():
    wrong = FACTORS * [1, 0, 1]
    for metric in (mutual_information_gap, attribute_predictability, dci, factor_vae_score):
        with pytest.raises(ValueError, match=r"factors \[1\] have only one value"):
            metric(PERFECT, wrong)


def test_predictability_reads_the_values_of_a_factor_and_not_their_ranks():
    factors = np.array([[0], [1], [10]])[np.random.default_rng(0).integers(3, size=500)]
    codes = np.concatenate([factors, np.zeros_like(factors)], axis=1).astype(float)
    np.testing.assert_allclose(attribute_predictability(codes, factors), 1)


def test_constant_codes_have_no_important_latent():
    found = dci(np.ones((60, 2)), FACTORS[:60, :2], trees=2)
    assert (found.disentanglement, found.completeness) == (0, 0)
