"""Correct-n-Contrast: rows of a class come together across attributes, and classes part within an attribute.

Zhang, Sohoni, Zhang, Finn and Re 2022, "Correct-N-Contrast: A Contrastive Approach for Improving Robustness to Spurious
Correlations" (arXiv 2203.01517), in its two-sided form.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from debeton.config import section, setting
from debeton.config.checkers import Float
from debeton.data.loader.batch import Batch
from debeton.data.spec import DatasetSpec
from debeton.data.views.view import View
from debeton.methods.method import register_method
from debeton.methods.parts.balance import check_attribute
from debeton.methods.parts.batch_features import joint_loss, logits_and_features, rows_of_whole_batch
from debeton.nets.models import named_head
from debeton.system import distributed
from debeton.system.errors import UsageError
from debeton.system.log import logger
from debeton.train.objective import Objective, StepOutput
from debeton.train.run import Run
from debeton.train.training import fit


@section("cnc", "Correct-n-Contrast: a contrastive loss beside the cross-entropy (Zhang et al. 2022)")
@dataclass(frozen=True)
class CncSettings:
    """The settings of section 'cnc'."""

    weight: float = setting(Float(0, 1), "weight of the contrastive loss; the cross-entropy has the rest", default=0.5)
    temperature: float = setting(Float(0), "temperature of the contrastive loss, above 0", default=0.05)


def attributes_follow_classes(spec: DatasetSpec) -> bool:
    """Return whether two attributes say 'aligned' and 'conflicting', so that a code means another thing in each class.

    Marks of a first network are such attributes: all classes are aligned with the same code.
    """
    return len(spec.attributes) == 2 and spec.num_classes > 1 and len(set(spec.aligned)) == 1


def pair_masks(label: Tensor, attribute: Tensor, *, follows_class: bool = False) -> tuple[Tensor, Tensor]:
    """Return the positives and the negatives of each row, bool [B, B].

    Positives have the row's class and another attribute. Negatives have another class and the row's attribute.

    label, attribute: int64 [B].
    follows_class: the attribute says aligned or conflicting (`attributes_follow_classes`). An aligned row then shares
        its spurious feature with conflicting rows of other classes.
    """
    same_class = label[:, None] == label
    same_code = attribute[:, None] == attribute
    shares_feature = ~same_code if follows_class else same_code
    return same_class & ~same_code, ~same_class & shares_feature


def contrastive_loss(features: Tensor, positive: Tensor, negative: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Return the mean contrastive loss over the anchors, and their number.

    An anchor is a row with a positive and a negative in the batch. Its loss is the mean over positives p of
    -log(exp(s_p / t) / (sum over positives and negatives k of exp(s_k / t))), with the cosine s.

    features: float [B, D].
    positive, negative: bool [B, B].
    temperature: t.
    """
    unit = functional.normalize(features, dim=1)
    similarity = unit @ unit.T / temperature
    pairs = similarity.masked_fill(~(positive | negative), torch.finfo(similarity.dtype).min)
    log_share = similarity - pairs.logsumexp(1, keepdim=True)
    anchor = positive.any(1) & negative.any(1)
    of_row = -(log_share.masked_fill(~positive, 0.0)).sum(1) / positive.sum(1).clamp(min=1)
    anchors = anchor.sum()
    return of_row.masked_fill(~anchor, 0.0).sum() / anchors.clamp(min=1), anchors


class CorrectNContrast(Objective):
    """The loss `weight` L_con + (1 - `weight`) L_ce, over the features and the logits of one forward pass.

    Pairs are those within the batch, over all processes. The released code samples 32 positives and negatives for each
    anchor instead, and reads features again for the cross-entropy.

    head: the network's head, whose input are the features.
    weight: in [0, 1].
    temperature: above 0.
    follows_class: see `pair_masks`.
    label_smoothing: of the cross-entropy, in [0, 1).
    """

    head: nn.Module
    sums: Tensor

    takes_features = True

    def __init__(
        self,
        head: nn.Module,
        weight: float,
        temperature: float,
        *,
        follows_class: bool = False,
        label_smoothing: float = 0.0,
    ):
        super().__init__()
        if temperature <= 0:
            raise UsageError(f"cnc.temperature is {temperature:g}; similarities are divided by it, so give one above 0")
        object.__setattr__(self, "head", head)  # not a submodule: the model is saved with the run already
        self.weight, self.temperature = weight, temperature
        self.follows_class, self.label_smoothing = follows_class, label_smoothing
        self.register_buffer("sums", torch.zeros(4, dtype=torch.float64))

    def forward(self, model: nn.Module, batch: Batch) -> StepOutput:
        """Return the loss of a batch, and the logits."""
        logits, features = logits_and_features(model, self.head, batch.image)
        entropy = functional.cross_entropy(
            logits.float(), batch.label, reduction="sum", label_smoothing=self.label_smoothing
        ) / max(len(batch), 1)
        codes = torch.stack([batch.label, batch.attribute], 1)
        label, attribute = distributed.gather_rows(codes, batch.share).unbind(1)
        pairs = pair_masks(label, attribute, follows_class=self.follows_class)
        with torch.autocast(features.device.type, enabled=False):
            whole = rows_of_whole_batch(features, batch.share)
            contrast, anchors = contrastive_loss(whole, *pairs, self.temperature)
        self.sums += torch.stack([contrast.detach(), contrast.new_ones(()), anchors, anchors.new_tensor(len(label))])
        loss = self.weight * joint_loss(contrast, batch.share) + (1 - self.weight) * entropy
        return StepOutput(loss, logits)

    def summary(self) -> dict[str, Any]:
        """Return the mean contrastive loss over the steps since the last summary, and the share of rows as anchors."""
        total, steps, anchors, rows = self.sums.tolist()
        self.sums.zero_()
        return {"contrastive_loss": total / max(steps, 1), "anchor_share": anchors / max(rows, 1)}


def warn_without_pairs(view: View, *, follows_class: bool) -> None:
    """Warn if no row of a view can have both a positive and a negative.

    The loss is then the cross-entropy alone.
    """
    cells = np.unique(np.stack([view.label[view.rows], view.attribute[view.rows]]), axis=1)
    positive, negative = pair_masks(*torch.from_numpy(cells), follows_class=follows_class)
    if not (positive.any(1) & negative.any(1)).any():
        logger.warning(
            "warning: no row of view '%s' has both a row of its class with another attribute and one of another class "
            "that shares its attribute, so cnc goes on as erm; see its groups: %s",
            view.name,
            "; ".join(f"{name} {count}" for name, count in list(view.counts_by_name().items())[:8]),
        )


@register_method(
    "cnc",
    "a contrastive loss: classes together across attributes, apart within one",
    paper="Zhang et al. 2022 (Correct-n-Contrast)",
    needs="label, attribute",
    check=lambda run: check_attribute(run.views["train"]),
)
def cnc(run: Run) -> nn.Module:
    """Train by cross-entropy and the contrastive loss over the attributes of the training view."""
    settings, view, model = run.config.section(CncSettings), run.views["train"], run.network()
    follows_class = attributes_follow_classes(view.spec)
    warn_without_pairs(view, follows_class=follows_class)
    objective = CorrectNContrast(
        named_head(model)[1],
        settings.weight,
        settings.temperature,
        follows_class=follows_class,
        label_smoothing=run.config.training.label_smoothing,
    )
    return fit(run, view, objective, model=model)
