"""Protocol and registry of generators, and helpers for model folders."""

from __future__ import annotations

import argparse
import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from debeton.generate.prompts import Condition
from debeton.system.errors import DataError, UsageError
from debeton.system.registry import Registry

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
SAMPLES, PIECE = 64, 1 << 16  # number of pieces of each file that `folder_hash` reads, and the bytes of one piece

# Weight files of diffusers and transformers, such as model.fp16-00001-of-00002.safetensors.
WEIGHTS = re.compile(r"[\w-]+?(\.(?P<variant>[A-Za-z]\w*))?(-\d+-of-\d+)?\.(safetensors|bin)")

# Verdict on an image that the safety checker of a model turned black. It is no verdict of a filter: the pixels alone do
# not tell why an image is black, and the filter 'none' would keep it.
SAFETY = "safety checker"


@dataclass(frozen=True)
class ImageRequest:
    """One image that a generator is to make.

    condition: class and attribute of the image.
    number: number of the image in its condition, from 0.
    prompt: text for generators that read one.
    seed: seed of all random numbers of this image.
    """

    condition: Condition
    number: int
    prompt: str
    seed: int


class Generator(Protocol):
    """Source of images.

    identity: plain values that decide the images, for generator.json.
    attempts: number of attempts at an image, each with another seed, before a rejection is an error.

    A generator may have `rejected`, a list of one text per image of its last batch: '' or the reason why the image
    cannot be used, such as SAFETY.
    """

    identity: dict[str, Any]
    attempts: int

    def sample(self, requests: Sequence[ImageRequest]) -> NDArray[np.uint8]:
        """Return one image per request, uint8 [N, H, W, 3]. The same request gives the same image."""
        ...


def check_finite(finite: NDArray[np.bool_], model: str, dtype: str) -> None:
    """Raise DataError where an image has pixels that are no finite numbers, before they are made whole numbers.

    finite: whether all pixels of an image are finite, bool [N].
    model: name of the model, for the message.
    dtype: number type that the model ran in, one of DTYPES.
    """
    if finite.all():
        return
    count = f"{int((~finite).sum())} of {len(finite)} images of {model} have pixels that are NaN; it ran in {dtype}"
    if dtype == "fp16":
        raise DataError(
            f"{count} ({DTYPES[dtype]}), whose largest number is 65504: use --dtype bf16 or --dtype fp32, or a model "
            "whose decoder (VAE) is made for fp16"
        )
    more = "" if dtype == "fp32" else "; or draw the images with debeton generate --dtype fp32"
    raise DataError(
        f"{count} ({DTYPES[dtype]}), so its weights are damaged, or its training diverged: download or train it again, "
        f"with a lower learning rate{more}"
    )


@dataclass(frozen=True)
class GeneratorFactory:
    """Entry of the registry.

    make: builds the generator from the parsed arguments.
    add_arguments: declares the generator's command-line options.
    """

    make: Callable[[argparse.Namespace], Generator]
    add_arguments: Callable[[argparse.ArgumentParser], None]


GENERATORS: Registry[GeneratorFactory] = Registry("generator")


def add_model_arguments(parser: argparse._ActionsContainer) -> None:
    """Declare the options that all generators with a model share."""
    parser.add_argument(
        "--model", help="model folder, run folder, or id on the Hugging Face hub (default: Stable Diffusion 1.4)"
    )
    parser.add_argument("--steps", type=int, help="number of sampling steps; default: chosen by the generator")
    parser.add_argument("--dtype", choices=list(DTYPES), help="number type; default: 16 bits on a GPU, fp32 on a CPU")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:K; default: %(default)s")
    parser.add_argument("--compile", action="store_true", help="compile the network with torch.compile")


def local_model(model: str, marker: str, kind: str, example: str) -> Path | None:
    """Return the folder of a model, or None if `model` is an id on the Hugging Face hub.

    model: path or id.
    marker: file that every folder of this kind contains.
    kind: name of the kind of model, for messages.
    example: an id, for messages.

    UsageError: the folder lacks the marker, or there is nothing at the path.
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


def weights_variant(folder: Path) -> str | None:
    """Return the variant of the weights to load from a model folder, such as 'fp16'; None for the plain files.

    diffusers and transformers look for a variant only where they are told to, also if a folder has no plain file.

    folder: folder of save_pretrained, with a part of the model in each folder below it, or with one model.
    """
    by_folder: dict[Path, set[str]] = {}
    for path in folder.rglob("*"):
        if path.is_file() and (match := WEIGHTS.fullmatch(path.name)):
            by_folder.setdefault(path.parent, set()).add(match["variant"] or "")
    only_variants = [variants for variants in by_folder.values() if "" not in variants]
    common = set.intersection(*only_variants) if only_variants else set()
    return min(common, default=None)


def folder_hash(folder: Path) -> str:
    """Compute a fingerprint of a model folder: 16 hex digits.

    It covers names, sizes and SAMPLES evenly spaced pieces of each file. The first bytes alone are not enough: they
    list the shapes of the weights, which another training of the same network shares.
    """
    digest = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.is_file() and not p.name.startswith(".")):
        digest.update(f"{path.relative_to(folder)} {path.stat().st_size}".encode())
        with path.open("rb") as file:
            step = max(PIECE, path.stat().st_size // SAMPLES)
            for start in range(0, path.stat().st_size, step):
                file.seek(start)
                digest.update(file.read(PIECE))
    return digest.hexdigest()[:16]
