"""EIIL: environments that break the invariance of a first network.

Creager et al. 2021, "Environment Inference for Invariant Learning" (arXiv 2010.07249). Environments are inferred
within each class, as in Li et al. 2023 for UrbanCars (facebookresearch/Whac-A-Mole).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from debeton.config import phase_setting, section, setting
from debeton.config.checkers import Float, Int
from debeton.data.views.view import View
from debeton.methods.finder import (
    IDENTIFY,
    Found,
    Groups,
    early_network,
    found_groups,
    identify_outline,
    register_finder,
)
from debeton.methods.parts.logits import logits_by_batch, scale_gradient
from debeton.nets.finite import all_finite
from debeton.system import distributed
from debeton.system.errors import DataError
from debeton.system.seed import make_rng
from debeton.train.divergence import REMEDY
from debeton.train.objective import Precision
from debeton.train.outline import Outline
from debeton.train.run import Run
from debeton.train.run_loaders import eval_loader

ENVIRONMENTS, COLUMN = "environments.csv", "environment"


@section("eiil", "EIIL: the phase that infers environments")
@dataclass(frozen=True)
class EiilSettings:
    """The settings of section 'eiil'."""

    epochs: int = setting(Int(1), "epochs of the phase 'identify', whose network tells the environments", default=1)
    steps: int = setting(Int(1), "steps of Adam on the assignments of rows to environments", default=10_000)
    step_size: float = setting(Float(0, 1e6), "learning rate of Adam on the assignments", default=1e-3)
    lr: float | None = phase_setting("lr", IDENTIFY)
    weight_decay: float | None = phase_setting("weight_decay", IDENTIFY)
    optimizer: str | None = phase_setting("optimizer", IDENTIFY)


def violation(assignment: Tensor, gradient: Tensor, label: Tensor, counts: Tensor) -> Tensor:
    """Return how strongly two soft environments break invariance, a scalar that EIIL maximises.

    It is half the sum over classes of (mean q g)^2 + (mean (1 - q) g)^2, with q = sigmoid(assignment) and the gradient
    g. This is Eq. 5 of Creager et al. 2021 with the penalty of IRMv1, by class.

    assignment: float [N].
    gradient: g, from `scale_gradient`, float [N].
    label: int64 [N].
    counts: rows of each class, [C], at least 1.
    """
    values = torch.stack([gradient * assignment.sigmoid(), gradient])
    first_mean, whole_mean = gradient.new_zeros(2, len(counts)).index_add(1, label, values) / counts
    return (first_mean.square() + (whole_mean - first_mean).square()).sum() / 2


def infer_environments(gradient: Tensor, label: Tensor, *, steps: int, step_size: float, seed: int) -> Tensor:
    """Return the rows in the environment with the larger gradients of their class, bool [N].

    Adam maximises `violation` from normal assignments. In the limit that environment has the rows whose gradient is
    positive. The published environments have no order: this one is called bias-conflicting.

    gradient: from `scale_gradient`, float [N].
    label: int64 [N].
    steps, step_size: of Adam.
    seed: of the first assignments.
    DataError where the gradients are too large for the squares in `violation`.
    """
    start = make_rng(seed, "environments").standard_normal(len(gradient))
    assignment = torch.from_numpy(start).to(gradient).requires_grad_()
    num_classes = int(label.max()) + 1
    counts = torch.bincount(label, minlength=num_classes).clamp(min=1).to(gradient)
    optimizer = torch.optim.Adam([assignment], lr=step_size, maximize=True)
    for _ in range(steps):
        (assignment.grad,) = torch.autograd.grad(violation(assignment, gradient, label, counts), assignment)
        optimizer.step()
    if not all_finite(assignment.detach()):
        raise DataError(
            f"the gradients of the rows reach {float(gradient.abs().max()):.3g}, so the environments of eiil are not "
            f"defined; the training of phase '{IDENTIFY}' diverged: {REMEDY}"
        )
    in_first = assignment.detach() > 0
    members = torch.stack([in_first, ~in_first]).to(gradient)
    sums = gradient.new_zeros(2, 2, num_classes).index_add(2, label, torch.stack([gradient * members, members]))
    mean = sums[0] / sums[1].clamp(min=1)  # gradient by environment and class, 0 where a class has no row in one
    first_is_larger = mean[0] >= mean[1]
    return in_first == first_is_larger[label]


def row_gradients(run: Run, model: nn.Module, view: View) -> tuple[Tensor, Tensor]:
    """Return `scale_gradient` of the view's rows in order, float32 [M], and their labels, int64 [M].

    Both are on the device and equal in each process.
    """
    gradient = torch.zeros(len(view.beton), device=run.device)
    precision, loader = Precision(run.config.training.precision, run.device), eval_loader(view, run.config, run.device)
    for batch, logits in logits_by_batch(model, loader, precision):
        gradient[batch.row] = scale_gradient(logits, batch.label)
    rows = torch.from_numpy(view.rows).to(run.device)
    return distributed.sum_over_processes(gradient)[rows], torch.from_numpy(view.label[view.rows]).to(run.device)


def eiil_outline(run: Run) -> Outline:
    """Return the outline of phase 'identify'."""
    return identify_outline(run, EiilSettings)


@register_finder(
    "eiil",
    "environments in which an early network is not invariant",
    paper="Creager et al. 2021 (EIIL)",
    needs="label",
    cost="eiil.epochs, and one pass",
    sections=("eiil",),
    phases=eiil_outline,
)
def eiil_groups(run: Run) -> Found:
    """Train ERM for a few epochs and infer two environments of each class from the network's answers."""
    network, settings = early_network(run, EiilSettings), run.config.section(EiilSettings)

    def groups_of(rows: View) -> Groups:
        gradient, label = row_gradients(run, network, rows)
        seed = run.config.training.seed
        marked = infer_environments(gradient, label, steps=settings.steps, step_size=settings.step_size, seed=seed)
        return Groups(marked.cpu().numpy(), gradient.cpu().numpy())

    hint = "train the first network less: fewer --eiil.epochs, lower --eiil.lr"
    return found_groups(run, network, groups_of, table=ENVIRONMENTS, column=COLUMN, hint=hint)
