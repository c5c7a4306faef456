"""The last layer of DFR: logistic regressions on features, their choice, their average, and the layer they become."""

from __future__ import annotations

import signal
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from debeton.data.spec import DatasetSpec, Ints
from debeton.system.errors import DataError
from debeton.system.seed import derive_seed
from debeton.train.metrics import SELECTION_RULES, Metrics, group_metrics, selection_score

Floats = NDArray[np.float64]
Features = NDArray[np.float32]

TUNING_KEYS = ("worst_group_accuracy", "mean_group_accuracy", "bias_conflicting_accuracy")

# Values (rows x features x fits) below which fits one after another are done before processes would be: a fit takes
# 0.1 to 0.15 us a value, and starting processes that import scikit-learn takes 3 to 8 s (2 cores).
WORTH_PROCESSES = 100_000_000


@dataclass(frozen=True)
class FeatureSet:
    """Rows to fit on or to choose by. x: float32 [n, D]; label, group: int64 [n]; spec: names for these codes."""

    x: Features
    label: Ints
    group: Ints
    spec: DatasetSpec

    def subset(self, positions: Ints) -> FeatureSet:
        """The rows at `positions`."""
        return FeatureSet(self.x[positions], self.label[positions], self.group[positions], self.spec)

    def balanced(self, rng: np.random.Generator) -> FeatureSet:
        """As many rows of every present group as the smallest has, drawn without replacement."""
        counts = np.bincount(self.group)
        smallest = counts[counts > 0].min()
        members = [np.flatnonzero(self.group == g) for g in np.flatnonzero(counts)]
        return self.subset(np.concatenate([rng.permutation(m)[:smallest] for m in members]))

    def halved(self, rng: np.random.Generator) -> tuple[FeatureSet, FeatureSet]:
        """(one half, the other) of every group, at random; the odd row is in the first."""
        members = [rng.permutation(np.flatnonzero(self.group == g)) for g in np.unique(self.group)]
        first = np.concatenate([m[len(m) // 2 :] for m in members])
        return self.subset(first), self.subset(np.concatenate([m[: len(m) // 2] for m in members]))


@dataclass(frozen=True)
class Candidate:
    """One point of the grid. c: inverse strength of the penalty. class_weights: of the loss, by label."""

    c: float
    class_weights: tuple[float, ...]


@dataclass(frozen=True)
class Solver:
    """How each logistic regression is solved: scikit-learn's liblinear, its intercept penalised too, as in DFR.

    penalty: 'l1' or 'l2'. max_iter: liblinear's limit. seed: of its order of coordinates. workers: processes.
    """

    penalty: str
    max_iter: int
    seed: int
    workers: int = 1


@dataclass(frozen=True)
class Scaling:
    """(feature - mean) / scale, float64 [D] each."""

    mean: Floats
    scale: Floats

    @classmethod
    def of(cls, x: Features | None, size: int) -> Scaling:
        """Mean 0 and deviation 1 over the rows of x; constant features are only centred. None changes nothing."""
        if x is None:
            return cls(np.zeros(size), np.ones(size))
        from sklearn.preprocessing import StandardScaler  # a second that only DFR pays

        scaler = StandardScaler().fit(x)
        return cls(scaler.mean_, scaler.scale_)

    def __call__(self, x: Features) -> Features:
        """The scaled features, float32 [n, D]."""
        scaled = x.copy()
        scaled -= self.mean
        scaled /= self.scale
        return scaled


@dataclass(frozen=True)
class Logistic:
    """Decision values x weight^T + bias: float64 [K, D] and [K].

    K = 1 for two classes, the log-odds of class 1; otherwise one row a class, each against all others.
    unconverged: how many of the K fits ended at the limit of iterations.
    """

    weight: Floats
    bias: Floats
    unconverged: int = 0

    def predict(self, x: Features) -> Ints:
        """The class of each row, int64 [n]."""
        values = x @ self.weight.T + self.bias
        return (values[:, 0] > 0).astype(np.int64) if len(self.bias) == 1 else values.argmax(1)


def grid(c_values: Sequence[float], class_weights: Sequence[float], num_classes: int) -> list[Candidate]:
    """Every C with no class weights, or with each weight on each class in turn (the others 1), without repeats."""
    ones = (1.0,) * num_classes
    weightings = [(*ones[:k], w, *ones[k + 1 :]) for k in range(num_classes) for w in class_weights] or [ones]
    return [Candidate(c, weights) for c in c_values for weights in dict.fromkeys(weightings)]


def fit_logistic(jobs: Sequence[tuple[FeatureSet, Candidate, str]], solver: Solver) -> list[Logistic]:
    """One logistic regression a job, (rows, grid point, name of its random stream); several classes one against all.

    A class without a row is an error of the caller. The results do not depend on the number of processes. Threads
    would start sooner, but liblinear's random generator is one for all of them: the same command may choose another C.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.utils.parallel import Parallel, delayed

    tasks = []
    for data, candidate, stream in jobs:
        weights = np.asarray(candidate.class_weights)[data.label]
        for k in _positive_classes(data.spec):
            model = LogisticRegression(
                C=candidate.c,
                l1_ratio=1.0 if solver.penalty == "l1" else 0.0,
                solver="liblinear",
                max_iter=solver.max_iter,
                random_state=derive_seed(solver.seed, "liblinear", stream, k) % 2**31,
            )
            tasks.append((model, data.x, data.label == k, weights))
    workers = solver.workers if sum(x.size for _, x, _, _ in tasks) > WORTH_PROCESSES else 1
    # Workers leave a stop to this process, which may be about to save.
    quiet = {"initializer": signal.pthread_sigmask, "initargs": (signal.SIG_BLOCK, (signal.SIGTERM, signal.SIGUSR1))}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # counted instead
        # A method of scikit-learn itself: for a function of this package each worker would import torch.
        fitted = Parallel(n_jobs=workers, **(quiet if workers > 1 else {}))(
            delayed(LogisticRegression.fit)(*task) for task in tasks
        )
    per_job = len(tasks) // len(jobs)
    return [_joined(fitted[i : i + per_job], solver.max_iter) for i in range(0, len(fitted), per_job)]


def _positive_classes(spec: DatasetSpec) -> range:
    return range(1, 2) if spec.num_classes == 2 else range(spec.num_classes)


def _joined(fitted: Sequence[Any], max_iter: int) -> Logistic:
    weight, bias = (np.concatenate([getattr(m, name) for m in fitted]) for name in ("coef_", "intercept_"))
    return Logistic(weight, bias, sum(int(max(m.n_iter_) >= max_iter) for m in fitted))


def accuracies(head: Logistic, data: FeatureSet) -> Metrics:
    """The metrics of `metrics.group_metrics` on these rows; its loss is not computed."""
    groups = data.spec.num_groups
    correct = data.group[head.predict(data.x) == data.label]
    counts = [np.bincount(group, minlength=groups) for group in (correct, data.group)]
    return group_metrics(counts[0], counts[1], np.zeros(groups), data.spec)


def choose(
    candidates: Sequence[Candidate], fit_on: FeatureSet, choose_by: FeatureSet, criterion: str, solver: Solver
) -> tuple[Candidate, list[dict[str, Any]]]:
    """(the best candidate, a line about each): fitted on one set, compared by `criterion` on the other.

    Ties go to the better mean group accuracy, then to the first of the grid. DataError where the criterion is
    undefined on these rows.
    """
    metrics = [
        accuracies(head, choose_by)
        for head in fit_logistic([(fit_on, candidate, "tune") for candidate in candidates], solver)
    ]
    if metrics[0][SELECTION_RULES[criterion]] is None:
        raise DataError(
            f"dfr.criterion is '{criterion}', undefined on the {len(choose_by.label)} rows that choose C: none is of "
            "a group that it looks at; choose by worst_group, use another split, or give dfr.c_grid one value"
        )
    scores = [selection_score(found, criterion) for found in metrics]
    table = [
        {"c": candidate.c, "class_weights": list(candidate.class_weights), **{key: found[key] for key in TUNING_KEYS}}
        for candidate, found in zip(candidates, metrics)
    ]
    return candidates[scores.index(max(scores))], table


def average(heads: Sequence[Logistic]) -> Logistic:
    """The mean of the weights and biases."""
    weight, bias = (np.mean([getattr(head, name) for head in heads], axis=0) for name in ("weight", "bias"))
    return Logistic(weight, bias, sum(head.unconverged for head in heads))


def folded(head: Logistic, scaling: Scaling) -> tuple[Tensor, Tensor]:
    """(weight [C, D], bias [C]), float32, that give the head's values for features that are not scaled.

    Two classes get the logits (-z/2, z/2) for the log-odds z, and so its probabilities. Of more classes only the
    order of the logits means something: each was fitted against all others, on its own.
    """
    weight = head.weight / scaling.scale
    bias = head.bias - weight @ scaling.mean
    if len(bias) == 1:
        weight, bias = np.concatenate([-weight / 2, weight / 2]), np.concatenate([-bias / 2, bias / 2])
    return torch.from_numpy(weight).float(), torch.from_numpy(bias).float()
