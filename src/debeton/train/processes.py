"""The number of processes that train a run: it is recorded, and a change of it is refused or said.

It is no setting, so it is not in the configuration. Checkpoints and phases.json carry it. A run lists one number, or
several in their sequence where another number of processes continued it.
"""

from __future__ import annotations

from collections.abc import Sequence

from debeton.system import distributed
from debeton.system.errors import UsageError
from debeton.system.log import logger


def joined(*histories: Sequence[int]) -> tuple[int, ...]:
    """Return the numbers of processes of one history after the other, without repeats in a row."""
    counts: list[int] = []
    for count in (count for history in histories for count in history):
        if not counts or counts[-1] != count:
            counts.append(count)
    return tuple(counts)


def check_processes(earlier: Sequence[int], *, own_statistics: bool) -> None:
    """Refuse or warn of a run that another number of processes began.

    earlier: the numbers of processes so far; empty for a new run, or one whose checkpoints do not say.
    own_statistics: each process uses batch-norm statistics of its own rows, so their number changes the results.
    """
    now = distributed.world_size()
    if not earlier or earlier[-1] == now:
        return
    before = earlier[-1]
    if own_statistics:
        command = f"torchrun --nproc_per_node={before}" if before > 1 else "a single process"
        raise UsageError(
            f"this run has been trained by {before} process{'es' if before > 1 else ''} so far, and now there "
            f"{'are' if now > 1 else 'is'} {now}. With dist.sync_bn false, each process normalises by its own rows, so "
            f"the result depends on their number; continue with {command}, or start a new run with --dist.sync_bn true"
        )
    logger.warning(
        "warning: this run has been trained by %d process%s so far, and %d go%s on; results.json lists both",
        before,
        "es" if before > 1 else "",
        now,
        "" if now > 1 else "es",
    )


def described(history: Sequence[int]) -> int | list[int]:
    """Return the number of processes for results.json: one number if it was the same throughout, else a list."""
    counts = joined(history) or (distributed.world_size(),)
    return counts[0] if len(counts) == 1 else list(counts)
