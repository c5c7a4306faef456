"""Pickles of other programs, read without running their code.

Only containers, text, bytes, numbers and NumPy arrays are accepted.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np

from debeton.system.errors import DataError


def _encode(text: str, encoding: str = "latin1") -> bytes:
    """Return text as bytes, as Python 3 writes bytes in protocol 2.

    Other codecs do not belong in a data file.
    """
    if encoding not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError(f"it wants the codec {encoding}")
    return text.encode("latin1")


_ARRAY_PARTS: dict[str, Callable[..., Any]] = {
    # NumPy 1 wrote numpy.core, NumPy 2 writes numpy._core.
    "_reconstruct": np.ndarray.__reduce__(np.zeros(0))[0],  # type: ignore[dict-item]
    "_frombuffer": np.zeros(0).__reduce_ex__(5)[0],  # type: ignore[dict-item]
    "scalar": np.float64(0).__reduce__()[0],  # type: ignore[dict-item]
}
_ALLOWED: dict[tuple[str, str], Callable[..., Any]] = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("_codecs", "encode"): _encode,
    **{(module, kind.__name__): kind for module in ("builtins", "__builtin__") for kind in (set, frozenset)},
    **{
        (f"numpy.{core}.{module}", name): _ARRAY_PARTS[name]
        for core in ("core", "_core")
        for module, name in (("multiarray", "_reconstruct"), ("multiarray", "scalar"), ("numeric", "_frombuffer"))
    },
}


class _DataUnpickler(pickle.Unpickler):
    """An unpickler that refuses every name that is not data."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"it wants {module}.{name}, which is not data")
        return _ALLOWED[module, name]


def load_pickle(content: bytes, name: str, encoding: str = "bytes") -> Any:
    """Return the value in a pickle that holds nothing but data. DataError for any other, before its code runs.

    content: the bytes of the pickle.
    name: the name of the file in messages.
    encoding: of Python 2 text; 'bytes' leaves it alone, as CIFAR's batches need.
    """
    try:
        return _DataUnpickler(io.BytesIO(content), encoding=encoding).load()
    except Exception as error:  # a damaged pickle can raise nearly anything
        raise DataError(f"{name} cannot be read as a pickle of plain data: {error}; fetch it again") from error
