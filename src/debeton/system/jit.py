"""Threads of numba's parallel kernels: their threading layer, their number, and the lock that some layers need."""

from __future__ import annotations

import contextlib
import importlib
import os
import threading

import numba

from debeton.system.cores import cores_of_process
from debeton.system.tbb import load_packaged_tbb


def _kernel_guard() -> contextlib.AbstractContextManager[object]:
    """Return a lock around parallel kernels if numba's threading layer aborts on concurrent use ('workqueue')."""
    if numba.config.THREADING_LAYER == "workqueue":
        return threading.RLock()
    for layer in ("tbbpool", "omppool"):
        try:
            importlib.import_module(f"numba.np.ufunc.{layer}")
            return contextlib.nullcontext()
        except ImportError:
            continue
    return threading.RLock()


load_packaged_tbb()
KERNEL_GUARD = _kernel_guard()


def threads_for(num_threads: int | None) -> int:
    """Return the number of threads for a setting, at most the number that numba has.

    None and 0 stand for this process's share of the usable cores, or for the variable NUMBA_NUM_THREADS if it is set.
    """
    available = int(numba.config.NUMBA_NUM_THREADS)
    if not num_threads:
        num_threads = available if "NUMBA_NUM_THREADS" in os.environ else cores_of_process()
    return min(num_threads, available)


def use_threads(num_threads: int | None) -> None:
    """Let this thread's kernels run on `threads_for(num_threads)` threads."""
    numba.set_num_threads(threads_for(num_threads))
