"""Work on many items by a pool of threads, with results in order and few of them waiting."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Sized
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from debeton.system.cores import usable_cores
from debeton.system.work_bar import work_bar

S = TypeVar("S")
T = TypeVar("T")
WINDOW = 8  # results per thread that may wait for their turn


def in_order(
    work: Callable[[S], T],
    items: Iterable[S],
    num_workers: int | None = None,
    describe: str = "",
    *,
    progress: bool = False,
    total: int | None = None,
) -> Generator[T, None, None]:
    """Yield work(item) for every item, in the items' sequence.

    num_workers: threads; None is one per core.
    describe, progress: text of a progress bar, and whether it is drawn.
    total: the number of items, if they have no length.
    If the results may not be read to the end, close the generator, e.g. by `contextlib.closing`. Else the garbage
    collector may try to join the pool's threads from one of these threads.
    """
    workers = num_workers or usable_cores()
    total = len(items) if isinstance(items, Sized) else total
    with ThreadPoolExecutor(workers) as pool, work_bar(describe, total, unit="item", shown=progress) as bar:
        pending: deque[Future[T]] = deque()
        try:
            for item in items:
                pending.append(pool.submit(work, item))
                if len(pending) >= WINDOW * workers:
                    yield pending.popleft().result()
                    bar.update()
            while pending:
                yield pending.popleft().result()
                bar.update()
        finally:
            for future in pending:
                future.cancel()
