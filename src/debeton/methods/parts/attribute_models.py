"""Models that tell the attribute of a row from its features: a linear probe, and the nearest known rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from debeton.data.spec import Ints
from debeton.methods.parts.balance import balancing_weights
from debeton.methods.parts.logistic_head import Scaling
from debeton.nets.heads import normalised
from debeton.system import distributed
from debeton.system.log import logger
from debeton.system.seed import make_rng

FOLDS = 5  # of the known rows, to choose C
MAX_ITER = 1000  # of lbfgs
SIMILARITIES = 2**24  # at once: 64 MiB
PROBED_ROWS = 16384  # at once: 256 MiB of 2048 features

Features = NDArray[np.float32]


@dataclass(frozen=True)
class KnownFeatures:
    """The features of the rows whose attribute is known.

    x: float32 [L, D].
    attribute, group: int64 [L].
    """

    x: Features
    attribute: Ints
    group: Ints


class AttributeModel(nn.Module):
    """Base of the models: for each row, a share of every attribute that known rows have.

    Buffers hold what was learnt, so that a phase saves the model as a network.

    codes: of these V attributes, int64 [V].
    """

    codes: Tensor

    def __init__(self, attribute: Ints):
        super().__init__()
        self.register_buffer("codes", torch.from_numpy(np.unique(attribute)))

    def learn(self, known: KnownFeatures, seed: int) -> dict[str, Any]:
        """Learn from the known rows, and return plain values for the notes.

        'mean_group_accuracy' among them is that of the model on known rows that it had not seen; None without such.
        """
        raise NotImplementedError

    def shares(self, x: Tensor) -> Tensor:
        """Return the share of each attribute for features [b, D], float64 [b, V]; the largest one is the answer."""
        raise NotImplementedError

    def rows_at_once(self) -> int:
        """Return the number of rows that fit into memory."""
        return PROBED_ROWS

    def tell(self, x: Tensor) -> tuple[Ints, NDArray[np.float64]]:
        """Return the attribute of each row, int64 [n], and its share, float64 [n]; equal in each process.

        The processes take turns with pieces of equal size, so that their number changes no value.

        x: float32 [n, D], on the CPU.
        """
        device, size = self.codes.device, self.rows_at_once()
        shares = torch.zeros(len(x), len(self.codes), dtype=torch.float64, device=device)
        for number, start in enumerate(range(0, len(x), size)):
            if number % distributed.world_size() == distributed.rank():
                shares[start : start + size] = self.shares(x[start : start + size].to(device))
        share, place = distributed.sum_over_processes(shares).max(1)
        return self.codes[place].cpu().numpy(), share.cpu().numpy()


class LinearProbe(AttributeModel):
    """Multinomial logistic regression on standardised features, in which all groups of known rows weigh the same.

    Without these weights the label, which goes with the attribute in most rows, would tell the attribute. C is chosen
    by cross-validation: the best mean accuracy over groups on held-out known rows, and of equal ones the smallest C.

    attribute: of the known rows, int64 [L].
    size: D, the number of features.
    c_grid: values of C, the inverse strength of the L2 penalty.
    """

    weight: Tensor
    bias: Tensor

    def __init__(self, attribute: Ints, size: int, c_grid: Sequence[float]):
        super().__init__(attribute)
        self.c_grid = sorted(set(c_grid))
        self.register_buffer("weight", torch.zeros(len(self.codes), size, dtype=torch.float64))
        self.register_buffer("bias", torch.zeros(len(self.codes), dtype=torch.float64))

    def learn(self, known: KnownFeatures, seed: int) -> dict[str, Any]:
        accuracies = self._accuracies(known, seed)
        best = max(accuracies, key=lambda c: (accuracies[c] or 0.0, -c))
        weight, bias, unconverged = fit_probe(known, best)
        if unconverged:
            logger.warning("warning: the fit of the probe ended at the limit of %d iterations", MAX_ITER)
        self.weight.copy_(torch.from_numpy(weight))
        self.bias.copy_(torch.from_numpy(bias))
        return {"c": best, "mean_group_accuracy": accuracies[best]}

    def _accuracies(self, known: KnownFeatures, seed: int) -> dict[float, float | None]:
        """Return the mean group accuracy on held-out known rows for each C."""
        fold = deal_folds(known, seed)
        accuracies = {}
        for c in self.c_grid:
            told = np.full(len(fold), -1)
            for number in np.unique(fold[fold >= 0]):
                held = fold == number
                rest = KnownFeatures(known.x[~held], known.attribute[~held], known.group[~held])
                weight, bias, _ = fit_probe(rest, c)
                told[held] = np.unique(rest.attribute)[(known.x[held] @ weight.T + bias).argmax(1)]
            seen = fold >= 0
            accuracies[c] = mean_over_groups((told == known.attribute)[seen], known.group[seen])
        return accuracies

    def shares(self, x: Tensor) -> Tensor:
        return (x.double() @ self.weight.T + self.bias).softmax(1)


def fit_probe(known: KnownFeatures, c: float) -> tuple[NDArray[np.float64], NDArray[np.float64], bool]:
    """Return weight [V, D] and bias [V] for unscaled features, and whether the fit ended at its limit of iterations.

    c: inverse strength of the L2 penalty, against the sum of the losses of all rows.
    """
    import warnings

    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    scaling = Scaling.of(known.x, known.x.shape[1])
    group = np.unique(known.group, return_inverse=True)[1]
    model = LogisticRegression(C=c, solver="lbfgs", max_iter=MAX_ITER)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # returned instead
        model.fit(
            scaling(known.x).astype(np.float64),
            known.attribute,
            sample_weight=balancing_weights(np.bincount(group))[group],
        )
    weight, bias = model.coef_, model.intercept_
    if len(bias) == 1:  # the log-odds of the second attribute
        weight, bias = np.concatenate([-weight / 2, weight / 2]), np.concatenate([-bias / 2, bias / 2])
    weight = weight / scaling.scale
    return weight, bias - weight @ scaling.mean, bool(max(model.n_iter_) >= MAX_ITER)


def deal_folds(known: KnownFeatures, seed: int) -> Ints:
    """Return the fold of each known row, int64 [L]: the rows of each group are dealt to FOLDS folds.

    One row of each attribute is in no fold (-1), so that every fold leaves each attribute some row to learn from.
    """
    rng, fold = make_rng(seed, "folds of known rows"), np.full(len(known.group), -1)
    for group in np.unique(known.group):
        members = rng.permutation(np.flatnonzero(known.group == group))
        fold[members] = np.arange(len(members)) % FOLDS
    for attribute in np.unique(known.attribute):
        fold[np.flatnonzero(known.attribute == attribute)[0]] = -1
    return fold


def mean_over_groups(correct: NDArray[np.bool_], group: Ints) -> float | None:
    """Return the mean over groups of the share of correct rows; None without rows."""
    shares = [correct[group == code].mean() for code in np.unique(group)]
    return float(np.mean(shares)) if shares else None


class NearestRows(AttributeModel):
    """The vote of the k known rows with the largest cosine similarity.

    Of attributes with equally many votes, the one with the larger sum of similarities is the answer.

    attribute: of the known rows, int64 [L].
    size: D, the number of features.
    k: number of rows that vote; of fewer known rows, all vote.
    """

    bank: Tensor
    place: Tensor

    def __init__(self, attribute: Ints, size: int, k: int):
        super().__init__(attribute)
        self.k = k
        self.register_buffer("bank", torch.zeros(len(attribute), size))
        self.register_buffer("place", torch.from_numpy(np.searchsorted(self.codes.numpy(), attribute)))

    def rows_at_once(self) -> int:
        return max(1, SIMILARITIES // len(self.bank))

    def learn(self, known: KnownFeatures, seed: int) -> dict[str, Any]:
        self.bank.copy_(normalised(torch.from_numpy(known.x)))
        told = torch.cat(
            [
                self._shares(piece, own_from=number * self.rows_at_once()).argmax(1)
                for number, piece in enumerate(self.bank.split(self.rows_at_once()))
            ]
        )
        correct = (told == self.place).cpu().numpy()
        return {"k": min(self.k, len(self.bank)), "mean_group_accuracy": mean_over_groups(correct, known.group)}

    def shares(self, x: Tensor) -> Tensor:
        return self._shares(normalised(x))

    def _shares(self, x: Tensor, own_from: int | None = None) -> Tensor:
        """Return the shares of the votes, float64 [b, V].

        x: of length 1, [b, D].
        own_from: number of the known row that the first of these rows is; none of them votes for itself. None where
            they are other rows.
        """
        similarity, k = x @ self.bank.T, min(self.k, len(self.bank))
        if own_from is not None:
            similarity.diagonal(own_from).fill_(-torch.inf)
            k = min(k, len(self.bank) - 1)
        nearest = similarity.topk(k, dim=1)
        place = self.place[nearest.indices]
        votes = torch.zeros(len(x), len(self.codes), dtype=torch.float64, device=x.device)
        closeness = torch.zeros_like(votes)
        votes.scatter_add_(1, place, torch.ones_like(place, dtype=torch.float64))
        closeness.scatter_add_(1, place, nearest.values.double())
        return (votes + 1e-12 * closeness) / k  # the sums of similarities decide between equal votes alone
