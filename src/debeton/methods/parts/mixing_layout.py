"""The work of gradient mixing: where the elements of parameter groups lie in memory, and how threads share them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

EPS = 1e-8  # the least that a norm counts as, so that a zero gradient has cosine 0


def kernels_per_group(shape: Sequence[int], group_size: int) -> int:
    """How many consecutive kernels, the out x in slices of a weight [out, in, k, ...], are one parameter group.

    Weights of more than two dimensions: `group_size` kernels; one output filter where there are 3 input channels (the
    stem). Others (linear layers, norm scales, biases), and all where group_size is 0: the whole tensor. The last group
    of a tensor holds what is left where the size does not divide it (SCALE's code stops there).
    """
    kernels = max(1, math.prod(shape[:2]))
    if len(shape) <= 2 or group_size == 0:
        return kernels
    return min(kernels, shape[1] if shape[1] == 3 else group_size)


@dataclass(frozen=True)
class Layout:
    """A dense tensor as rows x columns kernels of some elements each.

    Row-major: [rows, columns, elements]. Channels last: [rows, elements, columns].
    """

    rows: int
    columns: int
    elements: int
    is_channels_last: bool = False

    @property
    def kernels(self) -> int:
        return self.rows * self.columns

    @property
    def size(self) -> int:
        return self.kernels * self.elements


def layout_of(tensor: Tensor) -> Layout:
    """The layout of a dense tensor; ValueError for one that is neither row-major nor channels last."""
    rows, columns, *others = (*tensor.shape, 1, 1)[: max(2, tensor.ndim)]
    layout = Layout(rows, columns, math.prod(others))
    if tensor.is_contiguous():
        return layout
    if tensor.ndim > 2 and tensor.movedim(1, -1).is_contiguous():
        return Layout(rows, columns, layout.elements, is_channels_last=layout.elements > 1)
    raise ValueError(f"a gradient of shape {list(tensor.shape)} and strides {tensor.stride()} cannot be mixed in place")


UNIT = 1 << 15  # elements that a thread mixes at a time: two gradients of that size stay in its cache


def is_cut(layout: Layout, group: int) -> bool:
    """Whether a tensor is one group, and too large for one thread."""
    return group == layout.kernels and layout.size > 4 * UNIT


def units_of(layouts: Sequence[Layout], groups: Sequence[int]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Pieces that hold whole groups, [U, 3] (tensor, first row, end row), and how many elements each has, [U].

    Groups begin anew every g / gcd(g, columns) rows, so pieces of as many rows need nothing of each other. Tensors
    that `is_cut` are left out.
    """
    units, sizes = [], []
    for tensor, (layout, group) in enumerate(zip(layouts, groups, strict=True)):
        if is_cut(layout, group):
            continue
        row = layout.columns * layout.elements
        period = group // math.gcd(group, layout.columns)
        step = -(-max(1, UNIT // row) // period) * period
        for first in range(0, layout.rows, step):
            end = min(first + step, layout.rows)
            units.append((tensor, first, end))
            sizes.append((end - first) * row)
    return np.array(units, np.int64).reshape(-1, 3), np.array(sizes, np.int64)


def pieces_of(layouts: Sequence[Layout], groups: Sequence[int]) -> NDArray[np.int64]:
    """Pieces [P, 3] (tensor, first element, end element) of the tensors that `is_cut`, tensor after tensor."""
    pieces = [
        (tensor, first, min(first + UNIT, layout.size))
        for tensor, (layout, group) in enumerate(zip(layouts, groups, strict=True))
        if is_cut(layout, group)
        for first in range(0, layout.size, UNIT)
    ]
    return np.array(pieces, np.int64).reshape(-1, 3)


def share_out(
    units: NDArray[np.int64], sizes: NDArray[np.int64], threads: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(units in another order, [threads + 1] where each thread's share begins): the largest go to the idlest first."""
    members: list[list[int]] = [[] for _ in range(threads)]
    load = [0] * threads
    for unit in np.argsort(-sizes, kind="stable").tolist():
        idlest = load.index(min(load))
        members[idlest].append(unit)
        load[idlest] += int(sizes[unit])
    order = [unit for share in members for unit in sorted(share)]
    return units[order], np.cumsum([0, *map(len, members)])
