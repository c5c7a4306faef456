"""Generator for text-to-image models of diffusers.

It loads Stable Diffusion 1 to 3, XL, Turbo, and every other model that the auto pipeline of diffusers supports.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from debeton.generate.generators.generator import (
    DTYPES,
    GENERATORS,
    SAFETY,
    GeneratorFactory,
    ImageRequest,
    check_finite,
    folder_hash,
    local_model,
    weights_variant,
)
from debeton.system.distributed import pick_device
from debeton.system.errors import DataError, UsageError

DEFAULT_MODEL = "CompVis/stable-diffusion-v1-4"  # the model of From Fake to Real (arXiv 2308.04553)
STEPS = 25
FEWEST_BLACK, MOSTLY = 4, 0.9  # so many images, and such a share of all, are black where the safety checker is at fault


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `--generator stable_diffusion` that not every model has."""
    parser.add_argument("--revision", help="revision of a model on the Hugging Face hub; default: the newest")
    parser.add_argument("--guidance", type=float, default=7.5, help="guidance scale; default: %(default)s")
    parser.add_argument(
        "--no-safety-checker",
        action="store_true",
        help="leave out the model's safety checker, which turns images black that it takes for unsafe",
    )
    parser.add_argument(
        "--size", help="image size in pixels, S or HEIGHTxWIDTH, multiples of 8; default: the model's own"
    )


class StableDiffusion:
    """Generator that makes an image from its prompt and seed alone, with a diffusers pipeline.

    The noise of each image is drawn on the CPU from its own seed. So the same request gives the same image on any
    device, up to the rounding of the device. A model's safety checker stays on, unless it is left out. An image that it
    turns black is rejected as SAFETY and made again with another seed.

    model: id on the Hugging Face hub, or a folder of save_pretrained.
    revision: revision of a model on the hub; None: the newest.
    steps: number of sampling steps.
    guidance: guidance scale.
    size: (height, width) in pixels; None: the model's own.
    dtype: fp32, fp16 or bf16; None: fp16 on a GPU, fp32 on a CPU.
    device: auto, cpu, cuda or cuda:K.
    compiled: compile the network with torch.compile.
    safety_checker: keep the model's safety checker, if it has one.
    attempts: attempts at an image that the filter rejects.
    """

    def __init__(
        self,
        model: str = DEFAULT_MODEL,
        *,
        revision: str | None = None,
        steps: int = STEPS,
        guidance: float = 7.5,
        size: tuple[int, int] | None = None,
        dtype: str | None = None,
        device: str = "auto",
        compiled: bool = False,
        safety_checker: bool = True,
        attempts: int = 20,
    ):
        self.device = pick_device(device)
        dtype = dtype or ("fp16" if self.device.type == "cuda" else "fp32")
        self.pipeline, loaded_revision = load_pipeline(model, revision, DTYPES[dtype])
        self.pipeline = self.pipeline.to(self.device)
        self.pipeline.set_progress_bar_config(disable=True)
        if compiled:
            name = "transformer" if getattr(self.pipeline, "transformer", None) is not None else "unet"
            setattr(self.pipeline, name, torch.compile(getattr(self.pipeline, name)))
        if not safety_checker and getattr(self.pipeline, "safety_checker", None) is not None:
            self.pipeline.register_modules(safety_checker=None)
        self.attempts, self.size = attempts, size
        self.rejected: list[str] = []
        self._made = self._blackened = 0
        self.settings: dict[str, Any] = {"num_inference_steps": steps, "guidance_scale": guidance}
        self.identity = {
            "model": model,
            "revision": loaded_revision,
            "pipeline": type(self.pipeline).__name__,
            "steps": steps,
            "guidance": guidance,
            "size": list(size) if size else None,
            "dtype": dtype,
            # No key of sets with a checker, so that those that were begun without this option can go on.
            **({} if safety_checker else {"safety_checker": False}),
        }

    def sample(self, requests: Sequence[ImageRequest]) -> NDArray[np.uint8]:
        """Return images, uint8 [N, H, W, 3]; `rejected` then names those that the safety checker turned black.

        DataError: the model draws NaN, or the safety checker turns nearly all images black.
        """
        size = {} if self.size is None else {"height": self.size[0], "width": self.size[1]}
        with torch.inference_mode():
            output = self.pipeline(
                [request.prompt for request in requests],
                output_type="np",
                **size,
                **self.settings,
                generator=[torch.Generator().manual_seed(request.seed) for request in requests],
            )
        images = np.asarray(output.images)
        flags = getattr(output, "nsfw_content_detected", None) or [False] * len(images)
        self.rejected = [SAFETY if flag else "" for flag in flags]
        self._check_safety_checker(sum(map(bool, flags)), len(images))
        finite = np.isfinite(images).reshape(len(images), -1).all(1)
        check_finite(finite, str(self.identity["model"]), str(self.identity["dtype"]))
        return np.asarray((images * 255).round().clip(0, 255), np.uint8)

    def _check_safety_checker(self, blackened: int, made: int) -> None:
        """Raise DataError where the safety checker turns nearly all images black: other seeds will not help.

        blackened: number of images of this batch that it turned black.
        made: number of images of this batch.
        """
        self._made, self._blackened = self._made + made, self._blackened + blackened
        if self._blackened >= FEWEST_BLACK and self._blackened >= MOSTLY * self._made:
            raise DataError(
                f"the safety checker of the model {self.identity['model']} turned {self._blackened} of the first "
                f"{self._made} images black; look at images with other prompts or another --dtype, or leave the "
                "checker out with --no-safety-checker"
            )


def load_pipeline(model: str, revision: str | None, dtype: torch.dtype) -> tuple[Any, str]:
    """Load a text-to-image pipeline, and return it with its revision.

    The revision is a commit on the hub, or a hash of the files of a local folder.

    UsageError: `model` is a path without a diffusers model.
    DataError: the model cannot be downloaded or read.
    """
    from diffusers import AutoPipelineForText2Image, DiffusionPipeline
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    diffusers_logging.disable_progress_bar()
    transformers_logging.disable_progress_bar()
    folder = local_model(model, "model_index.json", "diffusers model", DEFAULT_MODEL)
    if folder is None:
        try:
            folder = Path(DiffusionPipeline.download(model, revision=revision))
        except (OSError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise DataError(
                f"the model {model} could not be downloaded ({reason}); download it on a machine with a network "
                f"('hf download {model}') and give the folder with --model, or set HF_HOME to the folder of downloads"
            ) from None
        return _read(AutoPipelineForText2Image, folder, dtype), folder.name
    return _read(AutoPipelineForText2Image, folder, dtype), folder_hash(folder)


def _read(kind: Any, folder: Path, dtype: torch.dtype) -> Any:
    try:
        return kind.from_pretrained(str(folder), dtype=dtype, variant=weights_variant(folder), local_files_only=True)
    except (OSError, ValueError, KeyError, RuntimeError, AttributeError) as error:
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise DataError(f"{folder} cannot be loaded as a text-to-image model: {reason}") from None


def parse_size(text: str | None) -> tuple[int, int] | None:
    """Return (height, width) from text such as '512' or '512x768'; UsageError unless both are multiples of 8."""
    if text is None:
        return None
    parts = text.lower().split("x")
    if len(parts) > 2 or not all(part.isdecimal() and int(part) > 0 and int(part) % 8 == 0 for part in parts):
        raise UsageError(f"--size {text}: expected S or HEIGHTxWIDTH in pixels, multiples of 8, as in 512 or 512x768")
    return int(parts[0]), int(parts[-1])


def make(arguments: argparse.Namespace) -> StableDiffusion:
    """Build the generator from the parsed options."""
    return StableDiffusion(
        arguments.model or DEFAULT_MODEL,
        revision=arguments.revision,
        steps=arguments.steps or STEPS,
        guidance=arguments.guidance,
        size=parse_size(arguments.size),
        dtype=arguments.dtype,
        device=arguments.device,
        compiled=arguments.compile,
        safety_checker=not arguments.no_safety_checker,
        attempts=arguments.attempts,
    )


GENERATORS.add(
    "stable_diffusion",
    GeneratorFactory(make, add_arguments),
    "text-to-image models of diffusers (default: Stable Diffusion 1.4)",
)
