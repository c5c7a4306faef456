"""FFCV's compiled JPEG decoder and resizer, callable from our own JIT kernels.

FFCV calls these through ctypes objects, which numba freezes into the machine code, so that its
pipelines can never be cached and every loader compiles for seconds. Here the address is an
argument of the kernel, the kernel caches on disk, and the second start costs milliseconds.
"""

from __future__ import annotations

import ctypes
import importlib.util
from pathlib import Path

import numpy as np
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

_I1, _I32, _I64 = ir.IntType(1), ir.IntType(32), ir.IntType(64)


def _library() -> ctypes.CDLL:
    """FFCV's compiled library, found without importing the package (ffcv_format.py says why)."""
    package = importlib.util.find_spec("ffcv")
    for folder in (package.submodule_search_locations or []) if package else []:
        for file in Path(folder).glob("_libffcv*"):
            return ctypes.CDLL(str(file))
    raise ModuleNotFoundError("FFCV's compiled library is not installed; mend it with: bash scripts/setup.sh")


def _address(function: ctypes._NamedFuncPointer) -> int:
    address = ctypes.cast(function, ctypes.c_void_p).value
    assert address is not None
    return address


_LIBRARY = _library()
_LIBRARY.imdecode.argtypes = [
    ctypes.c_void_p, ctypes.c_uint64, ctypes.c_uint32, ctypes.c_uint32, ctypes.c_void_p,
    *[ctypes.c_uint32] * 6, ctypes.c_bool, ctypes.c_bool,
]  # fmt: skip
DECODE_ADDRESS = _address(_LIBRARY.imdecode)
RESIZE_ADDRESS = _address(_LIBRARY.resize)


def is_sound_jpeg(data: bytes, height: int, width: int) -> bool:
    """Whether libjpeg-turbo decodes all of the JPEG without a warning, as the loader will ask of it."""
    pixels = np.empty((height, width, 3), np.uint8)
    source = np.frombuffer(data, np.uint8)
    crop_and_scale = (height, width, 0, 0, 1, 1, False, False)
    status = _LIBRARY.imdecode(source.ctypes.data, len(data), height, width, pixels.ctypes.data, *crop_and_scale)
    return int(status) == 0


@intrinsic
def decode_jpeg(typingctx, function, source, size, height, width, destination):
    """libjpeg-turbo's full-scale decode to RGB (libffcv.cpp, imdecode); returns 0, or -1 for a bad JPEG.

    function, source, destination: addresses; size: bytes; height, width: pixels of the JPEG.
    A damaged JPEG may still fill the destination with what could be decoded.
    """
    signature = types.int32(types.uintp, types.uintp, types.uint64, types.uint32, types.uint32, types.uintp)

    def codegen(context, builder, signature, args):
        address, source, size, height, width, destination = args
        # imdecode(in, size, src_h, src_w, out, crop_h, crop_w, off_x, off_y, num, denom, enable_crop, hflip)
        function_type = ir.FunctionType(_I32, [_I64, _I64, _I32, _I32, _I64, *[_I32] * 6, _I1, _I1])
        pointer = builder.inttoptr(address, function_type.as_pointer())
        zero, one, off = ir.Constant(_I32, 0), ir.Constant(_I32, 1), ir.Constant(_I1, 0)
        arguments = [source, size, height, width, destination, height, width, zero, zero, one, one, off, off]
        return builder.call(pointer, arguments)

    return signature, codegen


@intrinsic
def resize_box(typingctx, function, source, height, width, top, bottom, left, right, destination, to_height, to_width):
    """OpenCV's INTER_AREA resize of rows top:bottom, columns left:right of an RGB image (libffcv.cpp, resize)."""
    signature = types.void(types.uintp, types.uintp, *[types.int64] * 6, types.uintp, types.int64, types.int64)

    def codegen(context, builder, signature, args):
        function_type = ir.FunctionType(ir.VoidType(), [_I64] * 11)
        pointer = builder.inttoptr(args[0], function_type.as_pointer())
        builder.call(pointer, [ir.Constant(_I64, 0), *args[1:]])
        return context.get_dummy_value()

    return signature, codegen
