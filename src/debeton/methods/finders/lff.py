"""Failures of a biased network: rows whose label is improbable to a network that was trained to be biased.

Nam, Cha, Ahn, Lee and Shin 2020, "Learning from Failure: Training Debiased Classifier from Biased Classifier" (arXiv
2007.02561): its biased network alone.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from torch import nn

from debeton.data.loader.batch import Batch
from debeton.data.views.view import View
from debeton.methods.finder import (
    IDENTIFY,
    Found,
    Groups,
    errors_and_losses,
    found_groups,
    identify_outline,
    identify_settings,
    register_finder,
)
from debeton.methods.lff import LffSettings, amplified_cross_entropy
from debeton.system.errors import UsageError
from debeton.train.objective import Objective, StepOutput
from debeton.train.run import Run
from debeton.train.training import fit


class AmplifiedCrossEntropy(Objective):
    """The mean of `amplified_cross_entropy` over the rows of a batch, under which a network amplifies its bias.

    It has neither label smoothing nor class weights, as the biased network of lff has none.

    q: the preference for rows that the network already gets right, in (0, 1].
    """

    takes_features = True
    calls_once = True

    def __init__(self, q: float):
        super().__init__()
        self.q = q

    def forward(self, model: nn.Module, batch: Batch) -> StepOutput:
        """Return the loss of a batch, and the logits."""
        logits = model(batch.image)
        return StepOutput(amplified_cross_entropy(logits.float(), batch.label, self.q).mean(), logits)


def fails(loss: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Return which rows the biased network fails on: the probability of their label is below one half, bool [M].

    Their weight W = L_B / (L_B + L_D) is then above one half if the second network tosses a coin, whose loss L_D is
    log 2. Learning from Failure takes L_D from the second network, which trains beside the biased one. There, moving
    averages of both losses are divided by the largest of the class, and rows are weighed, not divided into groups.

    loss: L_B, the cross-entropy of each row in nats, float32 [M].
    """
    return loss.astype(np.float64) > math.log(2)


def check_amplification(run: Run) -> None:
    """Raise UsageError for lff.q 0: the biased network would learn nothing."""
    if run.config.section(LffSettings).q == 0:
        raise UsageError(
            "lff.q is 0, and the loss of the biased network is q p^q times the cross-entropy, so that the network "
            "would learn nothing; choose a value in (0, 1], such as 0.7"
        )


@register_finder(
    "lff",
    "rows that a deliberately biased network fails on",
    paper="Nam et al. 2020 (LfF, its biased network)",
    needs="label",
    cost="finder.epochs",
    sections=("lff",),
    check=check_amplification,
    phases=identify_outline,
)
def lff_groups(run: Run) -> Found:
    """Train a network by the amplified cross-entropy for a few epochs. The rows that it fails on are marked."""
    objective = AmplifiedCrossEntropy(run.config.section(LffSettings).q)
    settings = identify_settings(run.config)
    network = fit(run, run.views["train"], objective, phase=IDENTIFY, settings=settings, sections=["model", "lff"])

    def groups_of(rows: View) -> Groups:
        _, loss = errors_and_losses(run, network, rows)
        return Groups(fails(loss), loss)

    hint = (
        "train the biased network less: fewer --finder.epochs, lower --finder.lr; if it fails on every row, train it "
        "longer, or with a higher --finder.lr"
    )
    return found_groups(run, network, groups_of, hint=hint)
