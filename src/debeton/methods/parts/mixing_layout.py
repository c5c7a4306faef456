"""The layout of gradient mixing: where the elements of parameter groups lie in memory, and how threads share them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

EPS = 1e-8  # the least value of a norm, so that a zero gradient has cosine 0


def kernels_per_group(shape: Sequence[int], group_size: int) -> int:
    """Return the number of consecutive kernels that form one parameter group.

    The kernels are the out x in slices of a weight [out, in, k, ...]. A weight of more than two dimensions has groups
    of `group_size` kernels, or of one output filter where it has 3 input channels (the stem). Other tensors (linear
    layers, norm scales, biases), and all where group_size is 0, are one group.

    Where the size does not divide a tensor, its last group is smaller. SCALE's code rounds the number of groups down
    there, and makes all of them equally large and larger. It stops only where this number does not divide the tensor.
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
        """The number of kernels."""
        return self.rows * self.columns

    @property
    def size(self) -> int:
        """The number of elements of the tensor."""
        return self.kernels * self.elements


def layout_of(tensor: Tensor) -> Layout:
    """Return the layout of a dense tensor. Raise ValueError for one that is neither row-major nor channels last."""
    rows, columns, *others = (*tensor.shape, 1, 1)[: max(2, tensor.ndim)]
    layout = Layout(rows, columns, math.prod(others))
    if tensor.is_contiguous():
        return layout
    if tensor.ndim > 2 and tensor.movedim(1, -1).is_contiguous():
        return Layout(rows, columns, layout.elements, is_channels_last=layout.elements > 1)
    raise ValueError(f"a gradient of shape {list(tensor.shape)} and strides {tensor.stride()} cannot be mixed in place")


UNIT = 1 << 15  # elements that a thread mixes at a time: two gradients of that size stay in its cache


def is_cut(layout: Layout, group: int) -> bool:
    """Return whether a tensor is one group that is too large for one thread."""
    return group == layout.kernels and layout.size > 4 * UNIT


def units_of(layouts: Sequence[Layout], groups: Sequence[int]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return pieces that hold whole groups, [U, 3] (tensor, first row, end row), and their numbers of elements, [U].

    Groups begin anew every g / gcd(g, columns) rows, so pieces of as many rows are independent of each other. Tensors
    that `is_cut` are left out.

    groups: kernels of a group, for each layout.
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
    """Return pieces of the tensors that `is_cut`, [P, 3] (tensor, first element, end element).

    They are in the order of the tensors.
    """
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
    """Return the units in a new order, and [threads + 1] where each thread's share of them begins.

    The largest units go first, each to the thread with the least work so far.
    """
    members: list[list[int]] = [[] for _ in range(threads)]
    load = [0] * threads
    for unit in np.argsort(-sizes, kind="stable").tolist():
        idlest = load.index(min(load))
        members[idlest].append(unit)
        load[idlest] += int(sizes[unit])
    order = [unit for share in members for unit in sorted(share)]
    return units[order], np.cumsum([0, *map(len, members)])
