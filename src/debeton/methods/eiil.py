"""EIIL: environments that break the invariance of a first network, and GroupDRO over them.

Creager et al. 2021, "Environment Inference for Invariant Learning" (arXiv 2010.07249); environments inferred within
each class and used by GroupDRO, as Li et al. 2023 do for UrbanCars (facebookresearch/Whac-A-Mole).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn

from debeton.config import phase_setting, phase_settings, section, setting
from debeton.config.checkers import Float, Int
from debeton.data.views.row_lists import by_marks, read_marks
from debeton.data.views.view import View
from debeton.methods.groupdro import train_groupdro
from debeton.methods.method import register_method
from debeton.methods.parts.logits import judged
from debeton.methods.parts.marked_rows import Mask, describe_marks, kept
from debeton.system import distributed
from debeton.system.log import logger
from debeton.system.seed import make_rng
from debeton.train.objective import CrossEntropy, Precision
from debeton.train.run import Run
from debeton.train.run_loaders import eval_loader
from debeton.train.training import fit

IDENTIFY = "identify"


@section("eiil", "EIIL: the phase that infers environments")
@dataclass(frozen=True)
class EiilSettings:
    """The settings of section 'eiil'."""

    epochs: int = setting(Int(1), "epochs of the phase 'identify', whose network tells the environments", default=1)
    steps: int = setting(Int(1), "steps of Adam on the assignments of rows to environments", default=10_000)
    step_size: float = setting(Float(0), "learning rate of Adam on the assignments", default=1e-3)
    lr: float | None = phase_setting("lr", IDENTIFY)
    weight_decay: float | None = phase_setting("weight_decay", IDENTIFY)
    optimizer: str | None = phase_setting("optimizer", IDENTIFY)


ENVIRONMENTS, COLUMN = "environments.csv", "environment"


def scale_gradient(logits: Tensor, label: Tensor) -> Tensor:
    """d CE(s z, y) / ds at s = 1, [B]: sum_c p_c z_c - z_y. Above 0 a row would rather have the logits smaller.

    logits: [B, C]; label: int64 [B]. Its mean is what the penalty of IRMv1 squares (Arjovsky et al. 2019).
    """
    expected = (logits.softmax(1) * logits).sum(1)
    return expected - logits.gather(1, label[:, None])[:, 0]


def violation(assignment: Tensor, gradient: Tensor, label: Tensor, counts: Tensor) -> Tensor:
    """Half the sum over classes of (mean q g)^2 + (mean (1 - q) g)^2, q = sigmoid(assignment): what environments of
    most different gradients make large (Creager et al. 2021, Eq. 5, with the penalty of IRMv1, by class).

    assignment, gradient: [N]; label: int64 [N]; counts: rows by class, [C], at least 1.
    """
    part = torch.stack([gradient * assignment.sigmoid(), gradient])
    one, both = gradient.new_zeros(2, len(counts)).index_add(1, label, part) / counts
    return (one.square() + (both - one).square()).sum() / 2


def environments(gradient: Tensor, label: Tensor, *, steps: int, step_size: float, seed: int) -> Tensor:
    """Which rows are in the environment whose gradients are the larger ones of their class, bool [N].

    Adam from normal assignments towards a large `violation`; in the limit that environment has the rows whose gradient
    is positive. The method has two environments without an order: this one is called bias-conflicting.
    """
    start = make_rng(seed, "environments").standard_normal(len(gradient))
    assignment = torch.from_numpy(start).to(gradient).requires_grad_()
    num_classes = int(label.max()) + 1
    counts = torch.bincount(label, minlength=num_classes).clamp(min=1).to(gradient)
    optimizer = torch.optim.Adam([assignment], lr=step_size, maximize=True)
    for _ in range(steps):
        (assignment.grad,) = torch.autograd.grad(violation(assignment, gradient, label, counts), assignment)
        optimizer.step()
    first = assignment.detach() > 0
    # By class, whether the first environment is the one of larger gradients; an empty one is.
    side = torch.stack([first, ~first]).to(gradient)
    sums = gradient.new_zeros(2, 2, num_classes).index_add(2, label, torch.stack([gradient * side, side]))
    mean = sums[0] / sums[1].clamp(min=1)
    return first == (mean[0] >= mean[1])[label]


def gradients_of(run: Run, model: nn.Module, view: View) -> tuple[Tensor, Tensor]:
    """`scale_gradient` of the view's rows in order, float32 [M], and their labels, on the device; equal in every
    process."""
    found = torch.zeros(len(view.beton), device=run.device)
    precision, loader = Precision(run.config.training.precision, run.device), eval_loader(view, run.config, run.device)
    for batch, logits in judged(model, loader, precision):
        found[batch.row] = scale_gradient(logits, batch.label)
    rows = torch.from_numpy(view.rows).to(run.device)
    return distributed.sum_over_processes(found)[rows], torch.from_numpy(view.label[view.rows]).to(run.device)


def infer(run: Run, model: nn.Module) -> Mask:
    """`environments` of the training rows, bool [M]; found once (`_marked_rows.kept`)."""
    view, settings = run.views["train"], run.config.section(EiilSettings)

    def find() -> dict[str, list[int]]:
        gradient, label = gradients_of(run, model, view)
        found = environments(
            gradient, label, steps=settings.steps, step_size=settings.step_size, seed=run.config.training.seed
        )
        return {COLUMN: found.int().tolist()}

    return kept(run.folder / ENVIRONMENTS, view, find, partial(read_marks, column=COLUMN))


@register_method(
    "eiil",
    "GroupDRO over environments in which a first network is not invariant",
    needs="label",
    paper="Creager et al. 2021 (EIIL)",
    sections=("eiil", "groupdro"),
)
def eiil(run: Run) -> nn.Module:
    """ERM for a few epochs, two environments of each class by what that network answers, and GroupDRO over (class,
    environment) from fresh weights of the same seed."""
    own, view = run.config.section(EiilSettings), run.views["train"]
    settings = replace(phase_settings(run.config, own), epochs=own.epochs, selection="last")
    first = fit(run, view, CrossEntropy(run.config.training.label_smoothing), phase=IDENTIFY, settings=settings)
    marked = infer(run, first)
    del first  # its memory is the second network's
    found = describe_marks(view, marked, "conflicting_row")
    run.notes["eiil"] = found
    known = "" if found["recall"] is None else f"; {100 * found['recall']:.1f} % of the bias-conflicting rows"
    logger.info("the environment called bias-conflicting has %d of %d rows%s", marked.sum(), len(view), known)
    return train_groupdro(run, by_marks(view, marked))
