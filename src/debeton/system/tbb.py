"""Loader of pip's TBB, for numba's threading layer. Standard library only, so that the doctor can use it."""

from __future__ import annotations

import contextlib
import ctypes
import sys
from pathlib import Path


def load_packaged_tbb() -> bool:
    """Load the libtbb that pip installs, before numba looks for one; return whether it exists.

    pip installs it outside the path of the dynamic loader. Without it numba takes the system's, which may be too old
    (Ubuntu 22.04). Or numba uses a layer that aborts on concurrent loaders or kills forked workers.
    """
    library = Path(sys.prefix) / "lib" / "libtbb.so.12"
    if not library.exists():
        return False
    with contextlib.suppress(OSError):
        ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)
    return True
