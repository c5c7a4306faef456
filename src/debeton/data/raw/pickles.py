"""Pickles of other programs, read without running their code.

Only containers, text, bytes, numbers and NumPy arrays are accepted.
"""

from __future__ import annotations

import io
from typing import Any

from debeton.system.errors import DataError
from debeton.system.plain_arrays import ARRAY_NAMES
from debeton.system.plain_parts import PYTHON_NAMES
from debeton.system.plain_pickles import read_plain


def load_pickle(content: bytes, name: str, encoding: str = "bytes") -> Any:
    """Return the value in a pickle that holds nothing but data. DataError for any other, before its code runs.

    content: the bytes of the pickle.
    name: the name of the file in messages.
    encoding: of Python 2 text; 'bytes' leaves it alone, as CIFAR's batches need.
    """
    try:
        return read_plain(io.BytesIO(content), len(content), {**PYTHON_NAMES, **ARRAY_NAMES}, encoding)
    except Exception as error:  # a damaged pickle can raise nearly anything
        reason = str(error) or type(error).__name__
        raise DataError(f"{name} cannot be read as a pickle of plain data: {reason}; fetch it again") from error
