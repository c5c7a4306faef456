"""MMD: features whose distribution is the same in all environments, by a Gaussian kernel.

Li, Pan, Wang and Kot 2018 (Domain Generalization with Adversarial Feature Learning), without its autoencoder.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from debeton.config import section, setting
from debeton.config.checkers import Bool, Float, FloatList
from debeton.methods.method import register_method
from debeton.methods.parts.balance import check_groups, view_by_group
from debeton.methods.parts.environments import announce_environments
from debeton.methods.parts.feature_matching import FeatureMatching, Rows
from debeton.methods.parts.shown_features import check_body_learns
from debeton.system import distributed
from debeton.train.run import Run
from debeton.train.training import fit

GAMMAS = (0.001, 0.01, 0.1, 1.0, 10.0, 100.0, 1000.0)  # of DomainBed and SubpopBench


@section("mmd", "MMD: a penalty on the maximum mean discrepancy between the features of environments")
@dataclass(frozen=True)
class MmdSettings:
    """The settings of section 'mmd'."""

    weight: float = setting(Float(0), "weight of the discrepancy", default=1.0)
    gammas: tuple[float, ...] = setting(
        FloatList(0, at_least=1), "kernels exp(-gamma |x - y|^2), which are added up", default=GAMMAS
    )
    within_class: bool = setting(Bool(), "compare the environments of each class by themselves", default=False)


class MaximumMeanDiscrepancy(FeatureMatching):
    """The mean cross-entropy plus weight times the mean over pairs of environments of their squared MMD.

    MMD^2 is E k(x, x') + E k(y, y') - 2 E k(x, y), with the means over all pairs of rows, a row with itself included.
    So it is never negative. k is the sum of the kernels exp(-gamma |x - y|^2).

    gammas: of the kernels, at least 0.
    """

    def __init__(self, *args: Any, gammas: tuple[float, ...] = GAMMAS, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.gammas = gammas

    def kernel(self, own: Rows, of_all: Rows, count: Tensor) -> Tensor:
        """Return the sum of the kernels, [b, B]."""
        centre = of_all.x.mean(0)  # small numbers, so that their squares lose fewer digits in the difference
        x, y = own.x - centre, of_all.x - centre
        distance = (x.square().sum(1)[:, None] + y.square().sum(1) - 2 * x @ y.T).clamp(min=0)
        place = torch.arange(len(y), device=y.device)
        itself = place[distributed.rank() :: distributed.world_size()][:, None] == place
        distance = distance.masked_fill(itself, 0.0)
        total = torch.zeros_like(distance)
        for gamma in self.gammas:
            total = total + torch.exp(-gamma * distance)
        return total


def check_mmd(run: Run) -> None:
    """Raise UsageError or DataError for missing attributes, groups without rows, and a frozen body."""
    check_groups(run)
    check_body_learns(run)


@register_method(
    "mmd",
    "a penalty on unequal distributions of the features of environments",
    paper="Li et al. 2018 (MMD)",
    needs="label, attribute",
    check=check_mmd,
)
def mmd(run: Run) -> nn.Module:
    """Train by MMD. The environments are the values of the training view's attribute."""
    settings, view, model = run.config.section(MmdSettings), view_by_group(run), run.network()
    announce_environments(view, "mmd")
    objective = MaximumMeanDiscrepancy(
        model,
        view.spec,
        settings.weight,
        within_class=settings.within_class,
        label_smoothing=run.config.training.label_smoothing,
        gammas=settings.gammas,
    )
    return fit(run, view, objective, model=model)
