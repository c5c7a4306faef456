"""Images from the project's own diffusion model: what `main.py --training.method cdpm` has trained."""

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
from debeton.generate.generators.generator import DTYPES, GENERATORS, Maker, Order, folder_hash
from debeton.system.distributed import pick_device
from debeton.system.errors import UsageError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `--generator cdpm`, beside those of all models."""
    parser.add_argument("--sampler", choices=list(SAMPLERS), default="dpm++", help="default: %(default)s")
    parser.add_argument(
        "--guidance-w", type=float, default=1.0, help="w of (1 + w) eps(c) - w eps(null); default: %(default)s, 0: none"
    )
    parser.add_argument("--no-clip", action="store_true", help="do not hold guessed pixels in range at every step")


class Diffusion:
    """Draws each image from its condition and seed; prompts are not looked at."""

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
        self.how: dict[str, Any] = {"sampler": sampler, "steps": steps, "w": w, "clip": clip}
        self.identity = {
            "model": str(model),
            "revision": folder_hash(folder),
            "dtype": dtype,
            "sampler": sampler,
            "steps": steps,
            "guidance_w": w,
            "clip": clip,
        }

    def sample(self, orders: Sequence[Order]) -> NDArray[np.uint8]:
        """uint8 [N, H, W, 3]; UsageError for a cell that the model was not trained on."""
        codes = self.conditions.codes([(order.condition.label, order.condition.attribute) for order in orders])
        condition = torch.tensor(codes, device=self.device)
        images = sample(self.network, self.schedule, condition, [order.seed for order in orders], **self.how)
        pixels = ((images + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
        return pixels.permute(0, 2, 3, 1).cpu().numpy()


def make(arguments: argparse.Namespace) -> Diffusion:
    """The generator that the options describe."""
    return Diffusion(
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


GENERATORS.add("cdpm", Maker(make, add_arguments), "the project's own diffusion model (main.py --training.method cdpm)")
