"""The objective of the diffusion model: the error of its guess at the noise in a noisy image."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from debeton.data.loader.batch import Batch
from debeton.data.spec import DatasetSpec
from debeton.train.objective import Objective, StepOutput


class Denoising(Objective):
    """Mean of w(t) |target - model(x_t, t, c)|^2 over pixels and rows.

    Ho et al. 2020, eq. 14, has w = 1. x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) e, with e ~ N(0, 1) and t uniform.
    The target is e, or v = sqrt(abar_t) e - sqrt(1 - abar_t) x_0 (Salimans and Ho 2022).

    schedule: diffusers' scheduler, which says whether the target is e or v.
    condition: c is the 'label' or the 'group'.
    dropout: probability that c is the null condition instead (Ho and Salimans 2022, Alg. 1).
    min_snr: w = min(SNR, min_snr) / SNR for e, and over SNR + 1 for v (Hang et al. 2023, eq. 6); None is w = 1.
    Images must lie in [-1, 1], float [B, 3, H, W]. Noise, times and dropped conditions come from torch's generator,
    whose state a checkpoint keeps.
    """

    classifies = False
    calls_once = True

    def __init__(
        self,
        schedule: Any,
        spec: DatasetSpec,
        *,
        condition: str = "group",
        dropout: float = 0.1,
        min_snr: float | None = None,
    ):
        super().__init__()
        self.schedule, self.spec = schedule, spec
        self.condition, self.dropout, self.min_snr = condition, dropout, min_snr
        abar = schedule.alphas_cumprod.double()
        self.register_buffer("snr", (abar / (1 - abar)).float(), persistent=False)
        self.register_buffer("seen", torch.zeros(2, spec.num_strata, dtype=torch.float64))  # sum of losses, rows
        self.snr: Tensor
        self.seen: Tensor

    @property
    def null(self) -> int:
        """Return the code of the null condition: one more than the largest condition."""
        return self.spec.num_groups if self.condition == "group" else self.spec.num_classes

    def forward(self, model: nn.Module, batch: Batch) -> StepOutput:
        """Return the loss of a batch."""
        clean, n = batch.image, len(batch)
        noise = torch.randn_like(clean)
        t = torch.randint(len(self.snr), (n,), device=clean.device)
        condition = getattr(batch, self.condition)
        dropped = torch.rand(n, device=clean.device) < self.dropout
        guess = model(self.schedule.add_noise(clean, noise, t), t, torch.where(dropped, self.null, condition))
        is_v = self.schedule.config.prediction_type == "v_prediction"
        target = self.schedule.get_velocity(clean, noise, t) if is_v else noise
        losses = (guess.float() - target).square().flatten(1).mean(1)
        stratum = torch.where(batch.group < 0, self.spec.num_groups + batch.label, batch.group)
        self.seen[0].index_add_(0, stratum, losses.detach().double())
        self.seen[1].index_add_(0, stratum, torch.ones_like(losses, dtype=torch.float64))
        return StepOutput((self._weight(t, is_v) * losses).mean(), None)

    def _weight(self, t: Tensor, is_v: bool) -> Tensor:
        """Return w(t), float32 [B]."""
        if self.min_snr is None:
            return torch.ones_like(t, dtype=torch.float32)
        snr = self.snr[t]
        return snr.clamp(max=self.min_snr) / (snr + 1 if is_v else snr)

    def summary(self) -> dict[str, Any]:
        """Return the mean unweighted loss since the last summary, over rows and by group, of this process's rows."""
        total, rows = self.seen.cpu().numpy().copy()  # on a CPU, without the copy, these would be the buffer itself
        self.seen.zero_()
        by_group = {
            self.spec.group_names[g]: float(total[g] / rows[g]) if rows[g] else None for g in self.spec.existing_groups
        }
        known, unknown = total[: self.spec.num_groups], total[self.spec.num_groups :]
        loss = float((known.sum() + unknown.sum()) / rows.sum()) if rows.sum() else None
        return {"loss": loss, "loss_by_group": by_group}
