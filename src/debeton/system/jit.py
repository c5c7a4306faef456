"""numba's threads, for every module with parallel kernels: the layer they run on, how many, and who may."""

from __future__ import annotations

import contextlib
import importlib
import threading

import numba

from debeton.system.tbb import load_packaged_tbb


def _kernel_guard() -> contextlib.AbstractContextManager[object]:
    """A lock around parallel kernels where numba's threading layer aborts on concurrent use ('workqueue')."""
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
    """As many as asked for, where there are (None, 0 or too many: all cores, or what NUMBA_NUM_THREADS says)."""
    available = int(numba.config.NUMBA_NUM_THREADS)
    return min(num_threads, available) if num_threads is not None and num_threads > 0 else available


def use_threads(num_threads: int | None) -> None:
    """Let this thread's kernels run on `threads_for(num_threads)` threads."""
    numba.set_num_threads(threads_for(num_threads))
