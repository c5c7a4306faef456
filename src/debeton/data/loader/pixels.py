"""pixels.c from Python: compiled once for a machine, loaded, and called for parts of a batch by several threads.

Where there is no C compiler or no libjpeg-turbo with its header, `AVAILABLE` is false and images go through FFCV's
decoder and resizer and through passes of their own (decoding.py); pixels then differ by one of 255 at most where they
are resized, and by more where a JPEG is decoded at a coarser scale. DEBETON_PIXELS=ffcv in the environment chooses that
way; `main.py --doctor` says which one it is. No numba here: loading its parts takes a second or two of the first batch.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import itertools
import os
import platform
import shlex
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from debeton.data.beton.ffcv_format import JPG
from debeton.system.log import logger

SOURCE = Path(__file__).with_name("pixels.c")
# Without contraction a value is the same on every processor, fused multiply-adds or not.
FLAGS = ("-O3", "-ffp-contract=off", "-shared", "-fPIC")
LIBRARIES = ("-ljpeg", "-lm", "-lpthread")
BYTES, CHANNELS_LAST, CHANNELS_FIRST = range(3)  # forms of a batch, as in pixels.c
Ints32 = NDArray[np.int32]


# --- the library ---------------------------------------------------------------------------------


def compile_command(output: Path) -> list[str]:
    """The command that makes the library; CC and an active environment's own headers and libraries come first."""
    prefix, own = Path(sys.prefix), []
    if (prefix / "include" / "jpeglib.h").exists():  # conda's
        own = [f"-I{prefix / 'include'}", f"-L{prefix / 'lib'}", f"-Wl,-rpath,{prefix / 'lib'}"]
    compiler = shlex.split(os.environ.get("CC") or "cc")
    return [*compiler, *FLAGS, *own, "-o", str(output), str(SOURCE), *LIBRARIES]


def library() -> Path:
    """The compiled library; compiled now, in a second or two, unless it was before.

    Lies beside the kernels that numba caches, or below XDG_CACHE_HOME where that folder cannot be written. Its name
    holds what it was made of and for which environment, whatever compiler is active. OSError with the compiler's first
    complaint where it cannot be made.
    """
    made_of = "\n".join([SOURCE.read_text(), *FLAGS, *LIBRARIES, sys.prefix, platform.machine(), *platform.libc_ver()])
    name = f"pixels-{hashlib.sha256(made_of.encode()).hexdigest()[:16]}.so"
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "debeton"
    places = [SOURCE.parent / "__pycache__", cache]
    for place in places:
        if (place / name).exists():
            return place / name
    for place in places:
        try:
            place.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=place) as folder:
                return _compiled(Path(folder) / name, place / name)
        except PermissionError:
            continue
    raise PermissionError(f"cannot write {' or '.join(map(str, places))}")


def _compiled(temporary: Path, final: Path) -> Path:
    done = subprocess.run(compile_command(temporary), capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(next((line for line in done.stderr.splitlines() if "error" in line), done.stderr.strip()[:200]))
    temporary.replace(final)
    return final


def _load() -> tuple[Any, str]:
    """`debeton_images` and '', or None and what is missing."""
    if os.environ.get("DEBETON_PIXELS") == "ffcv":
        return None, "DEBETON_PIXELS=ffcv switches it off"
    try:
        function = ctypes.CDLL(str(library())).debeton_images
    except (OSError, AttributeError) as error:
        logger.debug("pixels.c is not used: %s", error)
        return None, str(error)
    function.argtypes = [ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p]
    function.restype = None
    return function, ""


_IMAGES, MISSING = _load()
AVAILABLE = _IMAGES is not None


# --- calling it ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Moves:
    """What is done to the images of a batch once they have their size: pixels moved, then a patch filled.

    rows: int32 [B, H], columns: int32 [B, W], where pixels of the result come from; None: where they are. patches:
    int64 [B, 4] top, left, bottom, right, filled with `fill` (0 to 255) at last.
    """

    rows: Ints32 | None = None
    columns: Ints32 | None = None
    patches: NDArray[np.int64] | None = None
    fill: int = 0


STILL = Moves()


def form_of(out: NDArray[Any], *, channels_first: bool) -> int:
    """The form of a batch uint8 [B, H, W, 3], float32 [B, H, W, 3] or, with channels_first, float32 [B, 3, H, W]."""
    return BYTES if out.dtype == np.uint8 else CHANNELS_FIRST if channels_first else CHANNELS_LAST


def write_images(
    out: NDArray[Any],
    form: int,
    size: tuple[int, int],
    stored: Sequence[NDArray[Any]],
    boxes: NDArray[np.int64],
    base: int,
    moves: Moves,
    scale_and_shift: NDArray[np.float32],
    threads: int = 1,
) -> NDArray[np.int32]:
    """Fill out [B, ...] with box [top, left, height, width] of each image, resized, moved and normalised.

    stored: offsets from the address `base`, sizes (uint64), modes (uint8), heights and widths (int64), each [B].
    scale_and_shift: float32 [2, 3], value = pixel * scale + shift, not used for bytes. Returns int32 [B]: 0, or -1
    where a JPEG is damaged.
    """
    arrays = [np.ascontiguousarray(array) for array in stored]
    boxes = np.ascontiguousarray(boxes)
    placed = [moves.rows, moves.columns, moves.patches]
    kept = [None if array is None else np.ascontiguousarray(array) for array in placed]
    rows, columns, patches = (0 if array is None else array.ctypes.data for array in kept)
    batch = np.array(
        [
            base,
            *(array.ctypes.data for array in arrays),
            boxes.ctypes.data,
            *size,
            form,
            out.ctypes.data,
            rows,
            columns,
            patches,
            scale_and_shift.ctypes.data,
            moves.fill,
            JPG,
        ],
        np.uint64,
    )
    status = np.empty(len(boxes), np.int32)
    address, found = batch.ctypes.data, status.ctypes.data
    parts = 1 if threads == 1 or out.size < SMALL else PARTS
    _shared_out(len(status), threads, parts, lambda begin, end: _IMAGES(address, begin, end, found))
    return status


PARTS = 4  # of a batch for each thread: the last ones even out what images of different sizes cost
SMALL = 1 << 22  # values of a batch below which more parts cost more than they even out


@lru_cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="debeton-pixels")


os.register_at_fork(after_in_child=_pool.cache_clear)  # a child has none of its parent's threads


def _shared_out(count: int, threads: int, parts_of_each: int, work: Callable[[int, int], None]) -> None:
    """work(begin, end) for parts of 0 to count: threads, this one among them, take the next one until none is left."""
    edges = np.linspace(0, count, max(1, min(count, parts_of_each * threads)) + 1).astype(int).tolist()
    left = deque(itertools.pairwise(edges))

    def take() -> None:
        with contextlib.suppress(IndexError):
            while True:
                work(*left.popleft())

    others: list[Future[None]] = []
    try:
        for _ in range(min(threads, len(left)) - 1):
            others.append(_pool(threads - 1).submit(take))
        take()
    finally:  # whatever happens, nobody writes to the batch any more once it is given up
        wait(others)
    for other in others:
        other.result()
