"""Pickles that set out to harm: the states that NumPy and torch believe, written instruction by instruction."""

from __future__ import annotations

import io
import pickle
import struct
import zipfile
from dataclasses import dataclass
from typing import Any

GARBAGE = b"\x41" * 8  # an address where nothing is


@dataclass(frozen=True)
class Global:
    """A name in a pickle."""

    module: str
    name: str


@dataclass(frozen=True)
class Call:
    """A call in a pickle, and the state that its value is given. as_object: by the instruction for new objects."""

    function: Any
    arguments: tuple[Any, ...]
    state: Any = None
    as_object: bool = False


@dataclass(frozen=True)
class Stored:
    """A memory of torch.save that a pickle refers to."""

    identifier: tuple[Any, ...]


@dataclass(frozen=True)
class Raw:
    """Instructions as they are."""

    code: bytes


def code_of(value: Any) -> bytes:
    """The instructions, of protocol 2 as torch reads it, that leave a value on the stack."""
    match value:
        case Raw():
            return value.code
        case Global():
            return f"c{value.module}\n{value.name}\n".encode()
        case Call():
            made = code_of(value.function) + code_of(value.arguments) + (b"\x81" if value.as_object else b"R")
            return made + (b"" if value.state is None else code_of(value.state) + b"b")
        case Stored():
            return code_of(value.identifier) + b"Q"
        case None:
            return b"N"
        case bool():
            return b"\x88" if value else b"\x89"
        case int() if -(2**31) <= value < 2**31:
            return b"J" + struct.pack("<i", value)
        case int():
            number = pickle.encode_long(value)
            return b"\x8a" + bytes([len(number)]) + number
        case float():
            return b"G" + struct.pack(">d", value)
        case str():
            return b"X" + struct.pack("<I", len(value.encode())) + value.encode()
        case bytes():
            return code_of(Call(Global("_codecs", "encode"), (value.decode("latin1"), "latin1")))
        case tuple():
            return b"(" + b"".join(map(code_of, value)) + b"t"
        case list():
            return b"](" + b"".join(map(code_of, value)) + b"e"
        case dict():
            return b"}(" + b"".join(code_of(part) for item in value.items() for part in item) + b"u"
    raise TypeError(type(value))


def program(value: Any) -> bytes:
    """The pickle of a value, of protocol 2."""
    return b"\x80\x02" + code_of(value) + b"."


def archive(value: Any, *memories: bytes, order: bytes = b"little") -> bytes:
    """A file of torch.save that holds a value, and memories with the keys 0, 1, ..."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("x/data.pkl", program(value))
        file.writestr("x/byteorder", order)
        file.writestr("x/version", "3\n")
        for key, memory in enumerate(memories):
            file.writestr(f"x/data/{key}", memory)
    return buffer.getvalue()


# --- NumPy -------------------------------------------------------------------------------------------------------

MULTIARRAY = "numpy._core.multiarray"
NDARRAY, DTYPE = Global("numpy", "ndarray"), Global("numpy", "dtype")


def dtype(
    code: str, order: str = "|", width: int = -1, flags: int = 0, *, fields: tuple[Any, ...] = (None,) * 3
) -> Call:
    """The type of an array with the state that the file gives it."""
    return Call(DTYPE, (code, False, True), (3, order, *fields, width, -1, flags))


def array(kind: Any, shape: Any, values: Any) -> Call:
    """An array with the state that the file gives it."""
    return Call(Global(MULTIARRAY, "_reconstruct"), (NDARRAY, (0,), b"b"), (1, shape, kind, False, values))


def scalar(kind: Any, values: Any) -> Call:
    return Call(Global(MULTIARRAY, "scalar"), (kind, values))


def _nested(levels: int, start: bytes, level: bytes) -> Raw:
    """A value that holds the one below it several times, by reference."""
    return Raw(start + level * levels)


OBJECTS = dtype("O8", flags=63)
NUMBERS = dtype("i8", "<")
FIELD = {"x": (Call(DTYPE, ("O8", False, True)), 0)}  # of a row of objects
# An array of bytes, and then a second state of its type, by which its bytes are addresses.
TURNED = Raw(
    code_of(array(Raw(code_of(dtype("V8", width=8)) + b"q\x05"), (1,), GARBAGE))
    + b"h\x05"
    + code_of((3, "|", None, ("x",), FIELD, 8, 1, 27))
    + b"b0"
)
ARRAYS: dict[str, Any] = {
    "bytes whose type becomes one of objects": TURNED,
    "an array of objects whose values are bytes": array(OBJECTS, (1,), GARBAGE),
    "an array of objects that has no values": array(OBJECTS, (4,), None),
    "an array of objects of a shorter list": array(OBJECTS, (4,), ["a"]),
    "an array of objects that are classes": array(OBJECTS, (1,), [NDARRAY]),
    "bytes whose type says that they are objects": array(dtype("V8", width=8, flags=63), (1,), GARBAGE),
    "numbers whose type says that they are objects": array(dtype("i8", "<", flags=63), (2,), GARBAGE),
    "a field of objects": array(
        dtype("V8", width=8, flags=27, fields=(None, ("x",), FIELD)),
        (1,),
        GARBAGE,
    ),
    "a part of objects": array(dtype("V8", width=8, flags=27, fields=((OBJECTS, (1,)), None, None)), (1,), GARBAGE),
    "a field outside its row": array(
        dtype("V8", width=8, fields=(None, ("x",), {"x": (Call(DTYPE, ("i8", False, True)), 2**30)})), (1,), GARBAGE
    ),
    "a type of a width that is not its own": array(dtype("S1", width=2**30), (1,), b"x"),
    "text of a width that is not its own": array(dtype("U1", "<", width=2**20), (1,), b"xxxx"),
    "a type of a negative width": array(dtype("S1", width=-8), (1,), b"x"),
    "a number of objects": scalar(OBJECTS, GARBAGE),
    "a number of fewer bytes": scalar(dtype("f8", "<"), b"x"),
    "a void of objects": scalar(dtype("V8", width=8, flags=63), GARBAGE),
    "a buffer of objects": Call(Global("numpy._core.numeric", "_frombuffer"), (GARBAGE, OBJECTS, (1,), "C")),
    "fewer bytes than values": array(NUMBERS, (1000,), GARBAGE),
    "a negative shape": array(NUMBERS, (-1,), GARBAGE),
    "a shape of all memory": array(NUMBERS, (2**40,), GARBAGE),
    "a shape whose product overflows": array(NUMBERS, (2**32, 2**32), b""),
    "an endless array without values": array(NUMBERS, (2**40, 0), b""),
    "an array made as an object with strides": Call(
        NDARRAY, ((2**20,), "i8", GARBAGE * 2, 0, (-(2**20),)), as_object=True
    ),
    "an array made by its class": Call(NDARRAY, ((4,), "O")),
    "an array with its state given twice": Raw(
        code_of(array(NUMBERS, (1,), GARBAGE)) + code_of((1, (2**20,), NUMBERS, False, GARBAGE)) + b"b"
    ),
    "a buffer with a state": Call(
        Global("numpy._core.numeric", "_frombuffer"),
        (GARBAGE, NUMBERS, (1,), "C"),
        (1, (1,), OBJECTS, False, GARBAGE),
    ),
    "a number with a state": Raw(code_of(scalar(NUMBERS, GARBAGE)) + code_of(GARBAGE) + b"b"),
    "text of characters that do not exist": array(dtype("U2", "<", width=8), (1,), b"\xff" * 8),
    "a class with a state": Raw(code_of(Global("builtins", "set")) + code_of((None, {"__init__": None})) + b"b"),
    "a constructor with a state": Raw(code_of(Global("_codecs", "encode")) + code_of((None, {"x": 1})) + b"b"),
    "a list that holds itself": Raw(b"]q\x00h\x00a"),
    "lists of lists, without an end": _nested(40, b"]", b"q\x01](h\x01h\x01h\x01h\x01e"),
    "a key whose hash takes for ever": Raw(b"}" + code_of(_nested(60, b")", b"q\x01h\x01\x86")) + b"Ns"),
    "bytes of all memory by their number": Call(Global("builtins", "bytearray"), (2**42,)),
    "a class as a value": NDARRAY,
}
# --- torch -------------------------------------------------------------------------------------------------------

WORDS = struct.pack("<4f", 1, 2, 3, 4)


def memory(count: int, kind: str = "FloatStorage", key: str = "0") -> Stored:
    return Stored(("storage", Global("torch", kind), key, "cpu", count))


def tensor(of: Any, offset: Any, size: Any, strides: Any, grad: bool = False, *more: Any) -> Call:
    hooks = Call(Global("collections", "OrderedDict"), ())
    return Call(Global("torch._utils", "_rebuild_tensor_v2"), (of, offset, size, strides, grad, hooks, *more))


def _layout(name: str) -> Call:
    return Call(Global("torch.serialization", "_get_layout"), (f"torch.{name}",))


def _utils(name: str, *arguments: Any) -> Call:
    return Call(Global("torch._utils", name), arguments)


LONGS = tensor(memory(2, "LongStorage"), 0, (1, 2), (2, 1))
TENSORS: dict[str, Any] = {
    "a memory larger than the file's": tensor(memory(2**22), 0, (2**22,), (1,)),
    "a memory of another type": tensor(memory(4, "DoubleStorage"), 0, (4,), (1,)),
    "a memory of negative size": tensor(memory(-4), 0, (4,), (1,)),
    "a memory that is not there": tensor(memory(4, key="7"), 0, (4,), (1,)),
    "a memory out of the archive": tensor(memory(4, key="../../0"), 0, (4,), (1,)),
    "a window past the end": tensor(memory(4), 0, (2**20,), (1,)),
    "a window that starts before": tensor(memory(4), -100, (4,), (1,)),
    "a window that starts behind": tensor(memory(4), 2**30, (4,), (1,)),
    "backward strides": tensor(memory(4), 3, (4,), (-1,)),
    "strides that overflow": tensor(memory(4), 0, (5,), (2**62,)),
    "sizes that overflow": tensor(memory(4), 0, (2**33, 2**33), (0, 0)),
    "four bytes that stand for terabytes": tensor(memory(4), 0, (2**40,), (0,)),
    "more strides than sizes": tensor(memory(4), 0, (4,), (1, 1)),
    "sizes that are no numbers": tensor(memory(4), 0, ("a",), (1,)),
    "marks of a complex number": tensor(memory(4), 0, (4,), (1,), False, {"conj": True, "neg": True}),
    "whole numbers with a gradient": tensor(memory(2, "LongStorage"), 0, (2,), (1,), True),
    "a sparse tensor": _utils(
        "_rebuild_sparse_tensor",
        _layout("sparse_coo"),
        (LONGS, tensor(memory(4), 0, (2,), (1,)), Call(Global("torch", "Size"), ((1,),))),
    ),
    "a nested tensor": _utils("_rebuild_nested_tensor", tensor(memory(4), 0, (4,), (1,)), LONGS, LONGS, LONGS),
    "a tensor without memory": _utils("_rebuild_meta_tensor_no_storage", Global("torch", "float32"), (4,), (1,), False),
    "a quantized tensor": _utils(
        "_rebuild_qtensor", memory(4), 0, (4,), (1,), (Global("torch", "per_tensor_affine"), 1.0, 0), False, None
    ),
    "a tensor of uninitialized memory": Call(Global("torch", "FloatTensor"), (2**30,)),
    "a tensor with a state": Raw(
        code_of(tensor(memory(4), 0, (4,), (1,))) + code_of((memory(4), 0, (2**20,), (1,))) + b"b"
    ),
    "a parameter of no tensor": _utils("_rebuild_parameter", "x", True, None),
    "a memory as a value": memory(4),
    "a parameter's class as a value": Global("torch.nn.parameter", "Parameter"),
}
