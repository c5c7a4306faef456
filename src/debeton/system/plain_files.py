"""Files of torch.save, read without running any code from them: tensors, arrays, numbers and plain values."""

from __future__ import annotations

import argparse
import pickle
import re
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from numpy._core import multiarray as _multiarray

from debeton.system.errors import DamagedFile, DataError, memory_shortage
from debeton.system.zip_checksums import ANOTHER_COPY, check_zip

# Types beside tensors that other programs store: arrays of every number type, and argparse's values. Making one of them
# runs no code.
_PLAIN: list[Any] = [
    argparse.Namespace,
    SimpleNamespace,
    np.dtype,
    np.ndarray,
    *{type(np.dtype(kind)) for kind in np.typecodes["AllInteger"] + np.typecodes["Float"] + "?"},
    *(
        (getattr(_multiarray, name), f"numpy.{module}.multiarray.{name}")
        for name in ("scalar", "_reconstruct")
        for module in ("core", "_core")
    ),
]


def load_plain(
    path: Path,
    kind: str,
    device: torch.device | str = "cpu",
    *,
    map_file: bool = False,
    remedy: str = ANOTHER_COPY,
) -> Any:
    """Read a file of torch.save that holds nothing but data.

    path: an existing file.
    kind: the word for its content in messages, such as 'a checkpoint'.
    device: the place of its tensors.
    map_file: map tensors into memory, so that only those that are used are read.
    remedy: what a user can do about a damaged file; it ends the message.

    The checksums in the file are compared first: of all its content, or, where it is mapped, of all but the tensors.

    DamagedFile if the file has changed since it was written. DataError if it cannot be read, or holds more than
    tensors, numbers, arrays and plain values.
    """
    try:
        check_zip(path, remedy, wanted=lambda name: not map_file or "/data/" not in name)
        with torch.serialization.safe_globals(_PLAIN), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns of other pickle protocols; the errors below are enough
            return torch.load(path, map_location=device, weights_only=True, mmap=map_file or None)
    except DamagedFile:
        raise
    except Exception as error:  # a damaged pickle of an older format can raise nearly anything
        if memory_shortage(error):
            raise
        raise DataError(
            f"{path} cannot be read as {kind} ({_reason(error)}); it is damaged or was not made by this program"
        ) from None


def _reason(error: Exception) -> str:
    """Return what is wrong with a file, without torch's advice to read it in a way that runs its code."""
    if name := re.search(r"GLOBAL (\S+)", str(error)):
        return (
            f"it names {name[1]}, which is neither a tensor, a number, an array nor a plain value, and is not run; of "
            "a network that was saved whole, save the network's state_dict() instead"
        )
    if isinstance(error, pickle.UnpicklingError):
        return "it is no file of tensors and plain values, and nothing of it is run"
    return str(error).splitlines()[0] if str(error) else type(error).__name__
