"""NumPy arrays and numbers in pickles of other programs, made from plain types and the bytes of their values.

NumPy's own constructors believe what a file says: an array of objects whose state is bytes takes these for addresses.
"""

from __future__ import annotations

import math
import pickle
import re
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from debeton.system.plain_parts import FREE_ITEMS, Name, Part, encoded

# Truth values, whole numbers, numbers, bytes and text of a fixed width, and objects, which must be text or numbers.
CODE = re.compile(r"[?bBhHiIlLqQefdg]|b1|[iu][1248]|f(?:2|4|8|12|16)|[SUa][0-9]{1,9}|O[48]?")
ORDERS = ("<", ">", "=", "|")
_ITEMS: tuple[type, ...] = (str, bytes, int, float, type(None), np.generic)  # of an array of objects


class DtypePart(Part):
    """The type of an array. dtype: NumPy's, in the byte order of the file."""

    def __init__(self, code: str | bytes, align: Any = False, copy: Any = True):
        code = _text(code)
        if not CODE.fullmatch(code):
            raise pickle.UnpicklingError(f"it has an array of the type {code[:40]!r}, which is not plain")
        self.dtype: np.dtype[Any] = np.dtype("O" if code[0] == "O" else code.replace("a", "S"))

    def build(self, state: Any) -> None:
        """Take the byte order. UnpicklingError for fields, parts and other widths."""
        if type(state) is not tuple or len(state) not in (8, 9) or state[0] not in (3, 4):
            raise pickle.UnpicklingError("it has the type of an array with a state that NumPy does not write")
        order, width, further = _text(state[1]), state[5], (*state[2:5], *state[8:])
        plain = all(item is None or item == {} for item in further)
        if order not in ORDERS or not plain or width not in (-1, self.dtype.itemsize):
            raise pickle.UnpicklingError("it has an array of a type with fields, parts or another width")
        if order in "<>":
            self.dtype = np.dtype(order + self.dtype.str[1:])

    def finish(self, finished: Callable[[Any], Any]) -> Any:
        return self.dtype


class ArrayPart(Part):
    """An array that is described by its state."""

    def __init__(self, *kind: Any):
        self._array: NDArray[Any] | None = None

    def build(self, state: Any) -> None:
        """Take the shape, the type and the values. UnpicklingError unless they fit each other."""
        if type(state) is not tuple or len(state) not in (4, 5):
            raise pickle.UnpicklingError("it has an array with a state that NumPy does not write")
        shape, kind, columns_first, values = state[-4:]
        order = "F" if columns_first else "C"
        dtype = _dtype(kind)
        self._array = _objects(values, shape, order) if dtype.hasobject else array_of(values, dtype, shape, order)

    def finish(self, finished: Callable[[Any], Any]) -> Any:
        if self._array is None:
            raise pickle.UnpicklingError("it has an array without values")
        return self._array


def array_of(values: Any, dtype: np.dtype[Any], shape: Any, order: str = "C") -> NDArray[Any]:
    """Return an array of its own memory, in this machine's byte order, from the bytes of its values.

    values: bytes, or text as Python 2 writes bytes. shape: of the array. order: 'C', or 'F' for columns first.

    UnpicklingError if the bytes are not those of such an array, or are no text or truth value where they should be.
    """
    shape = _shape(shape)
    data = encoded(values) if type(values) is str else values
    if type(data) not in (bytes, bytearray) or dtype.hasobject or not dtype.itemsize:
        raise pickle.UnpicklingError(f"it has an array of {dtype} whose values are no bytes")
    if len(data) != math.prod(shape) * dtype.itemsize:
        raise pickle.UnpicklingError(f"it has {len(data)} bytes for an array {list(shape)} of {dtype}")
    flat = np.frombuffer(data, dtype)
    if dtype.kind == "b" and (flat.view(np.uint8) > 1).any():
        raise pickle.UnpicklingError("it has a truth value that is neither 0 nor 1")
    if dtype.kind == "U" and (flat.view(np.dtype("u4").newbyteorder(dtype.byteorder)) > 0x10FFFF).any():
        raise pickle.UnpicklingError("it has text of characters that do not exist")
    ordered = flat.reshape(shape, order="F" if order == "F" else "C")
    return ordered.astype(dtype.newbyteorder("="), order="K")


def _objects(values: Any, shape: Any, order: str) -> NDArray[Any]:
    """Return an array of objects from a list of text or numbers."""
    shape = _shape(shape)
    if type(values) is not list or len(values) != math.prod(shape):
        raise pickle.UnpicklingError("it has an array of objects that are no list of them")
    for value in values:
        if not isinstance(value, _ITEMS):
            raise pickle.UnpicklingError("it has an array of objects that are neither text nor numbers")
    flat = np.empty(len(values), object)
    flat[:] = values
    return flat.reshape(shape, order="F" if order == "F" else "C")


def _scalar(kind: Any, value: Any = None) -> Any:
    """Return a number or text of NumPy from its type and bytes."""
    return array_of(value, _dtype(kind), ())[()]


def _from_buffer(values: Any, kind: Any, shape: Any, order: Any, axes: Any = None) -> NDArray[Any]:
    """Return an array as protocol 5 describes it. axes: of an array whose axes lie in another sequence, order 'K'."""
    array = array_of(values, _dtype(kind), shape, order)
    if order == "K" and axes is not None:
        if sorted(axes) != [*range(array.ndim)]:
            raise pickle.UnpicklingError("it has an array of axes that do not exist")
        return array.transpose(axes)
    return array


def _shape(shape: Any) -> tuple[int, ...]:
    """Return the shape of an array. UnpicklingError if it is none, or one of endless empty lists."""
    sizes = shape if type(shape) is tuple else (shape,)
    if len(sizes) > 32 or any(type(size) is not int or size < 0 for size in sizes):
        raise pickle.UnpicklingError("it has an array of a shape that is no shape")
    if 0 in sizes and math.prod(size for size in sizes if size) > FREE_ITEMS:
        raise pickle.UnpicklingError(f"it has an array {list(sizes)}, whose lists are endless though it has no values")
    return sizes


def _dtype(kind: Any) -> np.dtype[Any]:
    if not isinstance(kind, DtypePart):
        raise pickle.UnpicklingError("it has an array without a type")
    return kind.dtype


def _text(value: Any) -> str:
    """Return text that may be bytes, as Python 2 writes it."""
    if type(value) not in (str, bytes):
        raise pickle.UnpicklingError("it has the type of an array that is no text")
    return value.decode("latin1") if isinstance(value, bytes) else str(value)


ARRAY_NAMES: dict[tuple[str, str], Name] = {
    ("numpy", "ndarray"): Name(),
    ("numpy", "dtype"): Name(DtypePart),
    # NumPy 1 wrote numpy.core, NumPy 2 writes numpy._core.
    **{
        (f"numpy.{core}.{module}", name): Name(make)
        for core in ("core", "_core")
        for module, name, make in (
            ("multiarray", "_reconstruct", ArrayPart),
            ("multiarray", "scalar", _scalar),
            ("numeric", "_frombuffer", _from_buffer),
        )
    },
}
