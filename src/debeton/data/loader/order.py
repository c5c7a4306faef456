"""Order rules: the rows of an epoch as a pure function of (view, seed, epoch).

So resuming and sharing an epoch need no state.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

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
    """Return positions into view.rows in the order of this epoch, int64.

    Where the view grows, the rule is that of the rows that take part, and as many of them as the first epoch has.
    """
    rule, rng, part = ORDERS.get(order), make_rng(seed, "order", order, epoch), view.in_epoch(epoch)
    if part is None:
        return rule(view, rng)
    return part[rule(replace(view.subset(part), since=None), rng)[: view.epoch_size]]


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
    view.require_attributes("the order 'group_balanced'")
    group = view.group[view.rows]
    present = np.unique(group)
    rounds = -(-len(view) // len(present))
    columns = []
    for g in present:
        members = np.flatnonzero(group == g)
        passes = [rng.permutation(members) for _ in range(-(-rounds // len(members)))]
        columns.append(np.concatenate(passes)[:rounds])
    return rng.permuted(np.stack(columns, axis=1), axis=1).reshape(-1)[: len(view)]


# --- batches of a few classes ----------------------------------------------------------------------------------

# Least share of the effective number of classes that random batches have. Shuffled rows have 0.99 to 1.01. Rows that
# are sorted by class have, in quasi-random batches of 16 and of 128: 10 classes of 5,000 rows 0.93 and 0.93, 100 of 500
# 0.88 and 0.58, 1,000 of 1,280 0.86 and 0.40; in sequential batches 0.14 and less.
LEAST_MIXTURE = 0.9
MAX_COMPARISONS, COMPARED_ROWS = 200, 2_000_000  # random sequences of an epoch, and their rows in all (0.2 s)


def warning_of_few_classes(view: View, batch_size: int, seed: int) -> str | None:
    """Return a warning if the batches of the first epoch hold far fewer classes or groups than random ones would.

    The measure is the effective number of classes of a batch: exp(H), where H is the entropy of its labels in nats,
    averaged over the batches. It is compared with that of the same rows in random sequences. In a small set chance
    alone may give fewer, so the number must also be below that of every random sequence.

    view: with the order rule of the training.
    batch_size: rows of a global batch.
    seed: of the loader.
    """
    if view.order == "random" or batch_size < 2:
        return None
    rows = view.rows[epoch_order(view, view.order, seed, 0)]
    rng = make_rng(seed, "mixture")
    comparisons = int(np.clip(COMPARED_ROWS // len(rows), 1, MAX_COMPARISONS))
    for one, several, codes in (("class", "classes", view.label[rows]), ("group", "groups", view.group[rows])):
        found = effective_number(codes, batch_size)
        random = [effective_number(rng.permutation(codes), batch_size) for _ in range(comparisons)]
        if found < min(LEAST_MIXTURE * float(np.mean(random)), *random):
            return (
                f"warning: a batch of {batch_size} rows in the order '{view.order}' of {view.beton.path} holds "
                f"{found:.1f} {several} (effective number, mean over the first epoch), in random order "
                f"{np.mean(random):.1f}: the rows of a {one} lie together in the file. Write the beton again with "
                "--shuffle-seed 0, or train with training.order random"
            )
    return None


def effective_number(codes: Ints, batch_size: int) -> float:
    """Return exp(H), H the mean entropy of the codes of a batch, in nats.

    A last partial batch does not count.

    codes: int64 [N], in the sequence of the epoch; -1, unknown, counts as one more code.
    """
    batches = max(1, len(codes) // batch_size)
    codes = codes[: batches * batch_size] - codes.min()
    batch = np.arange(len(codes)) // batch_size
    counts = np.unique(batch * (int(codes.max()) + 1) + codes, return_counts=True)[1]
    size = min(batch_size, len(codes))
    return float(np.exp(-np.sum(counts / size * np.log(counts / size)) / batches))
