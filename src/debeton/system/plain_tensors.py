"""Tensors in the pickles of torch.save, made within the bounds of the memory that the file gives them.

Only plain tensors are made: no sparse, nested or quantized ones, whose parts torch does not hold against each other.
"""

from __future__ import annotations

import argparse
import math
import pickle
import re
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from debeton.system.plain_parts import COUNTER, ORDERED, Name, Part

# A tensor may have more values than its memory where it repeats them, and this number at most.
FREE_VALUES = 2**24
STORAGES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
    "ComplexFloatStorage": torch.complex64,
    "ComplexDoubleStorage": torch.complex128,
    "UntypedStorage": torch.uint8,
}
# Of types that lie in an UntypedStorage, and of types that are values themselves.
DTYPES = {
    name: kind
    for name in dir(torch)
    if isinstance(kind := getattr(torch, name), torch.dtype)
    and not re.match(r"q|bit|float4|u?int[1-7]$", name)  # of parts of bytes, or of numbers with a scale
}


class Memory(Part):
    """The memory of tensors, read when the first of them is made.

    nbytes: its size, which the file has been held against.
    dtype: the type that its identifier names.
    read: returns the bytes of the file, in the machine's byte order, on the device where the tensors are wanted.
    """

    def __init__(self, nbytes: int, dtype: torch.dtype, read: Callable[[], torch.UntypedStorage]):
        self.nbytes, self.dtype, self._read = nbytes, dtype, read
        self._storage: torch.UntypedStorage | None = None

    def storage(self) -> torch.UntypedStorage:
        if self._storage is None:
            self._storage = self._read()
        return self._storage

    def window(self, dtype: torch.dtype, start: Any, count: Any) -> Memory:
        """Return a part of this memory. start, count: in values of the type. UnpicklingError if it reaches out."""
        start, count = (number * dtype.itemsize for number in _whole((start, count)))
        if start + count > self.nbytes:
            raise pickle.UnpicklingError("it has memory that reaches out of another memory")
        return Memory(count, dtype, lambda: self.storage()[start : start + count])

    def finish(self, finished: Callable[[Any], Any]) -> Any:
        raise pickle.UnpicklingError("it has the memory of a tensor where a tensor is expected")


def memory_size(kind: Any, count: Any) -> tuple[torch.dtype, int]:
    """Return the type of a storage and its bytes. UnpicklingError if they are none. count: its number of values."""
    if type(kind) is not Name or not isinstance(kind.value, torch.dtype) or type(count) is not int or count < 0:
        raise pickle.UnpicklingError("it has a tensor whose memory has no type or size")
    return kind.value, count * kind.value.itemsize


class TensorPart(Part):
    """A tensor: a window on a memory.

    offset, strides: in values. size: its shape.
    UnpicklingError if it reaches out of the memory, or repeats its values to more than `FREE_VALUES`.
    """

    word = "a tensor"

    def __init__(self, memory: Memory, dtype: torch.dtype, offset: Any, size: Any, strides: Any, grad: Any):
        self.memory, self.dtype, self.grad = memory, dtype, bool(grad)
        self.offset, self.size, self.strides = _whole((offset,))[0], _whole(size), _whole(strides)
        there, count = memory.nbytes // dtype.itemsize, math.prod(self.size)
        last = self.offset + sum((length - 1) * step for length, step in zip(self.size, self.strides))
        if len(self.size) != len(self.strides) or (last >= there if count else self.offset > there):
            raise pickle.UnpicklingError(
                f"it has a tensor {list(self.size)} that reaches out of its memory of {there} values"
            )
        if count > max(there, FREE_VALUES) or (not count and max(self.size) > FREE_VALUES):
            raise pickle.UnpicklingError(f"it has a tensor {list(self.size)} of a memory of {there} values")

    def finish(self, finished: Callable[[Any], Any]) -> Tensor:
        storage = self.memory.storage()
        tensor = torch.empty(0, dtype=self.dtype, device=storage.device)
        tensor.set_(storage, self.offset, self.size, self.strides)  # type: ignore[call-overload]
        return tensor.requires_grad_(self.grad)


class ParameterPart(Part):
    """A parameter. tensor: its values."""

    def __init__(self, tensor: Any, grad: Any = True, *further: Any):
        if not isinstance(tensor, TensorPart):
            raise pickle.UnpicklingError("it has a parameter that is no tensor")
        self.tensor, self.grad = tensor, bool(grad)

    def finish(self, finished: Callable[[Any], Any]) -> Any:
        return torch.nn.Parameter(finished(self.tensor).detach(), requires_grad=self.grad)


class NamespacePart(Part):
    """The values of argparse, or another plain object. kind: its class."""

    def __init__(self, kind: type, *arguments: Any):
        if arguments:
            raise pickle.UnpicklingError(f"it has a {kind.__name__} of arguments")
        self.kind, self.state = kind, dict[str, Any]()

    def build(self, state: Any) -> None:
        """Take the values by name. UnpicklingError for any other state."""
        if type(state) is not dict or not all(type(name) is str for name in state):
            raise pickle.UnpicklingError(f"it has a {self.kind.__name__} that is no table of values by name")
        self.state = state

    def finish(self, finished: Callable[[Any], Any]) -> Any:
        made = self.kind()
        vars(made).update({name: finished(value) for name, value in self.state.items()})
        return made


def _whole(numbers: Any) -> tuple[int, ...]:
    """Return whole numbers from 0. UnpicklingError for others: torch counts strides forwards only."""
    found = tuple(numbers) if isinstance(numbers, Sequence) else (None,)
    if len(found) > 64 or any(type(number) is not int or number < 0 for number in found):
        raise pickle.UnpicklingError("it has a tensor of an offset, sizes or strides that are no numbers from 0")
    return found


def _tensor(memory: Any, offset: Any, size: Any, strides: Any, grad: Any = False, hooks: Any = None, marks: Any = None):  # type: ignore[no-untyped-def]
    """Return a tensor of the type of its memory. hooks: not taken. marks: of a conjugated or negated view."""
    if not isinstance(memory, Memory) or marks:
        raise pickle.UnpicklingError("it has a tensor without memory, or a view that is conjugated or negated")
    return TensorPart(memory, memory.dtype, offset, size, strides, grad)


def _tensor_of_type(  # type: ignore[no-untyped-def]
    memory: Any, offset: Any, size: Any, strides: Any, grad: Any, hooks: Any, dtype: Any, marks: Any = None
):
    """Return a tensor of a type that has no memory of its own."""
    if not isinstance(memory, Memory) or marks or type(dtype) is not Name or dtype.value not in DTYPES.values():
        raise pickle.UnpicklingError("it has a tensor without memory, or of a type that is not plain")
    return TensorPart(memory, dtype.value, offset, size, strides, grad)


def _from_type(make: Any, kind: Any, arguments: Any, state: Any) -> Any:
    """Return a tensor that had attributes, which are left out."""
    if type(make) is not Name or make.make is None or type(arguments) is not tuple:
        raise pickle.UnpicklingError("it has a tensor that nothing makes")
    part = make.make(*arguments)
    if not isinstance(part, TensorPart | ParameterPart):
        raise pickle.UnpicklingError("it has a tensor of another kind")
    return part


def _size(sizes: Any = ()) -> torch.Size:
    return torch.Size(_whole(sizes))


def _device(kind: Any, index: Any = None) -> torch.device:
    return torch.device(kind) if index is None else torch.device(kind, index)


TENSOR_NAMES: dict[tuple[str, str], Name] = {
    ("collections", "OrderedDict"): ORDERED,
    ("collections", "Counter"): COUNTER,
    ("argparse", "Namespace"): Name(lambda *arguments: NamespacePart(argparse.Namespace, *arguments)),
    ("types", "SimpleNamespace"): Name(lambda *arguments: NamespacePart(SimpleNamespace, *arguments)),
    ("torch", "Size"): Name(_size),
    ("torch", "device"): Name(_device),
    ("torch", "Tensor"): Name(),
    ("torch.nn.parameter", "Parameter"): Name(ParameterPart),
    ("torch._tensor", "_rebuild_from_type_v2"): Name(_from_type),
    **{
        ("torch._utils", name): Name(make)
        for name, make in (
            ("_rebuild_tensor", _tensor),
            ("_rebuild_tensor_v2", _tensor),
            ("_rebuild_tensor_v3", _tensor_of_type),
            ("_rebuild_parameter", ParameterPart),
            ("_rebuild_parameter_with_state", ParameterPart),
        )
    },
    **{("torch", name): Name(value=kind) for name, kind in DTYPES.items()},
    **{(room, name): Name(value=kind) for room in ("torch", "torch.storage") for name, kind in STORAGES.items()},
}
