"""The section 'ddb' of the configuration, which the methods ddb1 and ddb2 and their synthetic images share."""

from __future__ import annotations

from dataclasses import dataclass

from debeton.config import section, setting
from debeton.config.checkers import Bool, Float, Int, OneOf, OrNull, Text
from debeton.diffusion.sampling import SAMPLERS
from debeton.generate.filters import FILTERS
from debeton.methods.parts.amplifier import Selector


@section("ddb", "Diffusing DeBias: its synthetic images, and the use of its amplifier")
@dataclass(frozen=True)
class DdbSettings:
    """The settings of section 'ddb'."""

    cdpm: str | None = setting(
        OrNull(Text()), "run folder whose diffusion model draws the images; null: train one", default=None
    )
    images: str | None = setting(
        OrNull(Text()), "folder of generated images to use (writers/README.md); null: draw them", default=None
    )
    amplifier: str | None = setting(
        OrNull(Text()), "phase_amplifier.pt of another run, used as amplifier; null: train one", default=None
    )
    pseudo_labels: str | None = setting(
        OrNull(Text()),
        "CSV of path and ddb (1: bias-conflicting), used instead of an amplifier (ddb1); null: none",
        default=None,
    )
    amplifier_data: str = setting(
        OneOf("synthetic", "real"),
        "rows that train the amplifier; real: the training rows, an ablation",
        default="synthetic",
    )
    per_class: int = setting(Int(2), "number of images of each class", default=1000)
    sampler: str = setting(OneOf(*SAMPLERS), "sampler that draws the images", default="dpm++")
    steps: int | None = setting(OrNull(Int(1), 0), "steps of the sampler; null: the sampler's own", default=None)
    guidance_w: float = setting(Float(-1), "w in (1 + w) eps(c) - w eps(null); 0: no guidance", default=1.0)
    clip: bool = setting(Bool(), "clip predicted pixels to their range at every step; false as published", default=True)
    generation_batch: int = setting(Int(1), "number of images that are drawn at a time", default=100)
    filter: str = setting(OneOf(*FILTERS.names()), "filter that rejects images", default="none")
    copy_check: bool = setting(Bool(), "compare the images with the training images, to find copies", default=True)
    oracle: str | None = setting(
        OrNull(Text()),
        "checkpoint of a run with --data.label ATTRIBUTE, which measures the bias of the images; null: none",
        default=None,
    )
    selector: str = setting(
        OneOf("loss_std", "error_set"),
        "rows that are called bias-conflicting: errors of high loss, or all errors",
        default="loss_std",
    )
    gamma: float = setting(
        Float(0), "deviations above the mean loss of the class from which a loss is high", default=3.0
    )
    statistics: str = setting(
        OneOf("correct", "all"),
        "rows that give mean and deviation: the correctly classified rows of the class, or all of its rows",
        default="correct",
    )
    amplifier_view: str = setting(
        OneOf("same", "clean"),
        "images that the amplifier sees in ddb2: the augmented batch, or every row once without augmentation",
        default="same",
    )
    ema: float = setting(
        Float(0, 1), "share of the old value in the moving averages of losses (ddb2); 0: no averages", default=0.0
    )
    class_norm: bool = setting(Bool(), "divide each loss by the largest loss of its class (ddb2)", default=False)

    @property
    def rule(self) -> Selector:
        """The rule that calls rows bias-conflicting."""
        return Selector(self.selector, self.gamma, self.statistics)
