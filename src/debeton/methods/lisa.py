"""LISA: mixing of rows of one class and different environments, or of one environment and different classes.

Yao et al. 2022 (arXiv 2201.00299), Algorithm 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from debeton.config import phase_settings, section, setting
from debeton.config.checkers import Float, OneOf
from debeton.data.loader.augmentations.cut_mix import CutMix
from debeton.data.loader.batch import Batch
from debeton.data.views.view import View
from debeton.methods.method import phase_on, register_method
from debeton.methods.parts.balance import check_groups, view_by_group
from debeton.methods.parts.environments import announce_environments
from debeton.system import distributed
from debeton.system.seed import make_rng
from debeton.train.cut_mixing import with_box
from debeton.train.objective import Objective, StepOutput
from debeton.train.run import Run
from debeton.train.training import fit


@section("lisa", "LISA: rows mixed within a class or within an environment (Yao et al. 2022)")
@dataclass(frozen=True)
class LisaSettings:
    """The settings of section 'lisa'."""

    alpha: float = setting(
        Float(0.01), "parameter of Beta(alpha, alpha), from which mixing weights are drawn", default=2.0
    )
    p_sel: float = setting(
        Float(0, 1), "probability that a batch is mixed within classes, and not within environments", default=0.5
    )
    mixing: str = setting(OneOf("mixup", "cutmix"), "means of images, or a box of one in the other", default="mixup")
    sampler: str = setting(
        OneOf("shuffled", "balanced"),
        "drawing of rows: each row once in an epoch, or with replacement by 1 / group size",
        default="shuffled",
    )


@dataclass(frozen=True)
class LisaOptions:
    """The settings of section 'lisa' that decide a step."""

    alpha: float = 2.0
    p_sel: float = 0.5
    mixing: str = "mixup"


def chosen_partners(eligible: Tensor, u: Tensor, own: Tensor) -> tuple[Tensor, Tensor]:
    """Return for each row an eligible row at random, int64 [b], and whether there is one, bool [b].

    A row without an eligible one gets itself.

    eligible: bool [b, B], the rows that each row may be mixed with.
    u: float [b], uniform in [0, 1): a row gets number floor(u n) of its n eligible rows.
    own: int64 [b], the place of each row among the B rows.
    """
    place = eligible.long().cumsum(1)
    number = eligible.sum(1)
    wanted = (u * number).long().clamp(max=number - 1) + 1
    partner = torch.searchsorted(place, wanted[:, None])[:, 0]
    return torch.where(number > 0, partner, own), number > 0


class SelectiveMixing(Objective):
    """The loss lam_i l(f(x), y_i) + (1 - lam_i) l(f(x), y_j) of images x_i that are mixed with x_j.

    With probability p_sel, j is a random row of the batch with the label of i and another attribute; otherwise one with
    the attribute of i and another label. lam_i ~ Beta(alpha, alpha) is drawn for each row. With cutmix, lam is the
    share of the pixels that stay, with one box a batch. A row without such a j stays as it is. The paper draws j from
    the whole training set.

    The draws are functions of (seed, step), and the step is saved with the run. Several processes exchange their
    images, so that the pairs are those of a single process.

    options: the settings of a step.
    seed: of the draws.
    label_smoothing: in [0, 1).
    """

    calls_once = True

    def __init__(self, options: LisaOptions, seed: int, label_smoothing: float = 0.0):
        super().__init__()
        self.options, self.seed, self.label_smoothing = options, seed, label_smoothing
        self.step = 0  # on the host: reading a buffer would wait for the device in every step

    def get_extra_state(self) -> int:
        return self.step

    def set_extra_state(self, state: int) -> None:
        self.step = state

    def draw(self, rows: int) -> tuple[bool, Tensor]:
        """Return whether the batch is mixed within classes, and u of `chosen_partners` with lam: float32 [2, rows]."""
        within_class = bool(make_rng(self.seed, "lisa", self.step).random() < self.options.p_sel)
        rng = make_rng(self.seed, "lisa rows", self.step)
        draws = np.stack([rng.random(rows), rng.beta(self.options.alpha, self.options.alpha, rows)])
        return within_class, torch.from_numpy(draws).float()

    def mix(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Return the mixed images of the present step, the label of each partner, int64 [b], and lam, float [b]."""
        images, label, attribute = (
            distributed.gather_rows(values, batch.share) for values in (batch.image, batch.label, batch.attribute)
        )
        within_class, draws = self.draw(len(label))
        part = slice(distributed.rank(), None, distributed.world_size())
        u, lam = draws[:, part].to(label.device, non_blocking=True)
        same_class, same_attribute = batch.label[:, None] == label, batch.attribute[:, None] == attribute
        eligible = same_class & ~same_attribute if within_class else same_attribute & ~same_class
        other, found = chosen_partners(eligible, u, torch.arange(len(label), device=label.device)[part])
        if self.options.mixing == "mixup":
            lam = torch.where(found, lam, 1.0)
            of_image = lam.to(images.dtype).view(-1, *[1] * (images.ndim - 1))
            return of_image * batch.image + (1 - of_image) * images[other], label[other], lam
        size = (images.shape[2], images.shape[3])
        box = CutMix(self.options.alpha).draw(make_rng(self.seed, "lisa box", self.step), size)
        mixed, share = with_box(batch.image, images, other, box)
        return mixed, label[other], torch.where(found, share, 1.0)

    def forward(self, model: nn.Module, batch: Batch) -> StepOutput:
        mixed, label_of_other, lam = self.mix(batch)
        self.step += 1
        logits = model(mixed)
        own, mate = (
            functional.cross_entropy(logits.float(), label, reduction="none", label_smoothing=self.label_smoothing)
            for label in (batch.label, label_of_other)
        )
        return StepOutput((lam * own + (1 - lam) * mate).mean(), logits)


def lisa_view(run: Run) -> View:
    """Return the training rows in the order that lisa.sampler names."""
    view = view_by_group(run)
    return view.resampled_by_group() if run.config.section(LisaSettings).sampler == "balanced" else view


@register_method(
    "lisa",
    "rows mixed within a class across environments, or within an environment across classes",
    paper="Yao et al. 2022 (LISA)",
    needs="label, attribute",
    check=check_groups,
    phases=lambda run: phase_on(run, lisa_view(run)),
)
def lisa(run: Run) -> nn.Module:
    """Train by LISA. The environments are the values of the training view's attribute."""
    settings, view, training = run.config.section(LisaSettings), lisa_view(run), phase_settings(run.config)
    announce_environments(view, "lisa")
    options = LisaOptions(settings.alpha, settings.p_sel, settings.mixing)
    return fit(run, view, SelectiveMixing(options, training.seed_of_augmentation, training.label_smoothing))
