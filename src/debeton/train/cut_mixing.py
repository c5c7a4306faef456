"""The training step with CutMix: each batch is mixed before the model sees it, and its labels by area."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from debeton.data.loader.augment import split_mixing
from debeton.data.loader.augmentations.cut_mix import CutMix
from debeton.data.loader.batch import Batch
from debeton.system import distributed
from debeton.system.errors import UsageError
from debeton.system.seed import make_rng
from debeton.train.objective import CrossEntropy, Objective, StepOutput


def with_box(image: Tensor, source: Tensor, other: Tensor, box: tuple[int, int, int, int]) -> tuple[Tensor, float]:
    """Return the images with a box of other images in each, and the share of the pixels that stay.

    image: [b, 3, H, W].
    source: [B, 3, H, W], the images that boxes come from.
    other: int64 [b], the image of `source` whose box each image gets.
    box: top, left, bottom, right.
    """
    top, left, bottom, right = box
    mixed = image.clone()
    mixed[:, :, top:bottom, left:right] = source[other, :, top:bottom, left:right]
    return mixed, 1 - (bottom - top) * (right - left) / (image.shape[2] * image.shape[3])


class CutMixed(Objective):
    """The CutMix loss of images x_i that have a box of x_j: lam l(f(x), y_i) + (1 - lam) l(f(x), y_j).

    Yun et al. 2019. j is a permutation of the batch's rows. lam is the share of the pixels that stay, with one box a
    batch, as in the released code. Training metrics are those of the mixed images, against the label and the group of
    row i.

    The draws are functions of (seed, step), and the step is saved with the run. Several processes share the box. Each
    process mixes its own rows among themselves, so the pairs differ from those of a single process.

    cutmix: draws the box.
    seed: of the draws.
    label_smoothing: in [0, 1).
    """

    calls_once = True

    def __init__(self, cutmix: CutMix, seed: int, label_smoothing: float = 0.0):
        super().__init__()
        self.cutmix, self.seed, self.label_smoothing = cutmix, seed, label_smoothing
        self.step = 0  # on the host: reading a buffer would wait for the device in every step

    def get_extra_state(self) -> int:
        return self.step

    def set_extra_state(self, state: int) -> None:
        self.step = state

    def mix(self, image: Tensor) -> tuple[Tensor, Tensor, float]:
        """Return the mixed images of the present step, the partner of each row, int64 [B], and lam.

        image: [B, 3, H, W].
        """
        rows, size = len(image), (image.shape[2], image.shape[3])
        box = self.cutmix.draw(make_rng(self.seed, "cutmix", self.step), size)
        partner = make_rng(self.seed, "cutmix pairs", self.step, distributed.rank()).permutation(rows)
        other = torch.from_numpy(partner).to(image.device, non_blocking=True)
        mixed, share = with_box(image, image, other, box)
        return mixed, other, share

    def forward(self, model: nn.Module, batch: Batch) -> StepOutput:
        mixed, other, lam = self.mix(batch.image)
        self.step += 1
        logits = model(mixed)
        own, mate = (
            functional.cross_entropy(logits.float(), label, label_smoothing=self.label_smoothing)
            for label in (batch.label, batch.label[other])
        )
        return StepOutput(lam * own + (1 - lam) * mate, logits)


def with_cutmix(objective: Objective, augment: str, seed: int) -> Objective:
    """Return the objective with the CutMix that `training.augment` names; itself if it names none.

    UsageError for an objective that has another loss than the plain cross-entropy.

    augment: the text of `training.augment`.
    seed: of the boxes and pairs.
    """
    _, cutmix = split_mixing(augment)
    if cutmix is None or isinstance(objective, CutMixed):
        return objective
    if type(objective) is not CrossEntropy:
        raise UsageError(
            f"training.augment has cutmix, which mixes the labels in the cross-entropy, and this phase has a loss "
            f"of its own ({type(objective).__name__}); leave cutmix out, or take a method that trains by the plain "
            "cross-entropy (erm, resample, subg, ...)"
        )
    return CutMixed(cutmix, seed, objective.label_smoothing)
