"""Augmentations of images at their final size, as kernels over a batch or fused into the decoding (pixels.py).

This module reads the text of `--training.augment` and fuses what can be fused. The augmentations are in the package
`augmentations`. One that only moves pixels, or fills a patch as its last act, can also be expressed as `Moves`. A list
of such augmentations needs no pass of its own over the batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from debeton.data.draws import Keys
from debeton.data.loader.augmentations.cut_mix import CutMix
from debeton.data.loader.augmentations.moves import is_mirrored
from debeton.data.loader.augmentations.registry import OPS, Mover, Op, register_augmentation
from debeton.data.loader.pixels import BLACK, STILL, Ints32, Moves
from debeton.system.errors import UsageError

__all__ = [
    "OPS",
    "Mover",
    "Op",
    "are_moves",
    "as_moves",
    "is_mirrored",
    "make_ops",
    "register_augmentation",
    "split_mixing",
]


def make_ops(text: str) -> list[Op]:
    """Return the augmentations of a text such as 'flip,pad_crop:4'; none for '' or 'none'.

    UsageError for an unknown name, a malformed argument, and one that mixes labels (`split_mixing`).
    """
    ops, mixing = _parse(text)
    if mixing:
        raise UsageError(
            f"augmentation '{mixing[0][0]}' mixes the labels of two images, which a loader cannot; name it in "
            "--training.augment of a run, or mix the batches in the loss"
        )
    return ops


def split_mixing(text: str) -> tuple[str, CutMix | None]:
    """Return the text without the augmentation that mixes labels, and that augmentation; None if there is none.

    It works on batches and on their loss, so that the training loop applies it. UsageError as in `make_ops`, and for
    two of them.
    """
    _, mixing = _parse(text)
    if len(mixing) > 1:
        raise UsageError(f"training.augment names cutmix {len(mixing)} times; name it once")
    parts = [part.strip() for part in text.split(",")]
    rest = [part for part in parts if not mixing or part != mixing[0][0]]
    return ",".join(rest), mixing[0][1] if mixing else None


def _parse(text: str) -> tuple[list[Op], list[tuple[str, CutMix]]]:
    """Return the augmentations of a text, and those that mix labels with their own text."""
    ops: list[Op] = []
    mixing: list[tuple[str, CutMix]] = []
    for part in (part.strip() for part in text.split(",")):
        name, _, argument = part.partition(":")
        if name in ("", "none"):
            continue
        factory = OPS.get(name)
        try:
            op = factory(*(_number(value) for value in argument.split(":") if value))
        except (TypeError, ValueError) as error:
            why = f" ({error})" if isinstance(error, ValueError) else ""
            raise UsageError(f"augmentation '{part}' is malformed{why}; write it like 'pad_crop:4' or 'flip'") from None
        if isinstance(op, CutMix):
            mixing.append((part, op))
        else:
            ops.append(op)
    return ops, mixing


def _number(text: str) -> int | float:
    """Return the number that a text writes, an int where it is written as one. ValueError for other text."""
    try:
        return int(text)
    except ValueError:
        pass
    try:
        number = float(text)
    except ValueError:
        raise ValueError(f"'{text}' is no number") from None
    if not np.isfinite(number):
        raise ValueError(f"'{text}' is no finite number")
    return number


def as_moves(ops: Sequence[Op], keys: Keys, size: tuple[int, int]) -> Moves | None:
    """Fuse the augmentations of a batch into one `Moves`.

    Return None if one of them is not a `Mover`, or follows one that fills a patch.
    """
    fused = STILL
    for op in ops:
        if not isinstance(op, Mover) or fused.patches is not None:
            return None
        step = op.moves(keys, size)
        rows, columns = _compose(fused.rows, step.rows), _compose(fused.columns, step.columns)
        fused = replace(step, rows=rows, columns=columns)
    return fused


def are_moves(ops: Sequence[Op], size: tuple[int, int]) -> bool:
    """Return whether `as_moves` fuses these augmentations, for images of (height, width) pixels."""
    return as_moves(ops, np.zeros(1, np.uint64), size) is not None


def _compose(first: Ints32 | None, second: Ints32 | None) -> Ints32 | None:
    """Compose two index maps [B, length], first `first`, then `second`. None stands for no move.

    What is BLACK in one of them stays so.
    """
    if first is None or second is None:
        return second if first is None else first
    batch, length = first.shape
    flat_index = second + np.arange(0, batch * length, length, dtype=np.int32)[:, None]
    # Several times as fast as np.take_along_axis. Only BLACK is out of range: "clip" skips a check.
    composed = first.ravel().take(flat_index, mode="clip")
    return np.where(second < 0, np.int32(BLACK), composed) if (second < 0).any() else composed
