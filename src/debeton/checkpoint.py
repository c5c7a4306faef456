"""Checkpoints: plain dictionaries of tensors and values, written to a temporary name and renamed."""

from __future__ import annotations

import io
import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch

from debeton.errors import DataError
from debeton.files import replacing


def save_checkpoint(path: Path, content: dict[str, Any]) -> None:
    """Write `content` so that `path` holds either the old checkpoint or the whole new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # Through memory: on a full disk torch.save to a file ends in a RuntimeError about its position.
    buffer = io.BytesIO()
    torch.save(content, buffer)
    # The view is released here: one that an error's traceback keeps crashes Python 3.12.1's garbage collector.
    with replacing(path) as (partial,), buffer.getbuffer() as view:
        partial.write_bytes(view)


def load_checkpoint(path: Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Read a checkpoint without running any code from it.

    Raises FileNotFoundError when there is none, DataError when it is damaged or holds more than tensors and
    plain values.
    """
    if not path.exists():
        raise FileNotFoundError(f"no checkpoint at {path}")
    try:
        content = torch.load(path, map_location=device, weights_only=True)
    except (RuntimeError, pickle.UnpicklingError, zipfile.BadZipFile, EOFError, ValueError, KeyError, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(
            f"{path} cannot be read as a checkpoint ({reason}); it is damaged or was not made by this program"
        ) from None
    if not isinstance(content, dict):
        raise DataError(f"{path} holds {type(content).__name__}, not a checkpoint dictionary")
    return content
