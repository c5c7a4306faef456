"""The network of the diffusion model, the names of its conditions, and the folder that holds both.

The folder is a diffusers pipeline (`DDPMPipeline.from_pretrained` reads it) with conditions.json beside it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from debeton.system.digests import KEY, check_files, file_digest, with_digests
from debeton.system.errors import DataError, UsageError
from debeton.system.files import write_text
from debeton.system.json_files import read_json
from debeton.system.json_shapes import ListOf, Table, Within, or_null

IN_RUN = "cdpm"  # the model's folder in that of its run
CONDITIONS = "conditions.json"
REMEDY = "train the model again, or take its folder from a copy"
CONTENT = Table(
    keys={
        "kind": ("label", "group"),
        "cells": ListOf(ListOf(or_null(str), 2)),
        "trained": ListOf(bool),
        "dataset": str,
        "data": str,
    },
    may={KEY: dict},
    others=None,
)
COUNT = Within(int, 1, 1 << 20)
# Of diffusers' configurations, what this project writes and reads; diffusers checks the rest.
UNET = Table(
    keys={
        "in_channels": Within(int, 3, 3),
        "out_channels": Within(int, 3, 3),
        "num_class_embeds": COUNT,
        "block_out_channels": ListOf(COUNT),
        "layers_per_block": Within(int, 1, 1 << 10),
        "down_block_types": ListOf(str),
        "up_block_types": ListOf(str),
        "norm_num_groups": COUNT,
        "attention_head_dim": COUNT,
        "add_attention": bool,
    }
)
SCHEDULE = Table(
    keys={
        "num_train_timesteps": Within(int, 1, 1 << 20),
        "beta_schedule": "linear",
        "beta_start": Within(float, 0, 1),
        "beta_end": Within(float, 0, 1),
        "prediction_type": ("epsilon", "v_prediction"),
        "variance_type": "fixed_large",
        "clip_sample": bool,
    }
)
PREDICTIONS = {"epsilon": "epsilon", "v": "v_prediction"}


@dataclass(frozen=True)
class Shape:
    """Size of a network.

    widths: channels of each level; each level is half as fine as the one before.
    layers: residual blocks of a level.
    attention: number of the coarsest levels that have attention.
    """

    widths: tuple[int, ...] = (64, 128, 256, 256)
    layers: int = 2
    attention: int = 2

    def check(self, height: int, width: int) -> None:
        """Raise UsageError unless images of this size can be halved once for every level but the first."""
        factor = 2 ** (len(self.widths) - 1)
        if height % factor or width % factor:
            raise UsageError(
                f"{len(self.widths)} levels halve an image {len(self.widths) - 1} times, and {height} x {width} pixels "
                f"are no multiple of {factor}; use fewer cdpm.widths, or another size (--training.decoder_train "
                "resized --resolution.val_res 64)"
            )


class ConditionalUNet(nn.Module):
    """diffusers' UNet2DModel with an embedding for each of K conditions, and embedding K for no condition.

    forward(noisy [B, 3, H, W], t int64 [B], condition int64 [B]) -> [B, 3, H, W]: the noise, or v if it predicts v.
    """

    def __init__(self, unet: Any):
        super().__init__()
        self.unet = unet

    @property
    def null(self) -> int:
        """Return the code of the null condition, K."""
        return int(self.unet.config.num_class_embeds) - 1

    @property
    def size(self) -> tuple[int, int]:
        """Return (height, width) in pixels of the images that the network was made for."""
        height, width = self.unet.config.sample_size
        return int(height), int(width)

    def forward(self, noisy: Tensor, t: Tensor, condition: Tensor) -> Tensor:
        """Return the guess, [B, 3, H, W], for noisy images at times t. B may be 0."""
        if not len(noisy):  # attention cannot reshape an empty batch, and DDP waits for a gradient of each parameter
            return noisy * torch.stack([parameter.sum() for parameter in self.parameters()]).sum()
        guess: Tensor = self.unet(noisy, t, class_labels=condition, return_dict=False)[0]
        return guess


def make_network(num_conditions: int, size: tuple[int, int], shape: Shape) -> ConditionalUNet:
    """Build a fresh network for images of (height, width) pixels. torch's global generator draws its weights."""
    from diffusers import UNet2DModel

    shape.check(*size)
    levels, attentive = len(shape.widths), min(shape.attention, len(shape.widths))
    plain = levels - attentive
    groups = next(g for g in (32, 16, 8, 4, 2, 1) if all(width % g == 0 for width in shape.widths))
    unet = UNet2DModel(
        sample_size=list(size),
        layers_per_block=shape.layers,
        block_out_channels=list(shape.widths),
        down_block_types=["DownBlock2D"] * plain + ["AttnDownBlock2D"] * attentive,
        up_block_types=["AttnUpBlock2D"] * attentive + ["UpBlock2D"] * plain,
        attention_head_dim=min(32, *shape.widths),
        norm_num_groups=groups,
        num_class_embeds=num_conditions + 1,
        add_attention=attentive > 0,
    )
    return ConditionalUNet(unet)


def make_schedule(prediction: str = "epsilon", steps: int = 1000) -> Any:
    """Return diffusers' DDPMScheduler with the published schedule: linear from 1e-4 to 0.02, sigma_t^2 = beta_t.

    The last beta grows as `steps` shrinks, so that the chain ends in noise for any number of steps.
    prediction: 'epsilon' or 'v'.
    """
    from diffusers import DDPMScheduler

    scale = 1000 / steps
    return DDPMScheduler(
        num_train_timesteps=steps,
        beta_schedule="linear",
        beta_start=1e-4 * scale,
        beta_end=min(0.02 * scale, 0.999),
        prediction_type=PREDICTIONS[prediction],
        variance_type="fixed_large",
        clip_sample=False,
    )


@dataclass(frozen=True)
class Conditions:
    """Names of a model's conditions.

    kind: 'label', or 'group' for every (class, attribute) cell.
    cells: (class, attribute) of each condition; attribute is None for labels.
    trained: whether training rows had each condition.
    dataset: name of the training set.
    data: checksum of its beton.
    """

    kind: str
    cells: tuple[tuple[str, str | None], ...]
    trained: tuple[bool, ...]
    dataset: str
    data: str

    @property
    def untrained(self) -> list[str]:
        """Return the names of the conditions that no training row had."""
        return [_name(cell) for cell, was_trained in zip(self.cells, self.trained, strict=True) if not was_trained]

    def codes(self, wanted: Sequence[tuple[str, str | None]]) -> list[int]:
        """Return the codes of cells. UsageError for a cell that the model was not trained on."""
        index = {cell: code for code, cell in enumerate(self.cells) if self.trained[code]}
        codes = []
        for label, attribute in wanted:
            code = index.get((label, attribute if self.kind == "group" else None))
            if code is None or (attribute is not None and self.kind == "label"):
                raise UsageError(self._unknown(label, attribute))
            codes.append(code)
        return codes

    def _unknown(self, label: str, attribute: str | None) -> str:
        """Return the message for a cell that the model was not trained on."""
        cell = _name((label, attribute))
        if attribute is not None and self.kind == "label":
            return (
                f"the model was trained on the classes of {self.dataset} alone and cannot be asked for '{cell}'; make "
                "a set without attributes with --blind, or train it with --cdpm.condition group"
            )
        known = "; ".join(_name(c) for c, was_trained in zip(self.cells, self.trained, strict=True) if was_trained)
        return f"the model was trained on no image of '{cell}'; it knows {known}"


def _name(cell: tuple[str, str | None]) -> str:
    """Return the name of a cell: 'class, attribute', or the class alone."""
    return ", ".join(part for part in cell if part is not None)


def save_model(folder: Path, network: ConditionalUNet, schedule: Any, conditions: Conditions) -> None:
    """Write the network, its schedule and its conditions; conditions.json comes last, with digests of all files."""
    from diffusers import DDPMPipeline

    DDPMPipeline(unet=network.unet, scheduler=schedule).save_pretrained(folder)  # type: ignore[attr-defined]
    files = {str(path.relative_to(folder)): file_digest(path) for path in sorted(folder.glob("*/*")) if path.is_file()}
    write_text(folder / CONDITIONS, json.dumps(with_digests(asdict(conditions), files), indent=1))


def model_folder(folder: Path) -> Path:
    """Return the folder of `save_model`: this one, or the one called 'cdpm' in this run folder.

    UsageError if there is neither.
    """
    for place in (folder, folder / IN_RUN):
        if (place / CONDITIONS).is_file():
            return place
    raise UsageError(
        f"no diffusion model of ours in {folder}: it has no {CONDITIONS}; give the run folder of "
        "main.py --training.method cdpm"
    )


def read_conditions(folder: Path) -> Conditions:
    """Read conditions.json of a folder of `save_model`.

    DamagedFile if it, or a file that it names, is not what was written. DataError names what else is damaged.
    """
    path = folder / CONDITIONS
    content = read_json(path, CONTENT, remedy=REMEDY)
    check_files(path, content, "take another copy of the model, or train it again")
    content.pop(KEY, None)
    cells = tuple((label, attribute) for label, attribute in content["cells"])
    if len(cells) != len(content["trained"]) or not cells:
        raise DataError(
            f"{path}: cells has {len(cells)} items and trained has {len(content['trained'])}; expected one of each for "
            f"every condition: {REMEDY}"
        )
    if strange := [cell for cell in cells if not isinstance(cell[0], str)]:
        raise DataError(f"{path}: a cell is {list(strange[0])}; expected a class and an attribute: {REMEDY}")
    return Conditions(**{**content, "cells": cells, "trained": tuple(content["trained"])})


def _check_configurations(folder: Path) -> None:
    """Raise DataError for a damaged configuration of the network or of its schedule, before diffusers reads it."""
    read_json(folder / "unet" / "config.json", UNET, remedy=REMEDY)
    read_json(folder / "scheduler" / "scheduler_config.json", SCHEDULE, remedy=REMEDY)


def _check_fit(folder: Path, unet: Any, conditions: Conditions) -> None:
    """Raise DataError where the parts of a model, each sound, do not belong together."""
    if unet.config.num_class_embeds != len(conditions.cells) + 1:
        raise DataError(
            f"{folder}: the network knows {unet.config.num_class_embeds} conditions with that of no condition, and "
            f"{CONDITIONS} names {len(conditions.cells)}; they were not written together: {REMEDY}"
        )


def load_model(folder: Path, dtype: torch.dtype = torch.float32) -> tuple[ConditionalUNet, Any, Conditions]:
    """Load (network, schedule, conditions) from a folder of `save_model`.

    DamagedFile if a file is not what was written. DataError if the folder cannot be read.
    """
    from diffusers import DDPMScheduler, UNet2DModel

    conditions = read_conditions(folder)
    _check_configurations(folder)
    try:
        unet = UNet2DModel.from_pretrained(str(folder / "unet"), torch_dtype=dtype, local_files_only=True)
        schedule = DDPMScheduler.from_pretrained(str(folder / "scheduler"), local_files_only=True)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, ArithmeticError) as error:
        raise DataError(f"{folder} cannot be read as a diffusion model: {' '.join(str(error).split())[:300]}") from None
    _check_fit(folder, unet, conditions)
    return ConditionalUNet(unet), schedule, conditions
