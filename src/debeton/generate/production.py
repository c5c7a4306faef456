"""Making a set: batches to the generator, while threads judge, encode and write those before."""

from __future__ import annotations

import collections
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from debeton.data.raw.synthetic_images import ACCEPTED
from debeton.generate.filters import Filter
from debeton.generate.generators import Generator, Order
from debeton.generate.image_set import ImageSet, Slot
from debeton.generate.prompts import Condition, PromptSet
from debeton.system.errors import DataError
from debeton.system.log import logger
from debeton.system.seed import make_rng

WRITERS = 4  # threads that encode; PNG of 512 x 512 takes some 30 ms
BATCHES_WAITING = 2


def produce(
    image_set: ImageSet,
    generator: Generator,
    prompts: PromptSet,
    keep: Filter,
    *,
    conditions: Sequence[Condition],
    per_condition: int,
    batch_size: int,
    progress: bool = False,
    stopped: Callable[[], bool] = lambda: False,
) -> None:
    """Make every image of this shard that the set lacks. The generator never waits for the disk, unless BATCHES_WAITING
    batches do. stopped: asked before each batch; once true, no further one is begun.

    DataError where an image was rejected in all of the generator's attempts.
    """
    name = str(image_set.settings["set"])
    slots = collections.deque(image_set.missing(conditions, per_condition))
    began, made = time.perf_counter(), 0
    waiting: collections.deque[list[tuple[Slot, Order, Future[dict[str, Any]]]]] = collections.deque()
    bar = tqdm(total=len(slots), desc="images", unit="image", disable=not progress)
    with _closing(ThreadPoolExecutor(WRITERS)) as pool, bar:
        while slots or waiting:
            if slots and stopped():
                slots.clear()
            elif slots and len(waiting) < BATCHES_WAITING:
                batch = [slots.popleft() for _ in range(min(batch_size, len(slots)))]
                orders = [_order(slot, name, prompts) for slot in batch]
                images = generator.sample(orders)
                made += len(images)
                waiting.append(
                    [
                        (slot, order, pool.submit(_judge_and_write, image_set, keep, slot, order, image))
                        for slot, order, image in zip(batch, orders, images, strict=True)
                    ]
                )
            elif waiting:
                slots.extendleft(reversed(_finish(image_set, generator, waiting.popleft(), bar.update)))
    if made:
        logger.info("%d images made, %.2f a second", made, made / (time.perf_counter() - began))


@contextmanager
def _closing(pool: ThreadPoolExecutor) -> Iterator[ThreadPoolExecutor]:
    """The pool; on an error what has not begun is dropped."""
    try:
        yield pool
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _order(slot: Slot, name: str, prompts: PromptSet) -> Order:
    seed = slot.seed(name)
    return Order(slot.condition, slot.number, prompts.prompt(slot.condition, make_rng(seed, "prompt")), seed)


def _judge_and_write(
    image_set: ImageSet, keep: Filter, slot: Slot, order: Order, image: NDArray[np.uint8]
) -> dict[str, Any]:
    """The image's line of the manifest; the image itself is written when it is kept."""
    verdict = keep(image)
    return {
        "path": slot.path,
        "label": slot.condition.label,
        "attribute": slot.condition.attribute,
        "number": slot.number,
        "attempt": slot.attempt,
        "verdict": verdict,
        "prompt": order.prompt,
        "seed": order.seed,
        "sha256": image_set.write_image(slot, image) if verdict == ACCEPTED else None,
    }


def _finish(
    image_set: ImageSet,
    generator: Generator,
    batch: Sequence[tuple[Slot, Order, Future[dict[str, Any]]]],
    update: Callable[[int], object],
) -> list[Slot]:
    """Append the batch's lines; the slots whose image was rejected, with their next attempt."""
    lines = [future.result() for _, _, future in batch]
    image_set.append(lines)
    update(sum(line["verdict"] == ACCEPTED for line in lines))
    again = []
    for (slot, order, _), line in zip(batch, lines):
        if line["verdict"] == ACCEPTED:
            continue
        if slot.attempt + 1 >= generator.attempts:
            raise DataError(
                f"image {slot.number} of '{slot.condition}' was rejected {generator.attempts} times, last as "
                f"'{line['verdict']}' (prompt: {order.prompt}); look at the generator's images with --filter none, or "
                "raise --attempts"
            )
        again.append(Slot(slot.condition, slot.number, slot.attempt + 1))
    return again
