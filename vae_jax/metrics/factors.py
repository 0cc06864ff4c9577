"""Metrics of codes of examples whose factors of variation are known: does one latent represent each factor?

Codes are values of D latents, [N, D], such as the means of q(z|x). Factors are integers [N, F], a column for each one.
"""

from collections.abc import Sequence
from typing import NamedTuple

import chex
import numpy as np

BINS = 20  # of equal width, from the smallest to the largest value of a latent


def factor_metrics(
    codes: np.ndarray,
    factors: np.ndarray,
    *,
    categories: Sequence[int] = (),
    num_examples: int = 10_000,
    trees: int = 20,
    seed: int = 0,
) -> dict[str, float]:
    """Return all metrics of this module.

    Args:
      codes: [N, D], with D of 2 or more.
      factors: integers [N, F], each with two values or more.
      categories: the columns of factors whose values have no order, such as a shape. Only `sap` differs for them.
      num_examples: DCI reads at most so many examples, chosen at random: half of them to train, half to test.
      trees: of each random forest of DCI.
      seed: of the choice of examples and of the votes.

    Returns:
      `mig`, `sap`, `disentanglement`, `completeness`, `informativeness` and `factor_vae_score`, each at most 1, which
      is best.

    Raises:
      ValueError: a factor has only one value.
    """
    chosen = np.random.default_rng(seed).permutation(len(codes))[:num_examples]
    return {
        "mig": mutual_information_gap(codes, factors),
        "sap": attribute_predictability(codes, factors, categories=categories),
        **dci(codes[chosen], factors[chosen], trees=trees, seed=seed)._asdict(),
        "factor_vae_score": factor_vae_score(codes, factors, seed=seed),
    }


def _check(codes: np.ndarray, factors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return float64 codes [N, D] and the positions [N, F] of the factors among their sorted values."""
    chex.assert_rank([codes, factors], 2)
    chex.assert_equal_shape_prefix([codes, factors], 1)
    columns = [np.unique(column, return_inverse=True) for column in factors.T]
    constant = [i for i, (values, _) in enumerate(columns) if len(values) < 2]
    if constant:
        raise ValueError(f"factors {constant} have only one value; remove these columns")
    return np.asarray(codes, np.float64), np.stack([indices.reshape(-1) for _, indices in columns], axis=1)


def mutual_information(codes: np.ndarray, factors: np.ndarray, *, bins: int = BINS) -> np.ndarray:
    """Estimate I(z_d; v_f) = Σ p(z, v) log p(z, v) / (p(z) p(v)) of each latent and each factor, by counts.

    The value of a latent is replaced by its bin of a histogram of equally wide bins. The estimate is too high in
    expectation, by about (bins - 1) (values - 1) / 2N.

    Args:
      codes: [N, D].
      factors: integers [N, F], each with two values or more.
      bins: bins of each latent.

    Returns:
      [D, F], in nats.

    Raises:
      ValueError: a factor has only one value.
    """
    codes, factors = _check(codes, factors)
    binned = [_bin(column, bins) for column in codes.T]
    return np.array([[_information(_counts(b, v, bins)) for v in factors.T] for b in binned])


def _bin(column: np.ndarray, bins: int) -> np.ndarray:
    low, high = column.min(), column.max()
    scaled = (column - low) / (high - low) if high > low else np.zeros_like(column)
    return np.minimum((scaled * bins).astype(int), bins - 1)


def _counts(binned: np.ndarray, values: np.ndarray, bins: int) -> np.ndarray:
    """Return the counts of pairs, [bins, values]."""
    num_values = values.max() + 1
    return np.bincount(binned * num_values + values, minlength=bins * num_values).reshape(bins, num_values)


def _information(counts: np.ndarray) -> float:
    return _entropy(counts.sum(axis=0)) + _entropy(counts.sum(axis=1)) - _entropy(counts.reshape(-1))


def _entropy(weights: np.ndarray) -> float:
    """Return the entropy of the probabilities that are proportional to some weights, in nats."""
    p = weights[weights > 0] / weights.sum()
    return float(-np.sum(p * np.log(p)))


def _gap(scores: np.ndarray) -> np.ndarray:
    """Return the largest score of each column less the second one, [F]."""
    chex.assert_axis_dimension_gteq(scores, 0, 2)
    ordered = np.sort(scores, axis=0)
    return ordered[-1] - ordered[-2]


def mutual_information_gap(codes: np.ndarray, factors: np.ndarray, *, bins: int = BINS) -> float:
    """Return the MIG, the mean over factors of (I_1 - I_2) / H(v) with the two largest I(z_d; v) (arXiv 1802.04942).

    Args:
      codes: [N, D], with D of 2 or more.
      factors: integers [N, F], each with two values or more.
      bins: as for `mutual_information`. Chen et al. compute I(z; v) from samples of q(z|x); here it is a histogram of
        the codes.

    Returns:
      From 0 to 1.

    Raises:
      ValueError: a factor has only one value.
    """
    information = mutual_information(codes, factors, bins=bins)
    entropies = [_entropy(np.unique(column, return_counts=True)[1]) for column in factors.T]
    return float(np.mean(_gap(information) / entropies))


def attribute_predictability(codes: np.ndarray, factors: np.ndarray, *, categories: Sequence[int] = ()) -> float:
    """Return the SAP score: the mean over factors of S_1 - S_2, the two largest scores of single latents.

    S is the fraction of variance that least squares explain: R² of the factor from the latent, and for a category R²
    of the latent from the category. Kumar et al., arXiv 1711.00848, also have R², but for categories the accuracy of
    thresholds.

    Args:
      codes: [N, D], with D of 2 or more.
      factors: integers [N, F], each with two values or more.
      categories: the columns of factors whose values have no order.

    Returns:
      From 0 to 1.

    Raises:
      ValueError: a factor has only one value.
    """
    numbers = np.asarray(factors, np.float64)
    codes, factors = _check(codes, factors)
    centered = codes - codes.mean(axis=0)
    variance = np.mean(centered**2, axis=0)
    varies = np.ptp(codes, axis=0) > 0  # the computed variance of a constant can be above 0
    safe = np.where(varies, variance, np.inf)  # a constant latent explains nothing
    scores = np.empty((codes.shape[1], factors.shape[1]))
    for f, column in enumerate(factors.T):
        if f in categories:
            counts = np.bincount(column)
            sums = np.stack([np.bincount(column, weights=c) for c in centered.T])  # [D, values]
            between = np.sum(sums**2 / counts, axis=1) / len(column)
        else:
            factor = numbers[:, f] - numbers[:, f].mean()
            between = np.mean(centered * factor[:, None], axis=0) ** 2 / np.mean(factor**2)
        scores[:, f] = between / safe
    return float(_gap(scores).mean())


class DCI(NamedTuple):
    """Disentanglement, completeness and informativeness.

    Attributes:
      disentanglement: 1 if each latent is important for one factor at most.
      completeness: 1 if each factor has one important latent.
      informativeness: the mean accuracy of the predicted factors.
    """

    disentanglement: float
    completeness: float
    informativeness: float


def dci(codes: np.ndarray, factors: np.ndarray, *, trees: int = 20, seed: int = 0) -> DCI:
    """Return DCI with importances R [D, F] of random forests that predict factors (Eastwood & Williams, ICLR 2018).

    The forests of scikit-learn classify the values of a factor, and each split of a tree chooses among all latents.
    They are trained on the first half of the examples; the accuracy is that of the second half.

    Args:
      codes: [N, D], in random order.
      factors: integers [N, F], each with two values or more.
      trees: of each forest.
      seed: of the forests.

    Raises:
      ValueError: a factor has only one value.
    """
    from sklearn.ensemble import RandomForestClassifier

    codes, factors = _check(codes, factors)
    half, importances, accuracies = len(codes) // 2, [], []
    for column in factors.T:
        forest = RandomForestClassifier(
            n_estimators=trees,
            max_features=None,  # pyright: ignore[reportArgumentType]  # its type is inferred from the default
            random_state=seed,
        )
        forest.fit(codes[:half], column[:half])
        importances.append(forest.feature_importances_)
        accuracies.append(np.mean(forest.predict(codes[half:]) == column[half:]))
    importance = np.stack(importances, axis=1)
    return DCI(*disentanglement_completeness(importance), float(np.mean(accuracies)))


def disentanglement_completeness(importance: np.ndarray) -> tuple[float, float]:
    """Return Σ_d ρ_d (1 - H_F(R_d)) and Σ_f τ_f (1 - H_D(R_f)) of an importance matrix R.

    H_F(R_d) is the entropy of a row to the base F, H_D(R_f) that of a column to the base D, each after normalisation.
    The weights ρ and τ are the shares of a row and of a column in the sum of R.

    Args:
      importance: R, at least 0, [D, F], with D and F of 2 or more.

    Returns:
      Disentanglement and completeness, from 0 to 1; 0 if no latent is important, as those of a collapsed posterior.

    Raises:
      ValueError: there is a single latent or a single factor, whose entropy has no base.
    """
    chex.assert_rank(importance, 2)
    if min(importance.shape) < 2:
        raise ValueError(f"importance has shape {list(importance.shape)}; pass 2 or more latents and factors")

    def concentration(rows: np.ndarray) -> float:
        weights = rows.sum(axis=1)
        values = [1 - _entropy(row) / np.log(len(row)) if row.any() else 0.0 for row in rows]
        return float(np.sum(weights * values) / weights.sum()) if weights.any() else 0.0

    return concentration(importance), concentration(importance.T)


def factor_vae_score(
    codes: np.ndarray,
    factors: np.ndarray,
    *,
    num_votes: int = 800,
    batch_size: int = 64,
    min_variance: float = 0.05,
    seed: int = 0,
) -> float:
    """Return the score of Kim & Mnih, arXiv 1802.05983: the accuracy of votes for the factor that was fixed.

    A vote is the latent with the smallest variance, relative to that over all examples, among examples that
    have one value of one factor. A classifier maps each latent to the factor that it was most often the vote for.

    Args:
      codes: [N, D].
      factors: integers [N, F], each with two values or more.
      num_votes: votes for training, and as many other ones for the accuracy.
      batch_size: examples of a vote, drawn with replacement.
      min_variance: latents with a smaller variance over all examples have no votes.
      seed: of the votes.

    Returns:
      The accuracy; 0 if all latents have a smaller variance.

    Raises:
      ValueError: a factor has only one value.
    """
    codes, factors = _check(codes, factors)
    rng, variance = np.random.default_rng(seed), codes.var(axis=0)
    active = np.flatnonzero(variance >= min_variance)
    if not len(active):
        return 0.0
    scaled = codes[:, active] / np.sqrt(variance[active])
    groups = [_group(column) for column in factors.T]
    fixed = rng.integers(factors.shape[1], size=2 * num_votes)
    votes = np.empty(2 * num_votes, int)
    for i, f in enumerate(fixed):
        order, start = groups[f]
        value = factors[rng.integers(len(codes)), f]
        rows = order[rng.integers(start[value], start[value + 1], size=batch_size)]
        votes[i] = np.argmin(scaled[rows].var(axis=0))
    counts = _counts(votes[:num_votes], fixed[:num_votes], len(active))
    return float(np.mean(counts.argmax(axis=1)[votes[num_votes:]] == fixed[num_votes:]))


def _group(column: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the examples sorted by a factor, [N], and where each of its values begins and the last one ends."""
    return np.argsort(column, kind="stable"), np.concatenate([[0], np.cumsum(np.bincount(column))])
