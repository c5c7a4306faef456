"""Generator that draws images from the project's own diffusion model (`main.py --training.method cdpm`)."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from debeton.diffusion.model import load_model, model_folder
from debeton.diffusion.sampling import SAMPLERS, sample, steps_of
from debeton.generate.generators.generator import (
    DTYPES,
    GENERATORS,
    GeneratorFactory,
    ImageRequest,
    check_finite,
    folder_hash,
)
from debeton.system.distributed import pick_device
from debeton.system.errors import UsageError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `--generator cdpm` that not every model has."""
    parser.add_argument("--sampler", choices=list(SAMPLERS), default="dpm++", help="sampler; default: %(default)s")
    parser.add_argument(
        "--guidance-w",
        type=float,
        default=1.0,
        help="guidance strength w in (1 + w) eps(c) - w eps(null); 0: no guidance; default: %(default)s",
    )
    parser.add_argument("--no-clip", action="store_true", help="do not clip the predicted pixels at every step")


class CdpmGenerator:
    """Generator that draws each image from its condition and seed; it does not read prompts.

    model: run folder of `--training.method cdpm`.
    sampler: name of one of SAMPLERS.
    steps: number of sampling steps; 0: the default of sampler and schedule.
    w: guidance strength in (1 + w) eps(c) - w eps(null); 0: no guidance.
    dtype: fp32, fp16 or bf16; None: bf16 on a GPU, fp32 on a CPU.
    clip: clip the predicted pixels to their range at every step.
    device: auto, cpu, cuda or cuda:K.
    compiled: compile the network with torch.compile.
    attempts: attempts at an image that the filter rejects.

    UsageError: no model is given.
    """

    def __init__(
        self,
        model: Path | None,
        *,
        sampler: str = "dpm++",
        steps: int | None = None,
        w: float = 1.0,
        dtype: str | None = None,
        clip: bool = True,
        device: str = "auto",
        compiled: bool = False,
        attempts: int = 20,
    ):
        if model is None:
            raise UsageError("--generator cdpm needs --model RUN, the run folder of main.py --training.method cdpm")
        self.attempts, self.device = attempts, pick_device(device)
        dtype = dtype or ("bf16" if self.device.type == "cuda" else "fp32")
        folder = model_folder(model)
        network, self.schedule, self.conditions = load_model(folder, DTYPES[dtype])
        self.network = network.to(self.device).eval()
        if compiled:
            self.network.unet = torch.compile(self.network.unet)
        steps = steps_of(self.schedule, sampler, steps)
        self.sampling_options: dict[str, Any] = {"sampler": sampler, "steps": steps, "w": w, "clip": clip}
        self.identity = {
            "model": str(model),
            "revision": folder_hash(folder),
            "dtype": dtype,
            "sampler": sampler,
            "steps": steps,
            "guidance_w": w,
            "clip": clip,
        }

    def sample(self, requests: Sequence[ImageRequest]) -> NDArray[np.uint8]:
        """Return images, uint8 [N, H, W, 3].

        UsageError: the model was not trained on a cell.
        DataError: the model draws NaN.
        """
        codes = self.conditions.codes([(request.condition.label, request.condition.attribute) for request in requests])
        condition = torch.tensor(codes, device=self.device)
        seeds = [request.seed for request in requests]
        images = sample(self.network, self.schedule, condition, seeds, **self.sampling_options)
        finite = images.isfinite().flatten(1).all(1).cpu().numpy()
        check_finite(finite, str(self.identity["model"]), str(self.identity["dtype"]))
        pixels = ((images + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
        return pixels.permute(0, 2, 3, 1).cpu().numpy()


def make(arguments: argparse.Namespace) -> CdpmGenerator:
    """Build the generator from the parsed options."""
    return CdpmGenerator(
        Path(arguments.model) if arguments.model else None,
        sampler=arguments.sampler,
        steps=arguments.steps or None,
        w=arguments.guidance_w,
        clip=not arguments.no_clip,
        dtype=arguments.dtype,
        device=arguments.device,
        compiled=arguments.compile,
        attempts=arguments.attempts,
    )


GENERATORS.add(
    "cdpm",
    GeneratorFactory(make, add_arguments),
    "the project's own diffusion model (main.py --training.method cdpm)",
)
