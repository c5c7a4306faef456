# mypy: disable-error-code="no-untyped-def"
"""Gradient mixing on a CUDA device: two Triton kernels over all tensors, reached through a table of addresses.

A program takes BLOCK kernels, one a lane. They are convolution kernels, or single elements of other tensors.
Neighbouring lanes read neighbouring elements in channels-last weights.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import triton
import triton.language as tl
from torch import Tensor

from debeton.methods.parts.mixing_layout import EPS, Layout

BLOCK = 256
FIELDS = 7  # of a tensor's line in the table: kernels, columns, row size, strides of column and element, group, first


@triton.jit
def _lanes(table, programs, p, BLOCK: tl.constexpr, FIELDS: tl.constexpr):
    """Return the work of program p: its tensor, kernels, which of them exist, their offsets, and the table's line."""
    t = tl.load(programs + 2 * p)
    line = table + t * FIELDS
    n = tl.load(programs + 2 * p + 1) + tl.arange(0, BLOCK)
    columns = tl.load(line + 1)
    offset = (n // columns) * tl.load(line + 2) + (n % columns) * tl.load(line + 3)
    return t, n, n < tl.load(line), offset, line


@triton.jit
def _add_dots(
    train,
    target,
    table,
    programs,
    sums,
    GROUP: tl.constexpr,
    ELEMENTS: tl.constexpr,
    BLOCK: tl.constexpr,
    FIELDS: tl.constexpr,
):
    """Set sums[3 k], [3 k + 1], [3 k + 2] += a.b, a.a, b.b of group k.

    GROUP: kernels of each group of these programs, a power of two that divides BLOCK; 0 where it is another number.
    ELEMENTS: elements of each kernel.
    """
    t, n, exists, offset, line = _lanes(table, programs, tl.program_id(0), BLOCK, FIELDS)
    a = tl.load(train + t).to(tl.pointer_type(tl.float32)) + offset
    b = tl.load(target + t).to(tl.pointer_type(tl.float32)) + offset
    stride, group, first_group = tl.load(line + 4), tl.load(line + 5), tl.load(line + 6)
    ab = tl.zeros([BLOCK], tl.float32)
    aa = tl.zeros([BLOCK], tl.float32)
    bb = tl.zeros([BLOCK], tl.float32)
    for e in range(ELEMENTS):
        x = tl.load(a + e * stride, mask=exists, other=0.0)
        y = tl.load(b + e * stride, mask=exists, other=0.0)
        ab += x * y
        aa += x * x
        bb += y * y
    if GROUP > 0:
        COUNT: tl.constexpr = BLOCK // GROUP
        ab = tl.sum(tl.reshape(ab, [COUNT, GROUP]), 1)
        aa = tl.sum(tl.reshape(aa, [COUNT, GROUP]), 1)
        bb = tl.sum(tl.reshape(bb, [COUNT, GROUP]), 1)
        first = tl.load(programs + 2 * tl.program_id(0) + 1) + tl.arange(0, COUNT) * GROUP
        at = sums + 3 * (first_group + first // GROUP)
        whole = first < tl.load(line)
        tl.store(at, ab, mask=whole)
        tl.store(at + 1, aa, mask=whole)
        tl.store(at + 2, bb, mask=whole)
    else:
        first = tl.load(programs + 2 * tl.program_id(0) + 1)
        last = tl.minimum(first + BLOCK, tl.load(line)) - 1
        if first // group == last // group:
            at = sums + 3 * (first_group + first // group)
            tl.atomic_add(at, tl.sum(ab, 0))
            tl.atomic_add(at + 1, tl.sum(aa, 0))
            tl.atomic_add(at + 2, tl.sum(bb, 0))
        else:
            lanes = sums + 3 * (first_group + n // group)
            tl.atomic_add(lanes, ab, mask=exists)
            tl.atomic_add(lanes + 1, aa, mask=exists)
            tl.atomic_add(lanes + 2, bb, mask=exists)


@triton.jit
def _apply(
    train,
    target,
    table,
    programs,
    sums,
    cosines,
    scale,
    EPS: tl.constexpr,
    MAPPING: tl.constexpr,
    ELEMENTS: tl.constexpr,
    BLOCK: tl.constexpr,
    FIELDS: tl.constexpr,
):
    """Set target = scale (phi(c) train + target), and cosines[t] += the cosines of the program's share of groups."""
    t, n, exists, offset, line = _lanes(table, programs, tl.program_id(0), BLOCK, FIELDS)
    kernels, group = tl.load(line), tl.load(line + 5)
    at = sums + 3 * (tl.load(line + 6) + n // group)
    ab = tl.load(at, mask=exists, other=0.0)
    aa = tl.load(at + 1, mask=exists, other=0.0)
    bb = tl.load(at + 2, mask=exists, other=0.0)
    c = ab / (tl.maximum(tl.sqrt(aa), EPS) * tl.maximum(tl.sqrt(bb), EPS))
    in_group = tl.maximum(tl.minimum(group, kernels - (n // group) * group), 1)
    tl.atomic_add(cosines + t, tl.sum(tl.where(exists, c / in_group, 0.0), 0))
    if MAPPING == 0:
        weight = (c + 1.0) / 2.0
    elif MAPPING == 1:
        weight = tl.maximum(c, 0.0)
    elif MAPPING == 2:
        weight = c
    else:
        weight = tl.where(c > 0.0, 1.0, 0.0)
    a = tl.load(train + t).to(tl.pointer_type(tl.float32)) + offset
    b = tl.load(target + t).to(tl.pointer_type(tl.float32)) + offset
    stride = tl.load(line + 4)
    for e in range(ELEMENTS):
        x = tl.load(a + e * stride, mask=exists, other=0.0)
        y = tl.load(b + e * stride, mask=exists, other=0.0)
        tl.store(b + e * stride, scale * (weight * x + y), mask=exists)


class CudaMixer:
    """The mixer of gradients on a CUDA device, in a few launches and without waiting for the device.

    Where several programs share a group its sums are atomic, so their last digits may differ from run to run.

    layouts: of the gradients.
    groups: kernels of a group, for each layout.
    mapping: the number of phi in `mixing.MAPPINGS`.
    scale: 1 for the sum, 1/2 for the mean.
    """

    def __init__(
        self, layouts: Sequence[Layout], groups: Sequence[int], mapping: int, scale: float, device: torch.device
    ):
        self.mapping, self.scale, self.device = mapping, scale, device
        counts = [-(-layout.kernels // group) for layout, group in zip(layouts, groups)]
        first_group = np.cumsum([0, *counts])
        lines: list[tuple[int, ...]] = []
        programs: dict[tuple[int, int], list[tuple[int, int]]] = {}
        for t, (x, group) in enumerate(zip(layouts, groups)):
            strides = (1, x.columns) if x.is_channels_last else (x.elements, 1)
            lines.append((x.kernels, x.columns, x.columns * x.elements, *strides, group, first_group[t]))
            kind = (group if BLOCK % group == 0 else 0, x.elements)
            programs.setdefault(kind, []).extend((t, n) for n in range(0, x.kernels, BLOCK))
        self.table = torch.tensor(np.array(lines, np.int64), device=device)
        self.programs = {kind: torch.tensor(of, dtype=torch.int64, device=device) for kind, of in programs.items()}
        self.sums = torch.zeros(3 * int(first_group[-1]), device=device)
        self.counts = torch.tensor(counts, dtype=torch.float64, device=device)

    def __call__(self, train: Sequence[Tensor], target: Sequence[Tensor]) -> Tensor:
        addresses = np.array([[gradient.data_ptr() for gradient in side] for side in (train, target)], np.int64)
        on_device = torch.from_numpy(addresses).to(self.device, non_blocking=True)
        cosines = torch.zeros(len(train), device=self.device)
        self.sums.zero_()
        sizes = {"BLOCK": BLOCK, "FIELDS": FIELDS}
        for (group, elements), programs in self.programs.items():
            work = (*on_device, self.table, programs, self.sums)
            _add_dots[(len(programs),)](*work, GROUP=group, ELEMENTS=elements, **sizes)
            _apply[(len(programs),)](
                *work, cosines, self.scale, EPS=EPS, MAPPING=self.mapping, ELEMENTS=elements, **sizes
            )
        return cosines.double() / self.counts
