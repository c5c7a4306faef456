"""Python side of pixels.c: compiles it once for a machine, loads it, and calls it on several threads.

`AVAILABLE` is false if there is no C compiler, or no libjpeg-turbo with its header. Then images go through FFCV's
resizer and through passes of their own (decoding.py). Resized pixels then differ by at most one of 255. The environment
variable DEBETON_PIXELS=ffcv chooses that way, and `main.py --doctor` shows which way is taken.
This module does not import numba, because loading numba's parts delays the first batch by a second or two.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import itertools
import os
import platform
import shlex
import shutil
import subprocess
import sys
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
from debeton.system.leftovers import make_partial_folder
from debeton.system.log import logger

SOURCE = Path(__file__).with_name("pixels.c")  # it includes the headers (.h) beside it
# Without contraction a value is the same on every processor, with or without fused multiply-adds.
FLAGS = ("-O3", "-ffp-contract=off", "-shared", "-fPIC")
LIBRARIES = ("-ljpeg", "-lm", "-lpthread")
BYTES, CHANNELS_LAST, CHANNELS_FIRST = range(3)  # layouts of a batch, as in pixels.c
# Status of an image, as in pixels.c: its bytes could not be read from a mapped file; they are not those that were
# written; or the tables name bytes or pixels that are not there.
GONE, ALTERED, OUTSIDE = -2, -3, -4
ANYWHERE = (1 << 64) - 1
NOT_COMPARED = -1  # in place of the CRC-32 of an image whose bytes are read unseen
BLACK = -1  # in `Moves`, the source of a row or column that is black
Ints32 = NDArray[np.int32]


# --- the library ---------------------------------------------------------------------------------


def compile_command(output: Path, source: Path = SOURCE) -> list[str]:
    """Return the command that compiles the library.

    The compiler is CC if it is set. Headers and libraries of an active environment (conda's) come first.
    """
    prefix, own = Path(sys.prefix), []
    if (prefix / "include" / "jpeglib.h").exists():  # conda's
        own = [f"-I{prefix / 'include'}", f"-L{prefix / 'lib'}", f"-Wl,-rpath,{prefix / 'lib'}"]
    compiler = shlex.split(os.environ.get("CC") or "cc")
    return [*compiler, *FLAGS, *own, "-o", str(output), str(source), *LIBRARIES]


def library() -> Path:
    """Return the path of the compiled library; compile it, in a second or two, if it does not exist.

    It lies beside the kernels that numba caches, or below XDG_CACHE_HOME if that folder cannot be written. Its name is
    a hash of its source, its flags and its environment, whatever compiler is active. OSError with the compiler's first
    complaint if it cannot be compiled.
    """
    texts = [file.read_text() for file in (SOURCE, *sorted(SOURCE.parent.glob("*.h")))]
    inputs = "\n".join([*texts, *FLAGS, *LIBRARIES, sys.prefix, platform.machine(), *platform.libc_ver()])
    name = f"pixels-{hashlib.sha256(inputs.encode()).hexdigest()[:16]}.so"
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "debeton"
    folders = [SOURCE.parent / "__pycache__", cache]
    for folder in folders:
        if (folder / name).exists():
            return folder / name
    for folder in folders:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            temporary = make_partial_folder(folder / name)
        except OSError:  # no permission, or a read-only file system
            continue
        try:
            return _compile(temporary / name, folder / name)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    raise PermissionError(f"cannot write {' or '.join(map(str, folders))}")


def _compile(temporary: Path, final: Path) -> Path:
    """Compile to a temporary name, then rename the library to its final name."""
    process = subprocess.run(compile_command(temporary, SOURCE), capture_output=True, text=True, check=False)
    if process.returncode:
        complaints = (line for line in process.stderr.splitlines() if "error" in line)
        raise OSError(next(complaints, process.stderr.strip()[:200]))
    temporary.replace(final)
    return final


def _load() -> tuple[Any, str]:
    """Return (the library, ''), or (None, the reason why it is missing)."""
    if os.environ.get("DEBETON_PIXELS") == "ffcv":
        return None, "DEBETON_PIXELS=ffcv switches it off"
    try:
        return loaded(library()), ""
    except (OSError, AttributeError) as error:
        logger.debug("pixels.c is not used: %s", error)
        return None, str(error)


def loaded(compiled: Path) -> Any:
    """Return a compiled library, with the types of its functions. AttributeError where one is missing."""
    opened = ctypes.CDLL(str(compiled))
    opened.debeton_images.argtypes = [ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p]
    opened.debeton_images.restype = None
    opened.debeton_guard.argtypes, opened.debeton_guard.restype = [], None
    return opened


_LIBRARY, MISSING = _load()
AVAILABLE = _LIBRARY is not None


# --- calling it ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Moves:
    """Changes to the images of a batch at their final size: pixels are moved, then a patch is filled.

    rows: int32 [B, H], the row that each row of the result comes from, or BLACK; None leaves rows in place.
    columns: int32 [B, W], likewise for columns.
    patches: int64 [B, 4], top, left, bottom, right; filled last.
    fill: value of the patches, 0 to 255.
    """

    rows: Ints32 | None = None
    columns: Ints32 | None = None
    patches: NDArray[np.int64] | None = None
    fill: int = 0


STILL = Moves()


def guard_mapped_files() -> None:
    """Let `write_images` give the status GONE where a mapped file was cut, instead of ending the process.

    This sets the handler of the signal SIGBUS. A handler that was there is used for all other accesses.
    """
    _LIBRARY.debeton_guard()


def layout_of(out: NDArray[Any], *, channels_first: bool) -> int:
    """Return the layout of a batch: BYTES, CHANNELS_LAST or CHANNELS_FIRST.

    out: uint8 [B, H, W, 3], float32 [B, H, W, 3] or, with channels_first, float32 [B, 3, H, W].
    """
    return BYTES if out.dtype == np.uint8 else CHANNELS_FIRST if channels_first else CHANNELS_LAST


def write_images(
    out: NDArray[Any],
    layout: int,
    size: tuple[int, int],
    stored: Sequence[NDArray[Any]],
    boxes: NDArray[np.int64],
    base: int,
    moves: Moves,
    scale_and_shift: NDArray[np.float32],
    threads: int = 1,
    *,
    room: int = ANYWHERE,
    crcs: NDArray[np.int64] | None = None,
) -> NDArray[np.int32]:
    """Write a box of each image into `out`, resized, moved and normalised; return a status for each image.

    out: [B, ...] in the layout `layout`, of images of `size` = (height, width) pixels.
    stored: offsets from the address `base` and sizes (uint64), modes (uint8), heights and widths (int64), each [B].
    boxes: int64 [B, 4], top, left, height, width.
    scale_and_shift: float32 [2, 3], value = pixel * scale + shift; not used for bytes.
    threads: number of threads.
    room: bytes behind `base`; nothing else is read. ANYWHERE for stored images that the caller has made.
    crcs: the CRC-32 of the bytes of each image, or NOT_COMPARED, int64 [B]; None compares none.
    Returns int32 [B]: 0; -1 if a JPEG is damaged or has other sides; GONE if its bytes are no longer in the mapped
    file; ALTERED if they have another CRC-32; OUTSIDE if they, or the box, do not lie where they should.
    """
    arrays = [np.ascontiguousarray(array) for array in stored]
    boxes = np.ascontiguousarray(boxes)
    # Named, so that they live until the C function has read them.
    sources = [moves.rows, moves.columns]
    black = [array if array is not None and array.min(initial=0) < 0 else None for array in sources]
    inside = [array if blank is None else np.maximum(blank, 0) for array, blank in zip(sources, black, strict=True)]
    move_arrays = [None if array is None else np.ascontiguousarray(array) for array in (*inside, moves.patches, *black)]
    rows, columns, patches, *black_at = (0 if array is None else array.ctypes.data for array in move_arrays)
    batch = np.array(
        [
            base,
            *(array.ctypes.data for array in arrays),
            boxes.ctypes.data,
            *size,
            layout,
            out.ctypes.data,
            rows,
            columns,
            patches,
            scale_and_shift.ctypes.data,
            moves.fill,
            JPG,
            *black_at,
            room,
            0 if crcs is None else crcs.ctypes.data,
        ],
        np.uint64,
    )
    status = np.empty(len(boxes), np.int32)
    address, status_address, function = batch.ctypes.data, status.ctypes.data, _LIBRARY.debeton_images
    parts = 1 if threads == 1 or out.size < SMALL_BATCH else PARTS_PER_THREAD
    _share_work(len(status), threads, parts, lambda begin, end: function(address, begin, end, status_address))
    return status


PARTS_PER_THREAD = 4  # of a batch: images differ in cost, and a thread that is done early takes another part
SMALL_BATCH = 1 << 22  # values; below this number, more parts than threads cost more than they save


@lru_cache
def _pool(threads: int) -> ThreadPoolExecutor:
    """Return the pool of this many threads; it is made once."""
    return ThreadPoolExecutor(threads, thread_name_prefix="debeton-pixels")


os.register_at_fork(after_in_child=_pool.cache_clear)  # a forked process has none of its parent's threads


def _share_work(count: int, threads: int, parts_per_thread: int, work: Callable[[int, int], None]) -> None:
    """Call work(begin, end) for all parts of 0 to `count`, on `threads` threads.

    The calling thread is one of them. Each thread takes the next part until none is left.
    """
    edges = np.linspace(0, count, max(1, min(count, parts_per_thread * threads)) + 1).astype(int).tolist()
    parts = deque(itertools.pairwise(edges))

    def work_on_parts() -> None:
        with contextlib.suppress(IndexError):
            while True:
                work(*parts.popleft())

    others: list[Future[None]] = []
    try:
        for _ in range(min(threads, len(parts)) - 1):
            others.append(_pool(threads - 1).submit(work_on_parts))
        work_on_parts()
    finally:  # after an error too, no thread may still write into the batch
        wait(others)
    for other in others:
        other.result()
