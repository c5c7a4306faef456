# mypy: disable-error-code="no-untyped-def"
"""A Triton kernel for gather.py: each pixel is read once, as a byte, and written once, normalised."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 256  # pixels of a program


@triton.jit
def _gather(
    images,
    row,
    row_of,
    column_of,
    patches,
    fill,
    scale_and_shift,
    out,
    height,
    width,
    batch_stride,
    channel_stride,
    row_stride,
    column_stride,
    MOVES_ROWS: tl.constexpr,
    MOVES_COLUMNS: tl.constexpr,
    PATCHED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Write pixels BLOCK p to BLOCK (p + 1) of image b of the batch, for program (p, b)."""
    b = tl.program_id(1).to(tl.int64)
    pixel = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    exists = pixel < height * width
    y, x = pixel // width, pixel % width
    from_y, from_x = y, x
    if MOVES_ROWS:
        from_y = tl.load(row_of + b * height + y, mask=exists, other=0)
    if MOVES_COLUMNS:
        from_x = tl.load(column_of + b * width + x, mask=exists, other=0)
    source = images + tl.load(row + b) * (height * width * 3) + (from_y * width + from_x) * 3
    target = out + b * batch_stride + y * row_stride + x * column_stride
    visible = exists & (from_y >= 0) & (from_x >= 0)  # else the source is BLACK
    inside = pixel < 0
    if PATCHED:
        corner = patches + 4 * b
        inside = (y >= tl.load(corner)) & (y < tl.load(corner + 2))
        inside = inside & (x >= tl.load(corner + 1)) & (x < tl.load(corner + 3))
    for c in tl.static_range(3):
        value = tl.load(source + c, mask=visible, other=0).to(tl.float32)
        if PATCHED:
            value = tl.where(inside, fill * 1.0, value)
        value = value * tl.load(scale_and_shift + c) + tl.load(scale_and_shift + 3 + c)
        tl.store(target + c * channel_stride, value.to(out.dtype.element_ty), mask=exists)


def in_triton(
    images: Tensor,
    row: Tensor,
    row_of: Tensor | None,
    column_of: Tensor | None,
    patches: Tensor | None,
    fill: int,
    scale_and_shift: Tensor,
    out: Tensor,
) -> None:
    """Write the batch of `gather.in_torch` on the current stream.

    The values may differ in the last bit, because the kernel uses a fused multiply-add.
    """
    batch, _, height, width = out.shape
    grid = (triton.cdiv(height * width, BLOCK), batch)
    with torch.cuda.device_of(images):
        _gather[grid](
            images,
            row,
            row_of if row_of is not None else row,
            column_of if column_of is not None else row,
            patches if patches is not None else row,
            fill,
            scale_and_shift.contiguous(),
            out,
            height,
            width,
            out.stride(0),
            out.stride(1),
            out.stride(2),
            out.stride(3),
            MOVES_ROWS=row_of is not None,
            MOVES_COLUMNS=column_of is not None,
            PATCHED=patches is not None,
            BLOCK=BLOCK,
        )
