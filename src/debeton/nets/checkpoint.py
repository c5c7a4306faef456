"""Checkpoints: plain dictionaries of tensors and values, written to a temporary name and renamed."""

from __future__ import annotations

import hashlib
import io
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from debeton.system.errors import DataError
from debeton.system.files import replacing
from debeton.system.plain_files import load_plain
from debeton.system.progress import note_progress
from debeton.system.zip_checksums import ANOTHER_COPY, check_zip

# The files of a run folder. FOLDER/LATEST_NAME resumes a phase; FOLDER/BEST_NAME holds the selected weights.
CHECKPOINT_FOLDER, LATEST_NAME, BEST_NAME = "checkpoints", "checkpoint_latest.pt", "checkpoint_best.pt"
BEST_CHECKPOINT = Path(CHECKPOINT_FOLDER, BEST_NAME)


def save_checkpoint(path: Path, content: dict[str, Any]) -> None:
    """Write `content` so that `path` holds either the old checkpoint or the whole new one."""
    # Into memory first: on a full disk, torch.save to a file ends in a RuntimeError about the file's position.
    buffer = io.BytesIO()
    torch.save(content, buffer)
    # The view is released here. If an error's traceback keeps it, Python 3.12.1's garbage collector crashes.
    with replacing(path) as (partial,), buffer.getbuffer() as view:
        partial.write_bytes(view)
    note_progress()


def copy_weights(model: nn.Module, weights: Mapping[str, Any], *, strict: bool = True) -> None:
    """Copy weights by name into the model, also if they were copied into a plain dictionary or stored as safetensors.

    strict: raise RuntimeError if names are missing or left over.
    """
    state = OrderedDict(weights)
    # Modules look up their version in this attribute of a state dict. Without it, MnasNet loads nothing. Weights that
    # have lost it come from this project, so from the model's own version.
    metadata = getattr(weights, "_metadata", None) or getattr(model.state_dict(), "_metadata", None)
    state._metadata = metadata  # type: ignore[attr-defined]
    model.load_state_dict(state, strict=strict)


def add_weights(digest: hashlib._Hash, module: nn.Module, without: str | None = None) -> None:
    """Add names, shapes, types and bytes of all weights, statistics and further state of a module to a hash.

    without: name of a part that is left out, such as the head.
    """
    for name, value in module.state_dict().items():
        if without is None or name.rpartition(".")[0] != without:
            if not isinstance(value, torch.Tensor):  # the extra state of a module, such as a number of steps
                digest.update(f"{name} {value!r}".encode())
                continue
            digest.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
            digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)


def weights_hash(module: nn.Module) -> str:
    """Return 16 hex digits of all weights and statistics of a module."""
    digest = hashlib.sha256()
    add_weights(digest, module)
    return digest.hexdigest()[:16]


def load_counters(path: Path) -> dict[str, Any]:
    """Return the numbers and texts of a checkpoint, whose checksum is verified. Errors as in `load_checkpoint`.

    Its tensors stay on the disk and are not verified: this takes as long for 1 GB as for 1 kB.
    """
    content = load_checkpoint(path, map_file=True)
    return {name: value for name, value in content.items() if isinstance(value, int | float | str)}


def load_checkpoint(path: Path, device: torch.device | str = "cpu", *, map_file: bool = False) -> dict[str, Any]:
    """Read a checkpoint without running any code from it.

    All its content is compared with the checksums in it. torch itself does not look at them.

    FileNotFoundError if there is none. DamagedFile if it has changed since it was written. DataError if it cannot be
    read, or holds more than tensors, numbers, arrays and plain values.

    map_file: map tensors into memory, so that only those that are used are read. Mapped tensors are not verified.
    """
    if not path.exists():
        raise FileNotFoundError(f"no checkpoint at {path}")
    content = load_plain(path, "a checkpoint", device, map_file=map_file, remedy=remedy(path))
    if not isinstance(content, Mapping):
        raise DataError(f"{path} holds {type(content).__name__}, not a checkpoint dictionary")
    return dict(content)


def verify_checkpoint(path: Path) -> None:
    """Compare all content of an existing checkpoint with the checksums in it. DamagedFile if it differs."""
    check_zip(path, remedy(path))


def remedy(path: Path) -> str:
    """Return the end of a sentence about a damaged weight file: what a user can do."""
    if path.parent.name != CHECKPOINT_FOLDER:
        return ANOTHER_COPY
    again = f"or remove the run's folder {path.parent.parent}, and the same command trains it again"
    if path.name == LATEST_NAME:
        return f"put back a copy of it; or remove it, and the same command trains its phase again; {again}"
    latest = path.with_name(LATEST_NAME)
    other = f"; {latest} holds the weights of the last epoch" if latest.exists() else ""
    return f"put back a copy of it; {again}{other}"
