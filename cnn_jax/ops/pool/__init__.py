"""Pooling: the operations, and one file per algorithm."""

from cnn_jax.ops.pool.operations import (POOLS, avg_pool, global_avg_pool,
                                         global_max_pool, max_pool,
                                         max_pool_with_indices)
