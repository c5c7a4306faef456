"""Who makes images: the protocol, and the registry of generators, one module each."""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from debeton.generate.prompts import Condition
from debeton.system.errors import UsageError
from debeton.system.registry import Registry

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
SAMPLES, PIECE = 64, 1 << 16  # pieces of each file of a model, and their bytes, that its revision answers for


@dataclass(frozen=True)
class Order:
    """One image to be made. number: of the image in its condition's part of the set, from 0."""

    condition: Condition
    number: int
    prompt: str
    seed: int


class Generator(Protocol):
    """Makes images to order.

    identity: plain values that decide what the images look like, for generator.json. attempts: how often an image is
    made anew, with another seed, when the filter rejects it.
    """

    identity: dict[str, Any]
    attempts: int

    def sample(self, orders: Sequence[Order]) -> NDArray[np.uint8]:
        """uint8 [N, H, W, 3], one image an order; the same order gives the same image."""
        ...


@dataclass(frozen=True)
class Maker:
    """A registered generator: `make(arguments)` builds it, `add_arguments` declares its options."""

    make: Callable[[argparse.Namespace], Generator]
    add_arguments: Callable[[argparse.ArgumentParser], None]


GENERATORS: Registry[Maker] = Registry("generator")


def add_model_arguments(parser: argparse._ActionsContainer) -> None:
    """Options of every generator that is a model."""
    parser.add_argument(
        "--model", help="a folder, a run, or an id on the Hugging Face hub (default: Stable Diffusion 1.4)"
    )
    parser.add_argument("--steps", type=int, help="of sampling; default: the generator's own")
    parser.add_argument("--dtype", choices=list(DTYPES), help="default: 16 bits on a GPU, fp32 on a CPU")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:K")
    parser.add_argument("--compile", action="store_true", help="torch.compile the network")


def local_model(model: str, marker: str, kind: str, example: str) -> Path | None:
    """The folder that `model` is, or None where it is an id on the Hugging Face hub, such as `example`.

    marker: the file that every such folder has. UsageError for a folder without it, and for a path with nothing there.
    """
    folder = Path(model)
    if folder.is_dir():
        if not (folder / marker).is_file():
            raise UsageError(
                f"{folder} is not a {kind}: it has no {marker}; give the folder that save_pretrained made, or an id on "
                "the Hugging Face hub"
            )
        return folder
    if folder.is_absolute() or model.startswith(".") or model.count("/") != 1:
        raise UsageError(f"no {kind} at {model}; expected a folder with {marker}, or an id such as {example}")
    return None


def folder_hash(folder: Path) -> str:
    """16 hex digits of the names and sizes of a model's files, and of SAMPLES pieces of each, spread over it: the first
    bytes of a file of weights list their shapes, which another training shares."""
    digest = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.is_file() and not p.name.startswith(".")):
        digest.update(f"{path.relative_to(folder)} {path.stat().st_size}".encode())
        with path.open("rb") as file:
            step = max(PIECE, path.stat().st_size // SAMPLES)
            for start in range(0, path.stat().st_size, step):
                file.seek(start)
                digest.update(file.read(PIECE))
    return digest.hexdigest()[:16]
