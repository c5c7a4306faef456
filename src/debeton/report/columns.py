"""The numbers that tables of a report have: some always, others where they say more, or on request."""

from __future__ import annotations

from collections.abc import Sequence

from debeton.report.records import RunRecord
from debeton.report.runs import Setting
from debeton.system.errors import UsageError, nearest
from debeton.train.probability_metrics import BINS, PROBABILITY_KEYS, PROBABILITY_METRICS
from debeton.train.result_files import FRACTIONS

COLUMNS = {
    "accuracy": "average",
    "adjusted_accuracy": "adjusted",
    "worst_group_accuracy": "worst-group",
    "mean_group_accuracy": "mean-group",
    "bias_aligned_accuracy": "aligned",
    "bias_conflicting_accuracy": "conflicting",
    "mean_conflicting_group_accuracy": "mean-conflicting",
}
MEANINGS = {
    "adjusted_accuracy": "Adjusted: groups weigh as in the training rows (the average that papers print for "
    "Waterbirds); average: over the rows of the split.",
    "mean_conflicting_group_accuracy": "Conflicting: over the rows of the bias-conflicting groups; mean-conflicting: "
    "the mean over these groups ('bias-conflicting' in LfF, EnD and LDD, whose 'unbiased' is mean-group).",
}
NAMES = {"auroc": "AUROC", "average_precision": "AP", "f1": "F1", "ece": "ECE", "brier": "Brier"}
INTERVAL = "interval"  # asks for the confidence intervals of accuracies
PROBABILITY_MEANING = (
    f"AUROC, AP (average precision), F1, ECE (expected calibration error, {BINS} bins) and Brier score times 100. ECE "
    "and Brier score are better where they are lower. Worst-group: the worst of the groups that define the metric; "
    "worst-attribute: of the attributes, over all classes."
)
INTERVAL_MEANING = "In brackets: the 95 % interval of an accuracy of one seed over its rows (Wilson)."


def parse_metrics(text: str) -> tuple[str, ...]:
    """Return the names in 'auroc,f1', each once. UsageError names an unknown one and the nearest."""
    known = (*PROBABILITY_METRICS, INTERVAL, *(name for name in FRACTIONS if name not in COLUMNS), *PROBABILITY_KEYS)
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    for name in names:
        if name not in known and name not in COLUMNS:
            shown = (*PROBABILITY_METRICS, INTERVAL, *(n for n in FRACTIONS if n not in COLUMNS))
            raise UsageError(f"--metrics: unknown metric '{name}'{nearest(name, known)} known: {', '.join(shown)}")
    return names


def title_of(metric: str) -> str:
    """Return the title of a metric's column."""
    if metric in COLUMNS:
        return COLUMNS[metric]
    for name, title in NAMES.items():
        if metric.endswith(name):
            return metric.removesuffix(name).replace("_group_", "-group ").replace("_attribute_", "-attribute ") + title
    return metric.removesuffix("_accuracy").replace("_", "-")


# The titles of all columns of numbers.
TITLES = frozenset(map(title_of, (*COLUMNS, *FRACTIONS, *PROBABILITY_KEYS)))


def shown_columns(settings: Sequence[Setting], split: str, metrics: Sequence[str] = ()) -> dict[str, str]:
    """Return the metrics of the summary and their titles.

    The adjusted accuracy is shown where the groups have other shares in training than in the split. The mean over the
    bias-conflicting groups is shown where it differs from the accuracy over their rows.

    metrics: further metrics, as `parse_metrics` returns them. One of probabilities also has the column of the worst
        group or, where no group defines it, of the worst attribute.
    """
    runs = [run for setting in settings for run in setting.runs]
    left_out = set()
    if not any(_has_other_shares(run, split) for run in runs):
        left_out.add("adjusted_accuracy")
    if not any(_differ(run, split, "mean_conflicting_group_accuracy", "bias_conflicting_accuracy") for run in runs):
        left_out.add("mean_conflicting_group_accuracy")
    shown = {metric: title for metric, title in COLUMNS.items() if metric not in left_out}
    for name in metrics:
        if name != INTERVAL:
            shown[name] = title_of(name)
        if name in PROBABILITY_METRICS:
            worst = [f"worst_group_{name}", f"worst_attribute_{name}"]
            defined = [m for m in worst if any(run.metrics(split).get(m) is not None for run in runs)]
            shown |= {metric: title_of(metric) for metric in defined[:1]}
    return shown


def _has_other_shares(run: RunRecord, split: str) -> bool:
    """Return whether a run has an adjusted accuracy that is defined otherwise than its accuracy."""
    if run.metrics(split).get("adjusted_accuracy") is None:
        return False
    rows = [(run.results or {}).get("train_groups") or {}, run.metrics(split).get("group_count") or {}]
    totals = [sum(counts.values()) or 1 for counts in rows]
    # Synthetic rows and pseudo-groups count in train_groups, but do not weigh: then only the numbers tell.
    same = all(rows[0].get(g, 0) * totals[1] == rows[1].get(g, 0) * totals[0] for g in {*rows[0], *rows[1]})
    return not same or _differ(run, split, "adjusted_accuracy", "accuracy")


def _differ(run: RunRecord, split: str, one: str, other: str) -> bool:
    """Return whether two accuracies of a run are known and differ."""
    a, b = (run.metrics(split).get(metric) for metric in (one, other))
    return a is not None and b is not None and abs(a - b) > 1e-9
