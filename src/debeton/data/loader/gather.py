"""Batches of images that lie on the device: rows gathered, moved, patched and normalised there.

On a GPU this is one Triton kernel (gather_cuda.py). Here is the same in torch: the kernel is tested against it, and it
runs on machines without Triton.
"""

from __future__ import annotations

import importlib.util
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from debeton.data.loader.pixels import Moves
from debeton.data.spec import Ints


def gather(
    images: Tensor, rows: Ints, moves: Moves, scale_and_shift: Tensor, *, channels_last: bool, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Return a batch [B, 3, H, W] of images and the tensor of its rows, both on the device.

    images: uint8 [N, H, W, 3].
    rows: int64 [B].
    moves: where each pixel comes from, and the patches, which are filled last.
    scale_and_shift: float32 [2, 3]; a value is scale * pixel + shift in float32.
    channels_last: the memory format of the batch. dtype: its type.
    """
    row = uploaded(rows, images.device)
    row_of, column_of, patches = (
        a if a is None else uploaded(a, images.device) for a in (moves.rows, moves.columns, moves.patches)
    )
    batch = images.new_empty((len(rows), *images.shape[1:]), dtype=dtype)  # [B, H, W, 3] in memory
    out = batch.permute(0, 3, 1, 2) if channels_last else batch.view(len(rows), 3, *images.shape[1:3])
    kernel = _gpu_kernel() if images.is_cuda else in_torch
    kernel(images, row, row_of, column_of, patches, moves.fill, scale_and_shift, out)
    return out, row


def in_torch(
    images: Tensor,
    row: Tensor,
    row_of: Tensor | None,
    column_of: Tensor | None,
    patches: Tensor | None,
    fill: int,
    scale_and_shift: Tensor,
    out: Tensor,
) -> None:
    """Write the batch of `gather` into `out` [B, 3, H, W] of any memory format.

    row_of: int32 [B, H] or None. column_of: int32 [B, W] or None. patches: int64 [B, 4] or None.
    """
    pixels = images[row]
    batch, height, width, _ = pixels.shape
    if row_of is not None:
        pixels = pixels[torch.arange(batch, device=row.device)[:, None], row_of.long().clamp(min=0)]
        pixels = pixels * (row_of >= 0)[:, :, None, None]  # a row of source BLACK
    if column_of is not None:
        pixels = pixels.gather(2, column_of.long().clamp(min=0)[:, None, :, None].expand(batch, height, width, 3))
        pixels = pixels * (column_of >= 0)[:, None, :, None]
    scale, shift = scale_and_shift
    values = pixels.float() * scale + shift
    if patches is not None:
        top, left, bottom, right = patches.T[:, :, None, None].unbind(0)
        y = torch.arange(height, device=row.device)[:, None]
        x = torch.arange(width, device=row.device)
        inside = (y >= top) & (y < bottom) & (x >= left) & (x < right)
        values = torch.where(inside[..., None], fill * scale + shift, values)
    out.copy_(values.permute(0, 3, 1, 2))


def uploaded(array: NDArray[Any], device: torch.device) -> Tensor:
    """Copy an array to the device; on a GPU the copy runs on the current stream."""
    tensor = torch.from_numpy(np.ascontiguousarray(array))
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor


@lru_cache
def _gpu_kernel():  # type: ignore[no-untyped-def]
    """Return the Triton kernel, or `in_torch` if Triton is not installed."""
    if importlib.util.find_spec("triton") is None:
        return in_torch
    from debeton.data.loader.gather_cuda import in_triton

    return in_triton
