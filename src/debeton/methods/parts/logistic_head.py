"""The last layer of DFR: logistic regressions on features, the choice of C, and the average that becomes the layer."""

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

from debeton.data.spec import DatasetSpec, Ints, count_codes
from debeton.system.errors import DataError
from debeton.system.seed import derive_seed
from debeton.train.divergence import REMEDY
from debeton.train.metrics import SELECTION_RULES, Metrics, group_metrics, selection_score

Floats = NDArray[np.float64]
Features = NDArray[np.float32]

TUNING_KEYS = ("worst_group_accuracy", "mean_group_accuracy", "bias_conflicting_accuracy")

LARGEST_FEATURE = 1e30  # scikit-learn refuses larger ones for liblinear

# Values (rows x features x fits) below which one process is faster than several: a fit takes 0.1 to 0.15 us a value,
# and starting processes that import scikit-learn takes 3 to 8 s (2 cores).
WORTH_PROCESSES = 100_000_000


@dataclass(frozen=True)
class FeatureSet:
    """Features of rows, to fit on or to choose by.

    x: float32 [n, D].
    label, group: int64 [n]; the group is -1 where the attribute is not known.
    spec: the names of these codes.
    """

    x: Features
    label: Ints
    group: Ints
    spec: DatasetSpec

    def check_size(self, rows: str) -> None:
        """Raise DataError if a feature is too large for a logistic regression. rows: names the rows, as 'val'."""
        largest = float(np.abs(self.x).max(initial=0))
        if not largest <= LARGEST_FEATURE:  # nor NaN
            raise DataError(
                f"features of the '{rows}' rows reach {largest:.3g}, and a logistic regression takes them up to "
                f"{LARGEST_FEATURE:g}; the training of the network diverged: {REMEDY}; or scale the features with "
                "--dfr.scaler data"
            )

    def subset(self, positions: Ints) -> FeatureSet:
        """Return the rows at `positions`."""
        return FeatureSet(self.x[positions], self.label[positions], self.group[positions], self.spec)

    def balanced(self, rng: np.random.Generator) -> FeatureSet:
        """Return as many rows of each present group as the smallest has, drawn without replacement."""
        counts = np.bincount(self.group)
        smallest = counts[counts > 0].min()
        members = [np.flatnonzero(self.group == g) for g in np.flatnonzero(counts)]
        return self.subset(np.concatenate([rng.permutation(m)[:smallest] for m in members]))

    def halved(self, rng: np.random.Generator) -> tuple[FeatureSet, FeatureSet]:
        """Return the rows of `halves`."""
        first, second = self.halves(rng)
        return self.subset(first), self.subset(second)

    def halves(self, rng: np.random.Generator) -> tuple[Ints, Ints]:
        """Return the positions of two random halves of each group, by class too.

        The odd row is in the first half.
        """
        codes = self.spec.cell(self.label, self.group) if self.spec.by_attribute else self.group
        members = [rng.permutation(np.flatnonzero(codes == code)) for code in np.unique(codes)]
        first = np.concatenate([m[len(m) // 2 :] for m in members])
        return first, np.concatenate([m[: len(m) // 2] for m in members])


@dataclass(frozen=True)
class Candidate:
    """One point of the grid.

    c: inverse strength of the penalty.
    class_weights: weights of the loss, by label.
    """

    c: float
    class_weights: tuple[float, ...]


@dataclass(frozen=True)
class Solver:
    """The settings of scikit-learn's liblinear, which solves each logistic regression.

    Its intercept is penalised, as in DFR.

    penalty: 'l1' or 'l2'.
    max_iter: liblinear's limit of iterations.
    seed: of its order of coordinates.
    workers: number of processes.
    """

    penalty: str
    max_iter: int
    seed: int
    workers: int = 1


@dataclass(frozen=True)
class Scaling:
    """The scaling (feature - mean) / scale, float64 [D] each."""

    mean: Floats
    scale: Floats

    @classmethod
    def of(cls, x: Features | None, size: int) -> Scaling:
        """Return the scaling to mean 0 and deviation 1 over the rows of x. Without x, it changes nothing.

        Constant features are only centred.
        """
        if x is None:
            return cls(np.zeros(size), np.ones(size))
        from sklearn.preprocessing import StandardScaler  # a second that only DFR pays

        scaler = StandardScaler().fit(x)
        return cls(scaler.mean_, scaler.scale_)

    def __call__(self, x: Features) -> Features:
        """Return the scaled features, float32 [n, D]."""
        scaled = x.copy()
        scaled -= self.mean
        scaled /= self.scale
        return scaled


@dataclass(frozen=True)
class Logistic:
    """A linear classifier with the decision values x weight^T + bias: float64 [K, D] and [K].

    K is 1 for two classes, with the log-odds of class 1. Otherwise there is one row for each class, against all others.
    unconverged: number of the K fits that ended at the limit of iterations.
    """

    weight: Floats
    bias: Floats
    unconverged: int = 0

    def predict(self, x: Features) -> Ints:
        """Return the class of each row, int64 [n]."""
        values = x @ self.weight.T + self.bias
        return (values[:, 0] > 0).astype(np.int64) if len(self.bias) == 1 else values.argmax(1)


def grid(c_values: Sequence[float], class_weights: Sequence[float], num_classes: int) -> list[Candidate]:
    """Return the grid points: each C with no class weights, or with each weight on each class in turn.

    The other classes then have weight 1. Repeated points are left out.
    """
    ones = (1.0,) * num_classes
    weightings = [(*ones[:k], w, *ones[k + 1 :]) for k in range(num_classes) for w in class_weights] or [ones]
    return [Candidate(c, weights) for c in c_values for weights in dict.fromkeys(weightings)]


def fit_logistic(jobs: Sequence[tuple[FeatureSet, Candidate, str]], solver: Solver) -> list[Logistic]:
    """Fit one logistic regression for each job. Several classes are fitted one against all.

    The results do not depend on the number of processes. Threads would start sooner than processes, but liblinear's
    random generator is one for all threads: the same command might then choose another C. The rows must have every
    class.

    jobs: (rows, grid point, name of the random stream) each.
    solver: settings of liblinear.
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
    # Workers ignore signals to stop: this process handles them, and may be about to save.
    stopping = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
    quiet = {"initializer": signal.pthread_sigmask, "initargs": (signal.SIG_BLOCK, stopping)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # counted instead
        # A method of scikit-learn itself: for a function of this package, each worker would import torch.
        fitted = Parallel(n_jobs=workers, **(quiet if workers > 1 else {}))(
            delayed(LogisticRegression.fit)(*task) for task in tasks
        )
    per_job = len(tasks) // len(jobs)
    return [_join_fits(fitted[i : i + per_job], solver.max_iter) for i in range(0, len(fitted), per_job)]


def _positive_classes(spec: DatasetSpec) -> range:
    """Return the classes that one regression each is fitted for."""
    return range(1, 2) if spec.num_classes == 2 else range(spec.num_classes)


def _join_fits(fitted: Sequence[Any], max_iter: int) -> Logistic:
    """Return the regressions of one job as one classifier."""
    weight, bias = (np.concatenate([getattr(m, name) for m in fitted]) for name in ("coef_", "intercept_"))
    return Logistic(weight, bias, sum(int(max(m.n_iter_) >= max_iter) for m in fitted))


def accuracies(head: Logistic, data: FeatureSet) -> Metrics:
    """Return the metrics of `metrics.group_metrics` on these rows, without a loss."""
    size, cells = data.spec.num_cells, data.spec.cell(data.label, data.group)
    correct = cells[head.predict(data.x) == data.label]
    counts = [count_codes(codes, size) for codes in (correct, cells)]
    return group_metrics(counts[0], counts[1], np.zeros(size), data.spec)


def choose(
    candidates: Sequence[Candidate], fit_on: FeatureSet, choose_by: FeatureSet, criterion: str, solver: Solver
) -> tuple[Candidate, list[dict[str, Any]]]:
    """Return the best candidate and one line about each: fitted on one set, compared by `criterion` on the other.

    Ties go to the better mean group accuracy, then to the first of the grid. Raise DataError where the criterion is
    undefined on these rows.

    fit_on: the rows to fit on.
    choose_by: the rows to compare on.
    criterion: a key of SELECTION_RULES.
    """
    metrics = [
        accuracies(head, choose_by)
        for head in fit_logistic([(fit_on, candidate, "tune") for candidate in candidates], solver)
    ]
    if metrics[0][SELECTION_RULES[criterion].metric] is None:
        raise DataError(
            f"dfr.criterion is '{criterion}', undefined on the {len(choose_by.label)} rows that choose C: none is of "
            "a group that it looks at; choose by worst_group, use another split, or give dfr.c_grid one value"
        )
    scores = [selection_score(values, criterion) for values in metrics]
    table = [
        {"c": candidate.c, "class_weights": list(candidate.class_weights), **{key: values[key] for key in TUNING_KEYS}}
        for candidate, values in zip(candidates, metrics)
    ]
    return candidates[scores.index(max(scores))], table


def average(heads: Sequence[Logistic]) -> Logistic:
    """Return the classifier with the mean weights and biases."""
    weight, bias = (np.mean([getattr(head, name) for head in heads], axis=0) for name in ("weight", "bias"))
    return Logistic(weight, bias, sum(head.unconverged for head in heads))


def folded(head: Logistic, scaling: Scaling) -> tuple[Tensor, Tensor]:
    """Return weight [C, D] and bias [C], float32, that give the head's values for unscaled features.

    Two classes get the logits (-z/2, z/2) for the log-odds z, and so its probabilities. With more classes only the
    order of the logits has a meaning: each class was fitted against all others, on its own.
    """
    weight = head.weight / scaling.scale
    bias = head.bias - weight @ scaling.mean
    if len(bias) == 1:
        weight, bias = np.concatenate([-weight / 2, weight / 2]), np.concatenate([-bias / 2, bias / 2])
    return torch.from_numpy(weight).float(), torch.from_numpy(bias).float()
