"""The label-distribution-aware margin loss: small classes must win by a larger margin."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from debeton.config import section, setting
from debeton.config.checkers import Bool, Float
from debeton.data.loader.batch import Batch
from debeton.data.spec import Ints
from debeton.methods.method import register_method
from debeton.methods.parts.balance import check_classes, class_counts, view_by_class
from debeton.nets.models import make_model, named_head
from debeton.system.errors import UsageError
from debeton.train.objective import Objective, StepOutput
from debeton.train.run import Run
from debeton.train.training import fit


@section("ldam", "label-distribution-aware margins (Cao et al. 2019)")
@dataclass(frozen=True)
class LdamSettings:
    """The settings of section 'ldam'."""

    max_m: float = setting(Float(0), "margin of the smallest class", default=0.5)
    scale: float = setting(Float(0), "factor s of the logits, above 0", default=30.0)
    normalise: bool = setting(
        Bool(), "train on cosines between features and the head's weights; false: on the logits", default=True
    )


def class_margins(counts: Ints, largest: float) -> Tensor:
    """Return margins proportional to n_c^(-1/4), float64 [C]. The smallest class has the largest one.

    Classes without rows have the margin 0: no row is of such a class.

    counts: int64 [C], the rows n_c of each class.
    largest: at least 0.
    """
    margin = np.where(counts > 0, np.maximum(counts, 1) ** -0.25, 0.0)
    return torch.from_numpy(largest * margin / margin.max())


class MarginCrossEntropy(Objective):
    """The mean cross-entropy of s (z_c - margin_y [c = y]), for a row of class y.

    This is Eq. 13 of Cao et al. 2019, with the factor s of their released code.

    With a head, z_c is the cosine between a row's features and the head's weights of class c, as in the paper and its
    released code. Weights of length 1 without biases give logits of the same order. So the head keeps its kind: before
    each step its weights are set to length 1, and its biases are held at 0.

    margin: float [C].
    scale: s, above 0.
    head: the model's last layer; None to take the logits for z.
    label_smoothing: in [0, 1).
    """

    margin: Tensor

    def __init__(self, margin: Tensor, scale: float, head: nn.Linear | None = None, label_smoothing: float = 0.0):
        super().__init__()
        self.register_buffer("margin", margin.float())
        self.scale, self.label_smoothing = scale, label_smoothing
        object.__setattr__(self, "head", head)  # not a submodule: it is the model's
        self.head: nn.Linear | None
        self.lengths: list[Tensor] = []  # of the features of each part of a batch
        self.takes_features = self.calls_once = head is None  # cached features and replays do not pass the hook
        if head is not None:
            head.register_forward_pre_hook(self._measure)
            if head.bias is not None:
                head.bias.requires_grad_(False).zero_()

    def _measure(self, head: nn.Module, inputs: tuple[Any, ...]) -> None:
        """Note the length of each feature vector that the head receives in training."""
        if head.training:
            self.lengths.append(inputs[0].float().norm(dim=1))

    def forward(self, model: nn.Module, batch: Batch) -> StepOutput:
        if self.head is not None:
            self.lengths.clear()
            with torch.no_grad():
                self.head.weight.copy_(functional.normalize(self.head.weight, dim=1))
        logits = model(batch.image)
        z, own = self._cosines(logits.float()), batch.label[:, None]
        z = self.scale * z.scatter_add(1, own, -self.margin[own])
        return StepOutput(functional.cross_entropy(z, batch.label, label_smoothing=self.label_smoothing), logits)

    def _cosines(self, logits: Tensor) -> Tensor:
        """Return the logits divided by the lengths of features and weights, [B, C]; as they are without a head."""
        if self.head is None:
            return logits
        lengths = torch.cat(self.lengths)[:, None] * self.head.weight.float().norm(dim=1)
        return logits / lengths.clamp(min=1e-12)


def linear_head(model: nn.Module) -> nn.Linear:
    """Return the model's last layer. UsageError where it is a convolution (SqueezeNet)."""
    _, head = named_head(model)
    if not isinstance(head, nn.Linear):
        raise UsageError(
            f"the head of {type(model).__name__} is a {type(head).__name__}, and ldam divides by the length of the "
            "features of a linear layer; use --ldam.normalise false, or an architecture that ends in a linear layer"
        )
    return head


def check_ldam(run: Run) -> None:
    """Raise DataError for a class without rows unless these are ignored.

    UsageError for a scale of 0, or for a head that gives no cosines.
    """
    check_classes(run)
    settings = run.config.section(LdamSettings)
    if settings.scale == 0:
        raise UsageError("ldam.scale is 0, with which all logits would be 0; give a factor above 0, such as 30")
    if settings.normalise:
        with torch.device("meta"):
            linear_head(make_model(run.config.model.arch, 2))


@register_method(
    "ldam",
    "logit margins that are larger for small classes",
    paper="Cao et al. 2019 (LDAM)",
    needs="label",
    check=check_ldam,
)
def ldam(run: Run) -> nn.Module:
    """Train with class margins on the training view, in one phase (arXiv 1906.07413)."""
    view, settings, model = view_by_class(run), run.config.section(LdamSettings), run.network()
    head = linear_head(model) if settings.normalise else None
    margin = class_margins(class_counts(view), settings.max_m)
    smoothing = run.config.training.label_smoothing
    return fit(run, view, MarginCrossEntropy(margin, settings.scale, head, smoothing), model=model)
