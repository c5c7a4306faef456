"""Gradient mixing on a CPU: one pass over both gradients, by whole groups, while these are in the cache."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from llvmlite import ir
from numba import carray, njit, prange
from numba.core import types
from numba.extending import intrinsic
from numpy.typing import NDArray
from torch import Tensor

from debeton.methods.parts.mixing_layout import EPS, Layout, pieces_of, share_out, units_of
from debeton.system.jit import KERNEL_GUARD, use_threads

Ints = NDArray[np.int64]
RUN = 4096  # values that are added in float32 before their sum is added to a float64
REASSOCIATE = {"reassoc", "contract", "nsz"}  # allows a sum in lanes, and nothing that hides a NaN


@intrinsic
def _floats_at(typingctx, address):
    """Return a pointer to float32 from an address."""
    pointer = types.CPointer(types.float32)  # type: ignore[attr-defined]

    def codegen(context, builder, signature, args):
        return builder.inttoptr(args[0], ir.FloatType().as_pointer())

    return pointer(types.int64), codegen


@njit(nogil=True, cache=True, fastmath=REASSOCIATE)
def _add_dots(a, b, start, end, sums):
    """Add a.b, a.a and b.b over a contiguous run to sums, float64 [3]."""
    for first in range(start, end, RUN):
        ab, aa, bb = np.float32(0), np.float32(0), np.float32(0)
        for j in range(first, min(first + RUN, end)):
            ab += a[j] * b[j]
            aa += a[j] * a[j]
            bb += b[j] * b[j]
        sums[0] += ab
        sums[1] += aa
        sums[2] += bb


@njit(nogil=True, cache=True)
def _cosine(sums):
    """Return the cosine of two gradients from `_add_dots`'s sums."""
    return sums[0] / (max(np.sqrt(sums[1]), EPS) * max(np.sqrt(sums[2]), EPS))


@njit(nogil=True, cache=True)
def _weight(c, mapping):
    """Return phi(c). The numbers of the mappings are those of `mixing.MAPPINGS`."""
    if mapping == 0:
        return (c + 1) / 2
    if mapping == 1:
        return max(c, type(c)(0))
    if mapping == 2:
        return c
    return type(c)(c > 0)


@njit(nogil=True, cache=True, fastmath={"contract"})
def _apply(a, b, start, end, weight, scale):
    """Set b = scale (weight a + b) over a contiguous run."""
    w, s = np.float32(weight), np.float32(scale)
    for j in range(start, end):
        b[j] = s * (w * a[j] + b[j])


@njit(nogil=True, cache=True, fastmath={"contract"})
def _mix_scalars(a, b, start, end, mapping, scale):
    """Mix groups of one element each. Return the sum of their cosines."""
    total, s, eps = 0.0, np.float32(scale), np.float32(EPS)
    for first in range(start, end, RUN):
        part: Any = np.float32(0)
        for j in range(first, min(first + RUN, end)):
            c = a[j] * b[j] / (max(abs(a[j]), eps) * max(abs(b[j]), eps))
            part += c
            b[j] = s * (_weight(c, mapping) * a[j] + b[j])
        total += part
    return total


@njit(nogil=True, cache=True)
def _mix_runs(a, b, start, end, group, mapping, scale):
    """Mix groups of `group` neighbouring elements each. Return the sum of their cosines."""
    total = 0.0
    for first in range(start, end, group):
        last = min(first + group, end)
        sums = np.zeros(3)
        _add_dots(a, b, first, last, sums)
        c = _cosine(sums)
        total += c
        _apply(a, b, first, last, _weight(c, mapping), scale)
    return total


@njit(nogil=True, cache=True, fastmath=REASSOCIATE)
def _add_run_dots(a, b, start, run, columns, elements, sums):
    """Add the dots of `run` neighbouring kernels of a channels-last row to sums, float64 [3]."""
    ab, aa, bb = np.float32(0), np.float32(0), np.float32(0)
    for t in range(elements):
        first = start + t * columns
        for j in range(first, first + run):
            ab += a[j] * b[j]
            aa += a[j] * a[j]
            bb += b[j] * b[j]
    sums[0] += ab
    sums[1] += aa
    sums[2] += bb


@njit(nogil=True, cache=True)
def _mix_rows(a, b, first, end, columns, elements, group, mapping, scale):
    """Mix groups of `group` kernels over channels-last rows `first` to `end`. Return the sum of their cosines.

    Element t of a row's kernel `column` is at t columns + column in the row.
    """
    sums = np.zeros((-(-(end - first) * columns // group), 3))
    k, left = 0, group
    for row in range(first, end):
        column = 0
        while column < columns:
            run = min(columns - column, left)
            _add_run_dots(a, b, row * elements * columns + column, run, columns, elements, sums[k])
            column, left = column + run, left - run
            if left == 0:
                k, left = k + 1, group
    total, k, left = 0.0, 0, group
    c = _cosine(sums[0])
    for row in range(first, end):
        column = 0
        while column < columns:
            run = min(columns - column, left)
            weight = _weight(c, mapping)
            for t in range(elements):
                start = (row * elements + t) * columns + column
                _apply(a, b, start, start + run, weight, scale)
            column, left = column + run, left - run
            if left == 0 or (row == end - 1 and column == columns):
                total += c
                k, left = k + 1, group
                if k < len(sums):
                    c = _cosine(sums[k])
    return total


@njit(nogil=True, cache=True, fastmath=REASSOCIATE)
def _mix_columns(a, b, first, end, columns, elements, mapping, scale):
    """Mix groups of one kernel each over channels-last rows `first` to `end`. Return the sum of their cosines.

    The rows are mixed one at a time.
    """
    ab, aa, bb = np.empty(columns, np.float32), np.empty(columns, np.float32), np.empty(columns, np.float32)
    total, s, eps = 0.0, np.float32(scale), np.float32(EPS)
    for row in range(first, end):
        ab[:], aa[:], bb[:] = 0, 0, 0
        for t in range(elements):
            start = (row * elements + t) * columns
            for j in range(columns):
                x, y = a[start + j], b[start + j]
                ab[j] += x * y
                aa[j] += x * x
                bb[j] += y * y
        part: Any = np.float32(0)
        for j in range(columns):
            c = ab[j] / (max(np.sqrt(aa[j]), eps) * max(np.sqrt(bb[j]), eps))
            part += c
            ab[j] = _weight(c, mapping)
        total += part
        for t in range(elements):
            start = (row * elements + t) * columns
            for j in range(columns):
                b[start + j] = s * (ab[j] * a[start + j] + b[start + j])
    return total


@njit(parallel=True, nogil=True, cache=True)
def _mix_units(train, target, tensors, units, shares, mapping, scale, cosines):
    """Mix every unit (`mixing_layout.units_of`), and write the sum of its cosines to `cosines`.

    shares: where each thread's units begin.
    """
    for thread in prange(len(shares) - 1):
        for u in range(shares[thread], shares[thread + 1]):
            t, first, end = units[u, 0], units[u, 1], units[u, 2]
            size, columns, elements, group, is_last = (
                tensors[t, 0],
                tensors[t, 1],
                tensors[t, 2],
                tensors[t, 3],
                tensors[t, 4],
            )
            a, b = carray(_floats_at(train[t]), (size,)), carray(_floats_at(target[t]), (size,))
            if is_last == 1 and group == 1:
                cosines[u] = _mix_columns(a, b, first, end, columns, elements, mapping, scale)
            elif is_last == 1:
                cosines[u] = _mix_rows(a, b, first, end, columns, elements, group, mapping, scale)
            elif group * elements == 1:
                cosines[u] = _mix_scalars(a, b, first * columns, end * columns, mapping, scale)
            else:
                row = columns * elements
                cosines[u] = _mix_runs(a, b, first * row, end * row, group * elements, mapping, scale)


@njit(parallel=True, nogil=True, cache=True)
def _mix_pieces(train, target, tensors, pieces, mapping, scale, cosines):
    """Mix tensors that are one group each, in pieces (tensor, start, end).

    The first piece of a tensor gets its cosine.
    """
    sums = np.zeros((len(pieces), 3))
    for p in prange(len(pieces)):
        t, size = pieces[p, 0], tensors[pieces[p, 0], 0]
        a, b = carray(_floats_at(train[t]), (size,)), carray(_floats_at(target[t]), (size,))
        _add_dots(a, b, pieces[p, 1], pieces[p, 2], sums[p])
    weights, start = np.empty(len(pieces)), 0
    while start < len(pieces):
        end = start
        whole = np.zeros(3)
        while end < len(pieces) and pieces[end, 0] == pieces[start, 0]:
            whole += sums[end]
            end += 1
        cosines[start:end] = 0.0
        cosines[start] = _cosine(whole)
        weights[start:end] = _weight(cosines[start], mapping)
        start = end
    for p in prange(len(pieces)):
        t, size = pieces[p, 0], tensors[pieces[p, 0], 0]
        a, b = carray(_floats_at(train[t]), (size,)), carray(_floats_at(target[t]), (size,))
        _apply(a, b, pieces[p, 1], pieces[p, 2], weights[p], scale)


class CpuMixer:
    """The mixer of float32 gradients on torch's number of threads.

    layouts: of the gradients.
    group_kernels: `mixing_layout.kernels_per_group` of each tensor.
    mapping: the number of phi in `mixing.MAPPINGS`.
    scale: 1 for the sum, 1/2 for the mean.
    """

    def __init__(self, layouts: Sequence[Layout], group_kernels: Sequence[int], mapping: int, scale: float):
        self.mapping, self.scale = mapping, float(scale)
        self.tensors = np.array(
            [(x.size, x.columns, x.elements, g, x.is_channels_last) for x, g in zip(layouts, group_kernels)], np.int64
        )
        self.pieces = pieces_of(layouts, group_kernels)
        units, sizes = units_of(layouts, group_kernels)
        self.units, self.shares = share_out(units, sizes, torch.get_num_threads())
        self.cosines = np.zeros(len(self.units)), np.zeros(len(self.pieces))
        self.groups = np.array([-(-x.rows * x.columns // g) for x, g in zip(layouts, group_kernels)])

    def __call__(self, train: Sequence[Tensor], target: Sequence[Tensor]) -> Tensor:
        """Set target = scale (phi(c_k) train + target) in each group k.

        Return the mean cosine of each tensor's groups, [T].
        """
        addresses = [np.array([gradient.data_ptr() for gradient in side], np.int64) for side in (train, target)]
        shared = (*addresses, self.tensors)
        with KERNEL_GUARD:
            use_threads(torch.get_num_threads())
            _mix_units(*shared, self.units, self.shares, self.mapping, self.scale, self.cosines[0])
            _mix_pieces(*shared, self.pieces, self.mapping, self.scale, self.cosines[1])
        total = np.zeros(len(self.tensors))
        for parts, cosines in zip((self.units, self.pieces), self.cosines):
            total += np.bincount(parts[:, 0], cosines, minlength=len(total))
        return torch.from_numpy(total / self.groups)
