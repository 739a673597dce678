"""Finds the images whose features are nearest to those of a query."""

import numpy as np


def nearest(queries: np.ndarray, features: np.ndarray,
            count: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns (rows of `features`, cosine similarities) of the nearest, both [Q, k].

    queries: [Q, F]. features: [N, F]. k: `count`, at most N. The nearest comes first.
    """
    # Imported here: scikit-learn takes a second, and few modes need it.
    from sklearn.neighbors import NearestNeighbors

    search = NearestNeighbors(n_neighbors=min(count, len(features)), metric="cosine")
    distances, rows = search.fit(features).kneighbors(queries)
    return rows, 1 - distances
