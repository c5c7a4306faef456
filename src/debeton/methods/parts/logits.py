"""The logits of a network, batch by batch, and what methods read from them beside accuracies and losses."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from debeton.data.loader.batch import Batch
from debeton.data.loader.loader import Loader
from debeton.data.views.view import View
from debeton.nets.models import evaluating
from debeton.system import distributed
from debeton.train.divergence import check_rows_finite
from debeton.train.objective import Precision
from debeton.train.run import Run
from debeton.train.run_loaders import eval_loader


def logits_by_batch(model: nn.Module, loader: Loader, precision: Precision) -> Iterator[tuple[Batch, Tensor]]:
    """Yield each batch of a sequential loader with the model's logits, float32 [B, C].

    The model is in evaluation mode and has no gradients. Batches hold this process's rows, and each process takes the
    main process's batch-norm statistics. After the last batch NotFinite, in all processes, if a logit was not finite.
    """
    wrong = torch.zeros(len(loader.view.beton), dtype=torch.int64, device=precision.device)
    distributed.sync_buffers(model)
    with evaluating(model), loader.epoch(0) as batches:
        for batch in batches:
            with torch.no_grad(), precision.autocast():
                logits = model(batch.image)
            wrong[batch.row] = (~logits.isfinite().all(1)).long()
            yield batch, logits.float()
    rows = torch.from_numpy(loader.view.rows).to(precision.device)
    check_rows_finite("a logit", loader.view, distributed.max_over_processes(wrong)[rows] == 0)


def logits_of_rows(run: Run, model: nn.Module, view: View) -> Tensor:
    """Return the logits of a view's rows in order, float32 [M, C].

    They are on the CPU and equal in each process. The labels of the view play no part: the model's
    classes may be others.
    """
    precision, loader = Precision(run.config.training.precision, run.device), eval_loader(view, run.config, run.device)
    kept: Tensor | None = None
    for batch, logits in logits_by_batch(model, loader, precision):
        kept = logits.new_zeros(len(view.beton), logits.shape[1]) if kept is None else kept
        kept[batch.row] = logits
    assert kept is not None  # a view has rows, and each process has a batch, if an empty one
    return distributed.sum_over_processes(kept)[torch.from_numpy(view.rows).to(run.device)].cpu()


def scale_gradient(logits: Tensor, label: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Return the gradient of each row's cross-entropy for a factor s on its logits, at s = 1, float [B].

    It is sum_c (p_c - t_c) z_c, with the probabilities p and the target t. Where it is above 0, smaller logits would
    lower the row's loss. The penalty of IRMv1 is the square of its mean (Arjovsky et al. 2019), so that this penalty
    needs no gradient of a gradient.

    logits: z, float [B, C].
    label: int64 [B].
    label_smoothing: in [0, 1).
    """
    expected = (logits.softmax(1) * logits).sum(1)
    own = logits.gather(1, label[:, None])[:, 0]
    if not label_smoothing:
        return expected - own
    return expected - (1 - label_smoothing) * own - label_smoothing * logits.mean(1)
