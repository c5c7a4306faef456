"""Text-to-image models through diffusers: Stable Diffusion 1 to 3, XL, Turbo, and what else its auto pipeline loads."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from debeton.generate.generators.generator import DTYPES, GENERATORS, Maker, Order, folder_hash, local_model
from debeton.system.distributed import pick_device
from debeton.system.errors import DataError, UsageError

DEFAULT_MODEL = "CompVis/stable-diffusion-v1-4"  # From Fake to Real's
STEPS = 25


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `--generator stable_diffusion`, beside those of all models."""
    parser.add_argument("--revision", help="of a model on the hub; default: its newest")
    parser.add_argument("--guidance", type=float, default=7.5, help="scale of the guidance; default: %(default)s")
    parser.add_argument("--size", help="of the images, S or HEIGHTxWIDTH; default: the model's own")


class StableDiffusion:
    """A diffusers pipeline that makes an image from its prompt and its seed alone.

    The noise is drawn on the CPU by a generator an image, so the same order gives the same picture on any device, up to
    its arithmetic. A safety checker that the model brings stays on; what it blacks out the filter rejects.
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
        attempts: int = 20,
    ):
        self.device = pick_device(device)
        dtype = dtype or ("fp16" if self.device.type == "cuda" else "fp32")
        self.pipeline, found = load_pipeline(model, revision, DTYPES[dtype])
        self.pipeline = self.pipeline.to(self.device)
        self.pipeline.set_progress_bar_config(disable=True)
        if compiled:
            name = "transformer" if getattr(self.pipeline, "transformer", None) is not None else "unet"
            setattr(self.pipeline, name, torch.compile(getattr(self.pipeline, name)))
        self.attempts, self.size = attempts, size
        self.settings: dict[str, Any] = {"num_inference_steps": steps, "guidance_scale": guidance}
        self.identity = {
            "model": model,
            "revision": found,
            "pipeline": type(self.pipeline).__name__,
            "steps": steps,
            "guidance": guidance,
            "size": list(size) if size else None,
            "dtype": dtype,
        }

    def sample(self, orders: Sequence[Order]) -> NDArray[np.uint8]:
        """uint8 [N, H, W, 3]."""
        size = {} if self.size is None else {"height": self.size[0], "width": self.size[1]}
        with torch.inference_mode():
            images = self.pipeline(
                [order.prompt for order in orders],
                output_type="np",
                **size,
                **self.settings,
                generator=[torch.Generator().manual_seed(order.seed) for order in orders],
            ).images
        return np.asarray((images * 255).round().clip(0, 255), np.uint8)


def load_pipeline(model: str, revision: str | None, dtype: torch.dtype) -> tuple[Any, str]:
    """(the pipeline, its revision): a hub's commit, or a hash of a local folder's files.

    UsageError where `model` is a path without a diffusers model; DataError where the model cannot be had or read.
    """
    from diffusers import AutoPipelineForText2Image, DiffusionPipeline
    from diffusers.utils import logging as of_diffusers
    from transformers.utils import logging as of_transformers

    of_diffusers.disable_progress_bar()
    of_transformers.disable_progress_bar()
    folder = local_model(model, "model_index.json", "diffusers model", DEFAULT_MODEL)
    if folder is None:
        try:
            folder = Path(DiffusionPipeline.download(model, revision=revision))
        except (OSError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise DataError(
                f"the model {model} could not be had ({reason}); fetch it where there is a network with "
                f"'hf download {model}', and give the folder with --model, or set HF_HOME to where it lies"
            ) from None
        return _read(AutoPipelineForText2Image, folder, dtype), folder.name
    return _read(AutoPipelineForText2Image, folder, dtype), folder_hash(folder)


def _read(kind: Any, folder: Path, dtype: torch.dtype) -> Any:
    try:
        return kind.from_pretrained(str(folder), dtype=dtype, local_files_only=True)
    except (OSError, ValueError, KeyError, RuntimeError, AttributeError) as error:
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise DataError(f"{folder} cannot be loaded as a text-to-image model: {reason}") from None


def parse_size(text: str | None) -> tuple[int, int] | None:
    """'512' or '512x768' (height, width); UsageError unless both are multiples of 8."""
    if text is None:
        return None
    parts = text.lower().split("x")
    if len(parts) > 2 or not all(part.isdecimal() and int(part) > 0 and int(part) % 8 == 0 for part in parts):
        raise UsageError(f"--size {text}: expected S or HEIGHTxWIDTH in pixels, multiples of 8, as in 512 or 512x768")
    return int(parts[0]), int(parts[-1])


def make(arguments: argparse.Namespace) -> StableDiffusion:
    """The generator that the options describe."""
    return StableDiffusion(
        arguments.model or DEFAULT_MODEL,
        revision=arguments.revision,
        steps=arguments.steps or STEPS,
        guidance=arguments.guidance,
        size=parse_size(arguments.size),
        dtype=arguments.dtype,
        device=arguments.device,
        compiled=arguments.compile,
        attempts=arguments.attempts,
    )


GENERATORS.add(
    "stable_diffusion", Maker(make, add_arguments), "text-to-image models through diffusers (SD 1.4 by default)"
)
