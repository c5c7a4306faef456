"""CORAL: features whose covariance is the same in all environments.

Sun and Saenko 2016 (arXiv 1607.01719, Deep CORAL), equation 1.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from debeton.config import section, setting
from debeton.config.checkers import Bool, Float
from debeton.methods.method import register_method
from debeton.methods.parts.balance import check_groups, view_by_group
from debeton.methods.parts.environments import announce_environments
from debeton.methods.parts.feature_matching import FeatureMatching, Rows, centred
from debeton.methods.parts.shown_features import check_body_learns
from debeton.train.run import Run
from debeton.train.training import fit


@section("coral", "CORAL: a penalty on the distance between the feature covariances of environments")
@dataclass(frozen=True)
class CoralSettings:
    """The settings of section 'coral'."""

    weight: float = setting(Float(0), "weight of the distance (lambda)", default=1.0)
    within_class: bool = setting(Bool(), "compare the environments of each class by themselves", default=False)


class Coral(FeatureMatching):
    """The mean cross-entropy plus weight times the mean over pairs of environments of |C_i - C_j|^2 / (4 D^2).

    C_i is the covariance [D, D] of the features of environment i, with the divisor n_i - 1. The norm is Frobenius's. So
    <C_i, C_j> is a mean of (x_a . x_b)^2 over centred rows, and no covariance is computed. An environment with one row
    in the batch takes no part.
    """

    lost = 1

    def kernel(self, own: Rows, of_all: Rows, count: Tensor) -> Tensor:
        """Return (x_a . x_b)^2 / (4 D^2) of rows that are centred in their environment, [b, B].

        The means need no gradient: the sum of the gradients of an environment's centred rows is 0.
        """
        own_x, x = centred(own, of_all, count)
        return (own_x @ x.T / (2 * x.shape[1])).square()


def check_coral(run: Run) -> None:
    """Raise UsageError or DataError for missing attributes, groups without rows, and a frozen body."""
    check_groups(run)
    check_body_learns(run)


@register_method(
    "coral",
    "a penalty on unequal covariances of the features of environments",
    paper="Sun and Saenko 2016 (Deep CORAL)",
    needs="label, attribute",
    check=check_coral,
)
def coral(run: Run) -> nn.Module:
    """Train by CORAL. The environments are the values of the training view's attribute."""
    settings, view, model = run.config.section(CoralSettings), view_by_group(run), run.network()
    announce_environments(view, "coral")
    smoothing = run.config.training.label_smoothing
    objective = Coral(model, view.spec, settings.weight, within_class=settings.within_class, label_smoothing=smoothing)
    return fit(run, view, objective, model=model)
