"""The method that trains a conditional diffusion model of the training rows.

It gives images to the methods that need some, and no classifier.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from torch import nn

from debeton.config import PhaseSettings, phase_setting, phase_settings, section, setting
from debeton.config.checkers import Float, Int, OneOf, OrNull, Text
from debeton.data.spec import BY_CELL
from debeton.data.views.view import View
from debeton.diffusion.denoising import Denoising
from debeton.diffusion.model import (
    IN_RUN,
    PREDICTIONS,
    ConditionalUNet,
    Conditions,
    Shape,
    make_network,
    make_schedule,
    save_model,
)
from debeton.methods.group_choice import finder_of
from debeton.methods.method import register_method
from debeton.nets.models import place_network
from debeton.system import distributed
from debeton.system.errors import UsageError
from debeton.system.log import logger
from debeton.system.seed import seed_everything
from debeton.train.objective import Objective
from debeton.train.outline import Outline, PhaseOutline
from debeton.train.run import Run
from debeton.train.training import fit, train_loader

PHASE = "cdpm"


@section("cdpm", "the project's own conditional diffusion model")
@dataclass(frozen=True)
class CdpmSettings:
    """The settings of section 'cdpm'."""

    condition: str = setting(
        OneOf("label", "group"), "condition of an image: its class, or its (class, attribute)", default="label"
    )
    dropout: float = setting(Float(0, 1), "share of rows whose condition is hidden, for guidance", default=0.1)
    prediction: str = setting(OneOf(*PREDICTIONS), "quantity that the network predicts", default="epsilon")
    min_snr: float | None = setting(
        OrNull(Float(0), 0),
        "bound on the signal-to-noise ratio in the loss weights, often 5; null: no weights",
        default=None,
    )
    steps: int = setting(Int(2), "number of noise steps", default=1000)
    widths: str = setting(Text(), "channels of each level, from fine to coarse", default="64,128,256,256")
    layers: int = setting(Int(1), "residual blocks of a level", default=2)
    attention: int = setting(Int(0), "number of coarsest levels that have attention", default=2)
    epochs: int | None = phase_setting("epochs", PHASE)
    batch_size: int | None = phase_setting("batch_size", PHASE)
    optimizer: str | None = phase_setting("optimizer", PHASE)
    lr: float | None = phase_setting("lr", PHASE)
    weight_decay: float | None = phase_setting("weight_decay", PHASE)
    lr_scheduler: str | None = phase_setting("lr_scheduler", PHASE)
    warmup_epochs: float | None = phase_setting("warmup_epochs", PHASE)
    clip_grad: float | None = phase_setting("clip_grad", PHASE)
    ema: float | None = phase_setting("ema", PHASE)
    precision: str | None = phase_setting("precision", PHASE)
    decoder_train: str | None = phase_setting("decoder_train", PHASE)
    augment: str | None = phase_setting("augment", PHASE)
    resolution: int | None = phase_setting("resolution", PHASE)


def parse_widths(text: str) -> tuple[int, ...]:
    """Return the channels of each level: '32,64' gives (32, 64). Raise UsageError unless all are positive integers."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise UsageError(f"cdpm.widths is '{text}'; expected channels of each level, such as 64,128,256")
    return tuple(int(part) for part in parts)


def conditions_of(view: View, kind: str) -> Conditions:
    """Return the names of the view's conditions, and which of them have rows.

    UsageError for groups where the attribute of a row is not known.

    kind: 'label' for the classes, 'group' for the cells (label, attribute).
    """
    view = view.grouped_by(BY_CELL)
    spec = view.spec
    if kind == "label":
        cells: list[tuple[str, str | None]] = [(label, None) for label in spec.classes]
        counts = np.bincount(view.label[view.rows], minlength=spec.num_classes)
    else:
        view.require_attributes("cdpm.condition group")
        cells = [(label, attribute) for label in spec.classes for attribute in spec.attributes]
        counts = view.group_counts()
    trained = tuple(bool(count) for count in counts)
    return Conditions(kind, tuple(cells), trained, spec.name, str(view.beton.sidecar["checksum"]))


def check_cdpm(run: Run) -> None:
    """Raise UsageError where a finder has no use, or images are by group and an attribute is not known."""
    condition = run.config.section(CdpmSettings).condition
    if condition == "label" and finder_of(run) is not None:
        raise UsageError(
            f"groups.from is '{run.config.groups.finder}', and cdpm.condition 'label' draws images of classes, so that "
            "the finder would change nothing; leave it out, or draw images of groups with --cdpm.condition group"
        )
    conditions_of(run.views["train"], condition)


def cdpm_phases(run: Run) -> Outline:
    """Return the outline: phase 'cdpm' on the training rows."""
    view = run.views["train"]
    training = diffusion_settings(run)

    def start() -> tuple[nn.Module, Objective]:
        network, objective, _ = make_diffusion(run, in_unit_range(view))
        return network, objective

    return [PhaseOutline(PHASE, training, in_unit_range(view), start=start)]


@register_method(
    "cdpm",
    "a diffusion model of the training rows, for images of its conditions",
    paper="Ho et al. 2020 (DDPM), Ho and Salimans 2022 (guidance); Diffusing DeBias",
    needs="label; with cdpm.condition group label, attribute",
    classifies=False,
    check=check_cdpm,
    phases=cdpm_phases,
)
def cdpm(run: Run) -> nn.Module | None:
    """Train phase 'cdpm' on the training view and write the model to the run's folder 'cdpm'. Return no classifier."""
    train_diffusion(run, run.views["train"])
    return None


def in_unit_range(view: View) -> View:
    """Return the view as a diffusion model sees it.

    Pixels are in [-1, 1], and groups are the cells of class and attribute.
    """
    view = view.grouped_by(BY_CELL)  # an image is drawn of a class and an attribute, whatever the groups
    return replace(view, spec=replace(view.spec, mean=(0.5,) * 3, std=(0.5,) * 3))


def diffusion_settings(run: Run) -> PhaseSettings:
    """Return the settings of phase 'cdpm'."""
    # On a CPU, channels_last makes a step of this network 1.4 to 2 times as long, unlike a step of the classifiers.
    channels_last = run.config.training.channels_last and run.device.type == "cuda"
    return replace(phase_settings(run.config, run.config.section(CdpmSettings)), channels_last=channels_last)


def make_diffusion(run: Run, view: View) -> tuple[ConditionalUNet, Denoising, Conditions]:
    """Return a new diffusion model on the run's device, its objective, and its conditions.

    view: the training rows, of `in_unit_range`.
    """
    settings, training = run.config.section(CdpmSettings), diffusion_settings(run)
    conditions = conditions_of(view, settings.condition)
    if unseen := conditions.untrained:
        logger.warning("warning: no training row is of %s; the model cannot draw images of it", "; ".join(unseen))
    shape = Shape(parse_widths(settings.widths), settings.layers, settings.attention)
    schedule = make_schedule(settings.prediction, settings.steps)
    size = train_loader(run, view, training).image_size
    seed_everything(run.config.training.seed)
    network = make_network(len(conditions.cells), size, shape)
    objective = Denoising(
        schedule, view.spec, condition=settings.condition, dropout=settings.dropout, min_snr=settings.min_snr
    )
    return place_network(network, run.device, channels_last=training.channels_last), objective, conditions


def train_diffusion(run: Run, view: View) -> None:
    """Train a diffusion model of `view` through phase 'cdpm', and write it to the run's folder 'cdpm'."""
    view = in_unit_range(view)
    network, objective, conditions = make_diffusion(run, view)
    fit(
        run,
        view,
        objective,
        phase=PHASE,
        model=network,
        settings=diffusion_settings(run),
        arch=type(network).__name__,
        sections=[PHASE],
    )
    if distributed.is_main():
        save_model(run.folder / IN_RUN, network, objective.schedule, conditions)
    distributed.barrier()
