"""Order rules: the rows of an epoch as a pure function of (view, seed, epoch).

So resuming and sharing an epoch need no state.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from debeton.data.spec import Ints
from debeton.data.views.view import View
from debeton.system.errors import DataError
from debeton.system.registry import Registry
from debeton.system.seed import make_rng

# (view, generator of this epoch) -> positions into view.rows, int64 [view.epoch_size]
OrderRule = Callable[[View, np.random.Generator], Ints]
ORDERS: Registry[OrderRule] = Registry("order")

QUASI_RANDOM_BLOCK, QUASI_RANDOM_WINDOW = 64, 64  # rows that are read together; blocks whose rows are shuffled together


def epoch_order(view: View, order: str, seed: int, epoch: int) -> Ints:
    """Return positions into view.rows in the order of this epoch, int64."""
    return ORDERS.get(order)(view, make_rng(seed, "order", order, epoch))


@ORDERS.register("sequential", "every row once, in the sequence of the view")
def sequential(view: View, rng: np.random.Generator) -> Ints:
    """Return every row once, as view.rows has them."""
    return np.arange(len(view))


@ORDERS.register("random", "every row once, shuffled")
def shuffled(view: View, rng: np.random.Generator) -> Ints:
    """Return every row once, shuffled."""
    return rng.permutation(len(view))


@ORDERS.register("quasi_random", "every row once, shuffled by blocks: few seeks on a slow disk")
def quasi_random(view: View, rng: np.random.Generator) -> Ints:
    """Return every row once: blocks of neighbouring rows shuffled, then rows shuffled within windows of blocks."""
    by_offset = np.argsort(view.beton.offsets[view.rows], kind="stable")
    blocks = np.array_split(by_offset, max(1, -(-len(view) // QUASI_RANDOM_BLOCK)))
    drawn = [blocks[b] for b in rng.permutation(len(blocks))]
    windows = [drawn[i : i + QUASI_RANDOM_WINDOW] for i in range(0, len(drawn), QUASI_RANDOM_WINDOW)]
    return np.concatenate([rng.permutation(np.concatenate(window)) for window in windows])


@ORDERS.register("weighted", "as many draws as rows, with replacement, in proportion to view.weights")
def weighted(view: View, rng: np.random.Generator) -> Ints:
    """Draw len(view) rows with replacement, row i with probability weights[i] / sum(weights)."""
    if view.weights is None:
        raise DataError(f"view '{view.name}' has no sampling weights; the order 'weighted' needs them")
    cumulative = np.cumsum(view.weights)
    return np.searchsorted(cumulative, rng.random(len(view)) * cumulative[-1], side="right").clip(max=len(view) - 1)


@ORDERS.register("draws", "batches drawn anew from all rows, without repeats within a batch")
def in_draws(view: View, rng: np.random.Generator) -> Ints:
    """Return the batches of view.draws in turn, each a sample without replacement (SCALE's target batches)."""
    if view.draws is None:
        raise DataError(f"view '{view.name}' does not say how large its draws are; View.in_draws does")
    batches, size = view.draws
    return np.concatenate([rng.choice(len(view), size, replace=False) for _ in range(batches)])


@ORDERS.register("group_balanced", "every group equally often; small groups are repeated")
def group_balanced(view: View, rng: np.random.Generator) -> Ints:
    """Draw len(view) rows so that every group comes up equally often; small groups are repeated.

    Let G be the number of present groups. Any G consecutive draws, from a multiple of G on, hold each group once.
    Within a group, rows are used equally often: the group is shuffled again each time all its rows have been used.
    """
    group = view.group[view.rows]
    present = np.unique(group)
    rounds = -(-len(view) // len(present))
    columns = []
    for g in present:
        members = np.flatnonzero(group == g)
        passes = [rng.permutation(members) for _ in range(-(-rounds // len(members)))]
        columns.append(np.concatenate(passes)[:rounds])
    return rng.permuted(np.stack(columns, axis=1), axis=1).reshape(-1)[: len(view)]
