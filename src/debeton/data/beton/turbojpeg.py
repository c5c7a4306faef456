"""JPEG decoder of libjpeg-turbo and resizer of FFCV, callable from our own JIT kernels.

FFCV calls these functions through ctypes objects. Numba writes their addresses into the machine code, so the
pipelines of FFCV can never be cached, and every loader compiles for seconds. Here the address is an argument of the
kernel. The kernel is cached on the disk, and the second start costs milliseconds.

FFCV's library is linked to libjpeg-turbo, which reports the problems of a JPEG (`try_decode`). JPEGs go to
libjpeg-turbo itself, because FFCV asks it for the fast DCT: at quality 100 that one is wrong by tens of grey levels.
"""

from __future__ import annotations

import ctypes
import importlib.util
import threading
from pathlib import Path

import numpy as np
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic
from numpy.typing import NDArray

_I1, _I32, _I64 = ir.IntType(1), ir.IntType(32), ir.IntType(64)


def _library() -> ctypes.CDLL:
    """Load FFCV's compiled library without importing the package (ffcv_format.py gives the reason)."""
    package = importlib.util.find_spec("ffcv")
    for folder in (package.submodule_search_locations or []) if package else []:
        for file in Path(folder).glob("_libffcv*"):
            return ctypes.CDLL(str(file))
    raise ModuleNotFoundError("FFCV's compiled library is not installed; install it with: bash scripts/setup.sh")


def _address(function: ctypes._NamedFuncPointer) -> int:
    address = ctypes.cast(function, ctypes.c_void_p).value
    assert address is not None
    return address


_LIBRARY = _library()
_LIBRARY.imdecode.argtypes = [
    ctypes.c_void_p,
    ctypes.c_uint64,
    ctypes.c_uint32,
    ctypes.c_uint32,
    ctypes.c_void_p,
    *[ctypes.c_uint32] * 6,
    ctypes.c_bool,
    ctypes.c_bool,
]
RESIZE_ADDRESS = _address(_LIBRARY.resize)


def _bind_turbojpeg() -> bool:
    """Declare the functions of libjpeg-turbo. Return False if FFCV's library does not offer them."""
    try:
        start, decode = _LIBRARY.tjInitDecompress, _LIBRARY.tjDecompress2
        message, end = _LIBRARY.tjGetErrorStr2, _LIBRARY.tjDestroy
    except AttributeError:  # linked in statically, or a libjpeg-turbo that dropped them
        return False
    start.restype, message.restype = ctypes.c_void_p, ctypes.c_char_p
    decode.argtypes = [
        ctypes.c_void_p,
        ctypes.c_char_p,
        ctypes.c_ulong,
        ctypes.c_void_p,
        *[ctypes.c_int] * 5,
    ]
    message.argtypes = end.argtypes = [ctypes.c_void_p]
    return True


TURBOJPEG = _bind_turbojpeg()
DECODE_ADDRESS = _address(_LIBRARY.tjDecompress2 if TURBOJPEG else _LIBRARY.imdecode)
_RGB, _CMYK = 0, 11  # turbojpeg.h
_NOREALLOC, _ACCURATEDCT, _LIMITSCANS = 1024, 4096, 32768  # the last one ends a JPEG of more than 500 scans
_FLAGS = _NOREALLOC | _ACCURATEDCT | _LIMITSCANS


class Decompressor:
    """A libjpeg-turbo handle. It serves one thread at a time, and is released with this object."""

    def __init__(self) -> None:
        self.handle, self._destroy = _LIBRARY.tjInitDecompress(), _LIBRARY.tjDestroy

    def __del__(self) -> None:
        self._destroy(self.handle)


_threads = threading.local()  # one handle per thread: a handle serves one thread at a time


def _turbo_handle() -> int:
    """Return the handle of the current thread."""
    if not hasattr(_threads, "decompressor"):
        _threads.decompressor = Decompressor()
    handle: int = _threads.decompressor.handle
    return handle


def try_decode(data: bytes, height: int, width: int, *, cmyk: bool = False) -> tuple[NDArray[np.uint8], str]:
    """Decode a JPEG as the loader will. Return its pixels and the complaint of libjpeg-turbo, '' if there is none.

    A damaged JPEG gives the pixels that could be decoded; the others are undefined.
    The interpreter's lock is released while this runs.

    height, width: pixels of the JPEG, or its pixels at a scale of one to seven eighths, rounded up.
    cmyk: return the [height, width, 4] pixels of a CMYK or YCCK JPEG, which the loader cannot read.
    """
    pixels = np.empty((height, width, 4 if cmyk else 3), np.uint8)
    if not TURBOJPEG:
        if cmyk:
            return pixels, ""
        source = np.frombuffer(data, np.uint8)
        crop_and_scale = (height, width, 0, 0, 1, 1, False, False)
        status = _LIBRARY.imdecode(source.ctypes.data, len(data), height, width, pixels.ctypes.data, *crop_and_scale)
        return pixels, "libjpeg-turbo cannot decode all of it" if status else ""
    handle, colours = _turbo_handle(), _CMYK if cmyk else _RGB
    status = _LIBRARY.tjDecompress2(handle, data, len(data), pixels.ctypes.data, width, 0, height, colours, _FLAGS)
    return pixels, _LIBRARY.tjGetErrorStr2(handle).decode("ascii", "replace") if status else ""


@intrinsic
def decode_jpeg(typingctx, function, handle, source, size, height, width, destination):
    """Decode a JPEG at full scale to RGB with libjpeg-turbo (tjDecompress2).

    Returns 0, or -1 for a bad JPEG. Its destination may still hold the pixels that could be decoded.

    function: DECODE_ADDRESS, with TURBOJPEG.
    handle: of this thread's `Decompressor`.
    source, destination: addresses.
    size: of the JPEG in bytes.
    height, width: of the JPEG in pixels.
    """
    signature = types.int32(
        types.uintp, types.uintp, types.uintp, types.uint64, types.uint32, types.uint32, types.uintp
    )

    def codegen(context, builder, signature, args):
        address, handle, source, size, height, width, destination = args
        # tjDecompress2(handle, in, size, out, width, pitch, height, pixelFormat, flags)
        function_type = ir.FunctionType(_I32, [_I64, _I64, _I64, _I64, *[_I32] * 5])
        pointer = builder.inttoptr(address, function_type.as_pointer())
        pitch, colours, flags = (ir.Constant(_I32, value) for value in (0, _RGB, _FLAGS))
        return builder.call(pointer, [handle, source, size, destination, width, pitch, height, colours, flags])

    return signature, codegen


@intrinsic
def decode_jpeg_by_ffcv(typingctx, function, source, size, height, width, destination):
    """Decode a JPEG as `decode_jpeg` does, by FFCV's function, which uses the fast DCT (libffcv.cpp, imdecode).

    function: DECODE_ADDRESS, without TURBOJPEG.
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
    """Resize rows top:bottom and columns left:right of an RGB image by OpenCV's INTER_AREA (libffcv.cpp, resize)."""
    signature = types.void(types.uintp, types.uintp, *[types.int64] * 6, types.uintp, types.int64, types.int64)

    def codegen(context, builder, signature, args):
        function_type = ir.FunctionType(ir.VoidType(), [_I64] * 11)
        pointer = builder.inttoptr(args[0], function_type.as_pointer())
        builder.call(pointer, [ir.Constant(_I64, 0), *args[1:]])
        return context.get_dummy_value()

    return signature, codegen
