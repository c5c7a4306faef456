"""loader.py over time: threads, memory and the end of the process."""

from __future__ import annotations

import gc
import os
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from debeton.data.beton.reading import Beton, open_beton
from debeton.data.beton.writer import WriteOptions, write_beton
from debeton.data.loader.loader import make_loader
from debeton.data.loader.options import LoaderOptions
from debeton.data.spec import DatasetSpec, Rows
from debeton.data.views.view import View

RunPython = Callable[..., str]
AUGMENTED = LoaderOptions(decoder="random_resized_crop", ops="flip,pad_crop:2,cutout:4", resolution=64)


def resident_mb() -> float:
    """Return the resident memory of this process in MB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.parametrize("os_cache", [True, False])
@pytest.mark.parametrize("leave", ["break", "close", "with", "drop"])
def test_a_hundred_early_exits_leave_threads_files_and_memory_flat(
    jpg_view: View, leave: str, *, os_cache: bool
) -> None:
    options = LoaderOptions(**{**AUGMENTED.__dict__, "os_cache": os_cache})
    loader = make_loader(jpg_view, 16, options=options)  # 16 x 64 x 64 floats: 0.8 MB a batch, 4 MB in flight

    def leave_early() -> None:
        if leave == "break":
            for _ in loader:
                break
        elif leave == "close":
            batches = iter(loader)
            next(batches)
            batches.close()
            batches.close()
        elif leave == "with":
            with loader.epoch(3) as batches:
                next(batches)
        else:
            next(iter(loader))

    for _ in range(10):
        leave_early()
    gc.collect()
    threads, files, memory = threading.active_count(), open_files(), resident_mb()
    for _ in range(100):
        leave_early()
    gc.collect()
    assert threading.active_count() <= threads
    assert open_files() <= files
    assert resident_mb() - memory < 20  # FFCV 1.0.2 gained 268 MB in 30


def test_whole_epochs_leave_memory_flat(jpg_view: View) -> None:
    loader = make_loader(jpg_view, 16, options=AUGMENTED)
    for _ in range(10):
        for _ in loader:
            pass
    memory = resident_mb()
    for _ in range(60):
        for _ in loader:
            pass
    assert resident_mb() - memory < 20


READ_ALL = """
import sys
import numpy as np
from pathlib import Path
from debeton.data.beton.reading import open_beton
from debeton.data.loader.loader import (make_loader)
from debeton.data.loader.options import (LoaderOptions)
from debeton.data.views.view import View

def resident():  # of this process, in kB
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0])

view = View.whole(open_beton(sys.argv[1]))
def peak(view, os_cache):
    options = LoaderOptions(decoder="resized", resolution=32, os_cache=os_cache)
    return max(resident() for batch in make_loader(view, 8, options=options))

small = view.subset(np.arange(32))
for os_cache in (False, True):
    peak(small, os_cache)
start = resident()
print(peak(view, False) - start, peak(view, True) - start)
"""


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory, spec: DatasetSpec, make_rows: Callable[..., Rows]) -> Beton:
    """Write a beton of 80 MB: 400 raw images of 200 kB."""
    image = np.random.default_rng(0).integers(0, 256, (256, 260, 3), dtype=np.uint8)
    path = tmp_path_factory.mktemp("large") / "large.beton"
    write_beton(path, make_rows([image] * 400), spec, "train", WriteOptions(mode="raw"))
    return open_beton(path)


def test_without_the_os_cache_memory_does_not_grow_with_the_beton(large: Beton, run_python: RunPython) -> None:
    assert large.path.stat().st_size > 79e6
    read, mapped = (int(kb) / 1000 for kb in run_python(READ_ALL, large.path).split())
    assert read < 15  # a batch is 1.6 MB
    assert mapped > 60  # the same measurement does see a mapped file


LEAVE = """
import atexit, sys, threading
atexit.register(lambda: print("at the end:", [thread.name for thread in threading.enumerate()]))
from debeton.data.beton.reading import open_beton
from debeton.data.loader.loader import (make_loader)
from debeton.data.loader.options import (LoaderOptions)
from debeton.data.views.view import View

options = LoaderOptions(decoder="random_resized_crop", ops="flip", resolution=2, batches_ahead=100_000)
batches = iter(make_loader(View.whole(open_beton(sys.argv[1])).subset([0] * 100_000), 1, options=options))
next(batches)
print("in between:", [thread.name for thread in threading.enumerate()])
"""


def test_a_process_that_ends_in_the_middle_of_an_epoch_ends_the_thread_first(
    large: Beton, run_python: RunPython
) -> None:
    # Otherwise about one such process in twenty aborts: the thread dies inside torch's C++.
    lines = run_python(LEAVE, large.path).splitlines()
    assert lines == ["in between: ['MainThread', 'debeton-loader']", "at the end: ['MainThread']"]


AT_ONCE = """
import sys, threading, numba
from debeton.data.beton.reading import open_beton
from debeton.data.loader.loader import (make_loader)
from debeton.data.loader.options import (LoaderOptions)
from debeton.data.views.view import View

view = View.whole(open_beton(sys.argv[1]))
options = LoaderOptions(decoder="random_resized_crop", ops="flip,pad_crop:2,cutout:4", resolution=32)
def read(seed):
    for epoch in range(5):
        counts.append(sum(len(batch) for batch in make_loader(view, 8, seed=seed, options=options).epoch(epoch)))
counts = []
threads = [threading.Thread(target=read, args=(seed,)) for seed in range(3)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
print(numba.threading_layer(), counts == [70] * 15)
"""


def test_loaders_at_once_survive_numbas_unsafe_threading_layer(jpg_view: View, run_python: RunPython) -> None:
    path = jpg_view.beton.path
    assert run_python(AT_ONCE, path, NUMBA_THREADING_LAYER="workqueue") == "workqueue True\n"
