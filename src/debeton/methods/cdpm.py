"""A conditional diffusion model of the training rows: no classifier, but images for the methods that need some."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from fastargs import Param, Section
from torch import nn

from debeton.config.checkers import Float, Int, OneOf, Text
from debeton.data.views.view import View
from debeton.diffusion.denoising import Denoising
from debeton.diffusion.model import (
    IN_RUN,
    PREDICTIONS,
    Conditions,
    Shape,
    make_network,
    make_schedule,
    save_model,
)
from debeton.methods.method import register_method
from debeton.methods.parts.own_settings import own_params, own_settings
from debeton.nets.models import place_network
from debeton.system import distributed
from debeton.system.errors import UsageError
from debeton.system.log import logger
from debeton.system.seed import seed_everything
from debeton.train.run import Run
from debeton.train.training import fit, phase_settings, train_loader

OWN = (
    "epochs",
    "batch_size",
    "optimizer",
    "lr",
    "weight_decay",
    "lr_scheduler",
    "warmup_epochs",
    "clip_grad",
    "ema",
    "precision",
    "decoder_train",
    "augment",
    "resolution",
)

Section("cdpm", "the project's own conditional diffusion model").params(
    condition=Param(OneOf("label", "group"), "what images are asked for by: classes, or every cell", default="label"),
    dropout=Param(Float(0, 1), "share of rows whose condition is hidden, for guidance", default=0.1),
    prediction=Param(OneOf(*PREDICTIONS), "what the network guesses", default="epsilon"),
    min_snr=Param(Float(0), "bound on the signal-to-noise ratio in loss weights (often 5); 0: none", default=0.0),
    steps=Param(Int(2), "of noise", default=1000),
    widths=Param(Text(), "channels of each level, from fine to coarse", default="64,128,256,256"),
    layers=Param(Int(1), "residual blocks of a level", default=2),
    attention=Param(Int(0), "the number of coarsest levels with attention", default=2),
    **own_params("the phase 'cdpm'", OWN),
)


def parse_widths(text: str) -> tuple[int, ...]:
    """'32,64' -> (32, 64); UsageError unless all are positive."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise UsageError(f"cdpm.widths is '{text}'; expected channels of each level, such as 64,128,256")
    return tuple(int(part) for part in parts)


def conditions_of(view: View, kind: str) -> Conditions:
    """Names of the classes (or cells) of a view, and which of them it has rows of."""
    spec = view.spec
    if kind == "label":
        cells: list[tuple[str, str | None]] = [(label, None) for label in spec.classes]
        counts = np.bincount(view.label[view.rows], minlength=spec.num_classes)
    else:
        cells = [(label, attribute) for label in spec.classes for attribute in spec.attributes]
        counts = view.group_counts()
    trained = tuple(bool(count) for count in counts)
    return Conditions(kind, tuple(cells), trained, spec.name, str(view.beton.sidecar["checksum"]))


@register_method(
    "cdpm",
    "a diffusion model of the training rows, for images of its conditions",
    paper="Ho et al. 2020 (DDPM), Ho and Salimans 2022 (guidance); Diffusing DeBias",
    needs="label; with cdpm.condition group label, attribute",
    classifies=False,
)
def cdpm(run: Run) -> nn.Module | None:
    """One phase on the training view; the model goes to the folder 'cdpm' of the run. Returns no classifier."""
    train_diffusion(run, run.views["train"])
    return None


def train_diffusion(run: Run, view: View) -> None:
    """Train on `view` through the phase 'cdpm', and write what it gives."""
    settings, own = run.config.cdpm, own_settings(run.config.cdpm, OWN)
    view = replace(view, spec=replace(view.spec, mean=(0.5,) * 3, std=(0.5,) * 3))  # pixels in [-1, 1]
    conditions = conditions_of(view, settings.condition)
    if unseen := conditions.untrained:
        logger.warning("warning: no training row is of %s; the model cannot be asked for it", "; ".join(unseen))
    shape = Shape(parse_widths(settings.widths), settings.layers, settings.attention)
    schedule = make_schedule(settings.prediction, settings.steps)
    # On a CPU a step of this network takes 1.4 to 2 times as long in channels_last, other than the classifiers'.
    own["channels_last"] = run.config.training.channels_last and run.device.type == "cuda"
    size = train_loader(run, view, phase_settings(run.config, own)).image_size
    seed_everything(run.config.training.seed)
    network = make_network(len(conditions.cells), size, shape)
    network = place_network(network, run.device, channels_last=own["channels_last"])
    objective = Denoising(
        schedule, view.spec, condition=settings.condition, dropout=settings.dropout, min_snr=settings.min_snr
    )
    fit(run, view, objective, phase="cdpm", model=network, settings=own, arch=type(network).__name__)
    if distributed.is_main():
        save_model(run.folder / IN_RUN, network, schedule, conditions)
    distributed.barrier()
