"""Chooses examples at random, the same ones as scikit-learn's train_test_split.

scikit-learn itself takes a second to import, and as long again to choose from a million
examples.
"""

import numpy as np

from cnn_jax.data.packed_strings import compact


def random_choice(total: int, count: int, seed: int) -> np.ndarray:
    """Chooses `count` of `total` examples: bool [total], true for the chosen ones."""
    chosen = np.zeros(total, bool)
    chosen[np.random.RandomState(seed).permutation(total)[:count]] = True
    return chosen


def stratified_choice(labels: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Chooses `count` examples, of each class in proportion: bool [N], as above.

    labels: integers from 0 on, [N].
    """
    random = np.random.RandomState(seed)
    sizes = np.bincount(labels)
    sizes = sizes[sizes > 0]
    kept = _shares(sizes, len(labels) - count, random)
    _shares(sizes - kept, count, random)  # scikit-learn draws numbers here
    by_class = np.argsort(compact(labels), kind="stable")
    chosen = np.ones(len(labels), bool)
    for rows, keep in zip(np.split(by_class, np.cumsum(sizes)[:-1]), kept):
        chosen[rows[random.permutation(len(rows))[:keep]]] = False
    return chosen


def _shares(sizes: np.ndarray, count: int, random: np.random.RandomState) -> np.ndarray:
    """Divides `count` in proportion to `sizes`; integers [len(sizes)].

    What rounding down leaves goes to the largest fractions, at random among equal ones.
    """
    exact = sizes / sizes.sum() * count
    shares = np.floor(exact)
    fractions, missing = exact - shares, int(count - shares.sum())
    for fraction in np.unique(fractions)[::-1]:
        if missing:
            equal, = np.where(fractions == fraction)
            added = random.choice(equal, min(len(equal), missing), replace=False)
            shares[added] += 1
            missing -= len(added)
    return shares.astype(int)
