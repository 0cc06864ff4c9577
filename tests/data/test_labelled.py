"""Labels that training sees: balanced choices, independent of hidden labels, and labelled rows of each batch."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vae_jax import random
from vae_jax.data.labelled import LabelledRows
from vae_jax.data.order import batch_indices

N, CLASSES, COUNT, BATCH = 200, 3, 15, 10
Y = np.random.default_rng(0).choice(CLASSES, N, p=(0.7, 0.2, 0.1))
KNOWN = np.random.default_rng(1).random(N) < 0.6
LABELLED = LabelledRows(COUNT, CLASSES, share=0.4)


@jax.jit
def choose(draw, y=Y, known=KNOWN):
    return LabelledRows(COUNT, CLASSES, draw=draw).choose(y, known)


@jax.jit
def batches(chosen, steps):
    indices = functools.partial(LABELLED.batch_indices, jax.random.key(3), num_examples=N, batch_size=BATCH)
    return jax.vmap(lambda step: indices(step, chosen))(steps)


def test_the_choice_has_equally_many_known_labels_of_each_class():
    chosen = np.asarray(choose(0))
    assert chosen.shape == (CLASSES, COUNT // CLASSES)
    np.testing.assert_array_equal(Y[chosen], np.repeat(np.arange(CLASSES)[:, None], 5, axis=1))
    assert KNOWN[chosen].all()
    assert len(np.unique(chosen)) == COUNT


def test_each_known_label_of_a_class_is_chosen_equally_often():
    draws = 400
    counts = np.bincount(np.asarray(jax.jit(jax.vmap(choose))(np.arange(draws))).reshape(-1), minlength=N)
    for c in range(CLASSES):
        candidates = np.equal(Y, c) & KNOWN
        share = 5 / candidates.sum()
        np.testing.assert_allclose(counts[candidates] / draws, share, atol=5 * np.sqrt(share / draws))
        assert counts[np.equal(Y, c) & ~KNOWN].sum() == 0


def test_the_choice_does_not_depend_on_hidden_labels():
    np.testing.assert_array_equal(choose(2), choose(2, np.where(KNOWN, Y, -7)))
    assert (np.asarray(choose(2)) != np.asarray(choose(3))).any()


def test_the_labelled_rows_of_a_batch_are_balanced_and_use_each_label_once_in_a_pass():
    chosen = choose(0)
    found = np.asarray(batches(chosen, np.arange(15)))[:, :4]  # 60 labelled rows: each label four times
    counts = np.stack([np.bincount(Y[row], minlength=CLASSES) for row in found])
    assert (counts.max(axis=1) - counts.min(axis=1) <= 1).all()
    for c in range(CLASSES):
        of_class = found.reshape(-1)[c::CLASSES].reshape(4, 5)  # the classes take turns
        np.testing.assert_array_equal(np.sort(of_class, axis=1), np.sort(np.tile(chosen[c], (4, 1)), axis=1))
        assert len({tuple(row) for row in of_class}) > 1  # in a new order


def test_the_other_rows_of_a_batch_are_those_of_the_order_of_all_examples():
    found = batches(choose(0), np.arange(3))
    key = jax.random.fold_in(jax.random.key(3), random.DATA_STREAM)
    for step in range(3):
        rest = batch_indices(key, jnp.asarray(step), num_examples=N, batch_size=BATCH - 4)
        np.testing.assert_array_equal(found[step, 4:], rest)


@pytest.mark.parametrize(("share", "size", "rows"), [(0.5, 128, 64), (0.01, 8, 1), (0.99, 8, 7), (0.3, 2, 1)])
def test_a_batch_has_rows_of_both_kinds(share, size, rows):
    assert LabelledRows(COUNT, CLASSES, share).rows(size) == rows
