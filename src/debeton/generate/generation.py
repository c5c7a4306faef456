"""The loop that fills an image set: the generator makes a batch while threads filter, encode and write earlier ones."""

from __future__ import annotations

import collections
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from debeton.data.raw.synthetic_images import ACCEPTED
from debeton.generate.filters import Filter
from debeton.generate.generators import Generator, ImageRequest
from debeton.generate.generators.generator import SAFETY
from debeton.generate.image_set import ImageSet, Slot
from debeton.generate.prompts import Condition, PromptSet
from debeton.system.errors import DataError
from debeton.system.log import logger
from debeton.system.seed import make_rng
from debeton.system.work_bar import work_bar

WRITERS = 4  # threads that encode; one PNG of 512 x 512 pixels takes some 30 ms
BATCHES_WAITING = 2  # the generator waits for the disk when so many batches are not yet written


def generate_missing(
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
    """Generate every image of this shard that the set lacks.

    image_set: the set, opened by this shard.
    generator: makes the images.
    prompts: prompts of every condition.
    keep: filter; a rejected image is made again with another seed.
    conditions: conditions to generate.
    per_condition: number of images of each condition, over all shards.
    batch_size: images per call of the generator.
    progress: show a progress bar.
    stopped: called before each batch; once true, no further batch starts.

    DataError: an image was rejected in all `generator.attempts` attempts.
    UsageError: another process fills the shard.
    """
    with image_set.filling():
        slots = collections.deque(image_set.missing(conditions, per_condition))
        image_set.remove_leftovers(slots)
        _fill(image_set, generator, prompts, keep, slots, batch_size, progress=progress, stopped=stopped)


def _fill(
    image_set: ImageSet,
    generator: Generator,
    prompts: PromptSet,
    keep: Filter,
    slots: collections.deque[Slot],
    batch_size: int,
    *,
    progress: bool,
    stopped: Callable[[], bool],
) -> None:
    """Generate the images of these slots, and those of the slots of rejected images after them."""
    name = str(image_set.settings["set"])
    start, image_count = time.perf_counter(), 0
    waiting: collections.deque[list[tuple[Slot, ImageRequest, Future[dict[str, Any]]]]] = collections.deque()
    bar = work_bar("images", len(slots), unit="image", shown=progress)
    with _closing(ThreadPoolExecutor(WRITERS)) as pool, bar:
        while slots or waiting:
            if slots and stopped():
                slots.clear()
            elif slots and len(waiting) < BATCHES_WAITING:
                batch = [slots.popleft() for _ in range(min(batch_size, len(slots)))]
                requests = [_image_request(slot, name, prompts) for slot in batch]
                images = generator.sample(requests)
                image_count += len(images)
                rejected = getattr(generator, "rejected", None) or [""] * len(images)
                waiting.append(
                    [
                        (slot, request, pool.submit(_filter_and_write, image_set, keep, slot, request, image, reason))
                        for slot, request, image, reason in zip(batch, requests, images, rejected, strict=True)
                    ]
                )
            elif waiting:
                slots.extendleft(reversed(_finish(image_set, generator, waiting.popleft(), bar.update)))
    if image_count:
        logger.info("%d images made, %.2f a second", image_count, image_count / (time.perf_counter() - start))


@contextmanager
def _closing(pool: ThreadPoolExecutor) -> Iterator[ThreadPoolExecutor]:
    """Yield the pool and shut it down at the end; after an error, tasks that have not started are dropped."""
    try:
        yield pool
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _image_request(slot: Slot, name: str, prompts: PromptSet) -> ImageRequest:
    seed = slot.seed(name)
    return ImageRequest(slot.condition, slot.number, prompts.prompt(slot.condition, make_rng(seed, "prompt")), seed)


def _filter_and_write(
    image_set: ImageSet, keep: Filter, slot: Slot, request: ImageRequest, image: NDArray[np.uint8], rejected: str
) -> dict[str, Any]:
    """Filter one image, write it if it is kept, and return its line of the manifest.

    rejected: the reason why the generator itself rejects the image, or ''.
    """
    verdict = rejected or keep(image)
    return {
        "path": slot.path,
        "label": slot.condition.label,
        "attribute": slot.condition.attribute,
        "number": slot.number,
        "attempt": slot.attempt,
        "verdict": verdict,
        "prompt": request.prompt,
        "seed": request.seed,
        "sha256": image_set.write_image(slot, image) if verdict == ACCEPTED else None,
    }


def _finish(
    image_set: ImageSet,
    generator: Generator,
    batch: Sequence[tuple[Slot, ImageRequest, Future[dict[str, Any]]]],
    update: Callable[[int], object],
) -> list[Slot]:
    """Append the lines of a batch to the manifest.

    Returns the slots whose image was rejected, each with its next attempt. update: called with the number of kept
    images.
    """
    lines = [future.result() for _, _, future in batch]
    image_set.append(lines)
    update(sum(line["verdict"] == ACCEPTED for line in lines))
    retries = []
    for (slot, request, _), line in zip(batch, lines):
        if line["verdict"] == ACCEPTED:
            continue
        if slot.attempt + 1 >= generator.attempts:
            remedy = "look at the generator's images with --filter none, or raise --attempts"
            if line["verdict"] == SAFETY:
                remedy = (
                    "the safety checker of the model turned it black: choose other prompts, raise --attempts, or leave "
                    "the checker out with --no-safety-checker"
                )
            raise DataError(
                f"image {slot.number} of '{slot.condition}' was rejected {generator.attempts} times, last as "
                f"'{line['verdict']}' (prompt: {request.prompt}); {remedy}"
            )
        retries.append(Slot(slot.condition, slot.number, slot.attempt + 1))
    return retries
