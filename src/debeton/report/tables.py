"""Tables of a report: accuracies over seeds, by setting and by group, and the notes of the methods."""

from __future__ import annotations

import collections
import re
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from debeton.report.columns import INTERVAL, INTERVAL_MEANING, MEANINGS, PROBABILITY_MEANING, TITLES, shown_columns
from debeton.report.records import flatten
from debeton.report.runs import Setting, Stat, differing_keys, make_stat
from debeton.report.same_data import data_notes
from debeton.system.file_names import CONTROL
from debeton.train.probability_metrics import PROBABILITY_KEYS, PROBABILITY_METRICS
from debeton.train.result_files import FRACTIONS

DASH = "–"
MAX_ROWS = 16  # largest number of groups or rows that a table shows unfolded
COST_MEANING = (
    "Runs: how many were trained for the number: those of a search, diverged ones too, and, after '+', those "
    "of its best setting. Runs of another variant whose checkpoint a setting takes are not counted."
)
UNITS = "Accuracies in percent, mean ± sample standard deviation over n seeds (no deviation for n = 1)."


def report_split(settings: Sequence[Setting]) -> str:
    """Return 'test', or 'val' if no run has a test split."""
    return "test" if any(run.metrics("test") for s in settings for run in s.runs) else "val"


def summary_table(settings: Sequence[Setting], split: str = "test", metrics: Sequence[str] = ()) -> pd.DataFrame:
    """Return one row of text per setting: n, accuracies, worst group and the rule that selected the epoch.

    Runs with a cost add the column 'runs'.

    metrics: further columns, as in `shown_columns`; 'interval' adds intervals to the average and the worst group.
    """
    rows, columns = [], shown_columns(settings, split, metrics)
    for setting in settings:
        row: dict[str, Any] = {"setting": setting.label, "n": len(setting.runs)}
        row |= {title: stat_text(setting, setting.stat(metric, split)) for metric, title in columns.items()}
        if INTERVAL in metrics:
            for metric in ("accuracy", "worst_group_accuracy"):
                row[columns[metric]] += interval_text(setting.interval(metric, split))
        row |= {"worst group": worst_group(setting, split), "selection": setting.selection}
        rows.append(row | {"runs": setting.cost or DASH, "remarks": "; ".join(setting.remarks) or DASH})
    last = ["worst group", "selection", "runs", "remarks"]
    table = pd.DataFrame(rows, columns=["setting", "n", *columns.values(), *last])
    return table.drop(columns=[name for name in ("runs", "remarks") if (table[name] == DASH).all()])


def summary_numbers(settings: Sequence[Setting], split: str = "test") -> pd.DataFrame:
    """Return `summary_table` as numbers: mean and standard deviation of every metric, in percent.

    low, high: the 95 % interval of an accuracy of one seed. An undefined number is NaN.
    """
    rows = []
    for setting in settings:
        row: dict[str, Any] = {"setting": setting.label, "dataset": setting.dataset, "method": setting.method}
        row |= {"split": split, "n": len(setting.runs), "seeds": " ".join(str(run.seed) for run in setting.runs)}
        for metric in (*FRACTIONS, *PROBABILITY_KEYS):
            stat = setting.stat(metric, split)
            row |= {f"{metric}_mean": stat.mean if stat else None, f"{metric}_std": stat.std if stat else None}
        for metric in ("accuracy", "worst_group_accuracy"):
            low, high = setting.interval(metric, split) or (None, None)
            row |= {f"{metric}_low": low, f"{metric}_high": high}
        row |= {"worst_group": worst_group(setting, split), "selection": setting.selection}
        row |= {"runs": setting.cost} if any(one.cost for one in settings) else {}
        rows.append(row | {"remarks": "; ".join(setting.remarks)})
    return pd.DataFrame(rows)


def worst_group(setting: Setting, split: str) -> str:
    """Return the group that is worst for most seeds; if seeds disagree, with the number of these seeds."""
    names = [run.metrics(split).get("worst_group") for run in setting.runs]
    counts = collections.Counter(name for name in names if name)
    if not counts:
        return DASH
    name, times = counts.most_common(1)[0]
    return str(name) if len(counts) == 1 else f"{name} ({times} of {sum(counts.values())} seeds)"


def shortcut_table(settings: Sequence[Setting], split: str = "test") -> pd.DataFrame:
    """Return the cost of misleading shortcuts, in percent over seeds, for data sets with several (UrbanCars).

    ID accuracy: in-distribution accuracy.
    NAME gap: ID accuracy - accuracy where the shortcuts NAME mislead (Diffusing DeBias).
    NAME drop: the same with the opposite sign (Whac-A-Mole).

    A setting of another data set has no row.
    """
    rows = []
    for setting in settings:
        by_column: dict[str, list[float]] = {}
        for run in setting.runs:
            gaps = run.metrics(split).get("shortcut_gaps") or {}
            values = {"ID accuracy": gaps.get("id_accuracy")}
            for name, cell in (gaps.get("conflicting") or {}).items():
                values |= {f"{name} gap": cell["gap"], f"{name} drop": cell["drop"]}
            for key, value in values.items():
                if value is not None:
                    by_column.setdefault(key, []).append(100 * value)
        if by_column:
            texts = {key: str(make_stat(values)) for key, values in by_column.items()}
            rows.append({"setting": setting.label, **texts})
    return pd.DataFrame(rows).fillna(DASH)


def oracle_table(settings: Sequence[Setting]) -> pd.DataFrame:
    """Return the cost of selecting the epoch on validation, for runs with training.oracle.

    All columns are worst-group accuracy on the test split, in percent over seeds.

    selected by RULE: at the epoch selected on validation.
    oracle (test split): at the epoch that the test split would choose, by the same rule unless the title names another.
    difference: oracle minus selected.
    """
    rows = []
    for setting in settings:
        pairs = [(run.metrics("test"), oracle["test"]) for run in setting.runs if (oracle := run.oracle)]
        values = [(a["worst_group_accuracy"], b["worst_group_accuracy"]) for a, b in pairs]
        if values:
            oracles = [run.oracle for run in setting.runs if run.oracle]
            others = sorted({one["rule"] for one in oracles if one["rule"] != one.get("asked", one["rule"])})
            by = f" by {', '.join(others)}" if others else ""
            columns = {
                f"selected by {setting.selection}": [a for a, _ in values],
                f"oracle{by} (test split)": [b for _, b in values],
                "difference": [b - a for a, b in values],
            }
            stats = {name: str(make_stat([100 * v for v in column])) for name, column in columns.items()}
            rows.append({"setting": setting.label, "n": len(values), **stats})
    return pd.DataFrame(rows).fillna(DASH)


def groups_table(settings: Sequence[Setting]) -> pd.DataFrame:
    """Return how good the groups of a finder are, and what each setting cost, over seeds.

    precision, recall: of the training rows that the groups call bias-conflicting, in percent.
    epochs: images that networks were trained on in all phases, divided by the training rows.
    finder's epochs: the part of them before the last phase.

    It is empty where no run has a finder.
    """
    rows = []
    for setting in settings:
        found = [((run.results or {}).get("notes") or {}).get("groups") or {} for run in setting.runs]
        row: dict[str, Any] = {"setting": setting.label, "groups from": found[0].get("from", "attribute")}
        for name in ("precision", "recall"):
            stat = make_stat([100 * one[name] for one in found if one.get(name) is not None])
            row[name] = DASH if stat is None else str(stat)
        epochs = [one for run in setting.runs if (one := _epochs_of(run.results or {}))]
        for name, values in (("epochs", [a for a, _ in epochs]), ("finder's epochs", [b for _, b in epochs])):
            row[name] = f"{statistics.fmean(values):.1f}" if values else DASH
        rows.append(row)
    table = pd.DataFrame(rows)
    return table if len(table) and (table["groups from"] != "attribute").any() else pd.DataFrame()


def _epochs_of(results: Mapping[str, Any]) -> tuple[float, float] | None:
    """Return the images of all phases, and of those before the last, by training row; None if not known."""
    images = list(((results.get("timing") or {}).get("images") or {}).values())
    rows = sum((results.get("train_groups") or {}).values())
    return (sum(images) / rows, sum(images[:-1]) / rows) if images and rows else None


def findings_table(settings: Sequence[Setting]) -> pd.DataFrame:
    """Return the numbers that methods store in `notes` of results.json, by dotted name, over seeds."""
    rows = []
    for setting in settings:
        by_name: dict[str, list[float]] = {}
        for run in setting.runs:
            for key, value in flatten((run.results or {}).get("notes") or {}).items():
                if isinstance(value, int | float) and not isinstance(value, bool):
                    by_name.setdefault(key, []).append(value)
        for key, values in by_name.items():
            spread = f" ± {statistics.stdev(values):.3g}" if len(values) > 1 else ""
            rows.append((setting.label, key, f"{statistics.fmean(values):.4g}{spread}", len(values)))
    return pd.DataFrame(rows, columns=["setting", "what", "mean", "n"])


def notes(settings: Sequence[Setting], metrics: Sequence[str] = ()) -> list[str]:
    """Return notes on the numbers: units, other data, selection rules, repeats, differences not in the labels.

    metrics: the further columns of the tables.
    """
    columns = shown_columns(settings, report_split(settings))
    lines = [UNITS, *(text for metric, text in MEANINGS.items() if metric in columns)]
    lines += [PROBABILITY_MEANING] if any(name.endswith(tuple(PROBABILITY_METRICS)) for name in metrics) else []
    lines += [INTERVAL_MEANING] if INTERVAL in metrics else []
    lines += data_notes([(s.label, [*s.runs, *s.repeats]) for s in settings])
    rules = dict.fromkeys(s.selection for s in settings)
    lines.append("Epoch selected by: " + "; ".join(map(str, rules)) + ".")
    lines += [COST_MEANING] if any(s.cost for s in settings) else []
    lines += remark_notes(settings)
    if repeats := [text for s in settings for text in _repeats(s)]:
        lines.append(f"Not counted, because another run has the same setting and seeds: {', '.join(repeats)}.")
    seeds = {tuple(run.seeds for run in s.runs) for s in settings}
    if len(seeds) > 1:
        lines.append("The settings were not run with the same seeds.")
    named = " ".join(part for s in settings for part in s.parts[1:]).split()
    keys = [
        k
        for k in differing_keys([s.identity for s in settings])
        if k not in ("dataset", "selection", "training.method")
    ]
    unnamed = [k for k in keys if k not in named and k.rsplit(".", 1)[-1] not in named]
    if unnamed:
        more = f" and {len(unnamed) - 6} more" if len(unnamed) > 6 else ""
        lines.append(f"The settings also differ in {', '.join(unnamed[:6])}{more}.")
    return lines


def remark_notes(settings: Sequence[Setting]) -> list[str]:
    """Return each remark on the settings as a note, with their labels where it does not hold for all."""
    labels: dict[str, list[str]] = {}
    for setting in settings:
        for remark in setting.remarks:
            labels.setdefault(remark, []).append(setting.label)
    return [
        f"Remark: {remark}." if len(having) == len(settings) else f"Remark: {remark} ({', '.join(having)})."
        for remark, having in labels.items()
    ]


def _repeats(setting: Setting) -> list[str]:
    """Return the runs that do not count, each with the run that counts in its place."""
    counted = {run.seeds: run for run in setting.runs}
    pairs = [(run, counted[run.seeds]) for run in setting.repeats]
    return [
        f"{left.name if left.name != right.name else left.folder} (counted: "
        f"{right.name if left.name != right.name else right.folder})"
        for left, right in pairs
    ]


def metric_table(settings: Sequence[Setting], metric: str, split: str = "test") -> pd.DataFrame:
    """Return a metric of probabilities by group and by attribute, times 100; a row for each that defines it.

    The columns are the settings, as text.
    """
    rows: list[dict[str, str]] = []
    for kind in ("group", "attribute"):
        names = [name for s in settings for run in s.runs for name in run.metrics(split).get(f"{kind}_{metric}") or {}]
        for name in dict.fromkeys(names):
            stats = {s.label: s.entry_stat(f"{kind}_{metric}", name, split) for s in settings}
            if any(stats.values()):
                texts = {s.label: stat_text(s, stats[s.label]) for s in settings}
                rows.append({"over": kind, "name": name, **texts})
    return pd.DataFrame(rows)


def group_table(setting: Setting, split: str = "test", metrics: Sequence[str] = ()) -> pd.DataFrame:
    """Return one row per group.

    group: name of the group.
    train: number of training rows, as text.
    SPLIT: number of rows of the split, as text.
    accuracy: accuracy in percent, as text.
    mean: its mean as a number, for sorting; NaN if undefined.

    metrics: with 'interval', accuracies of one seed have their intervals.
    """
    rows = []
    for name in setting.group_names:
        stat = setting.group_stat(name, split)
        counts = [count_text(setting.group_count(name, counted)) for counted in ("train", split)]
        interval = interval_text(setting.interval("group_accuracy", split, name)) if INTERVAL in metrics else ""
        rows.append((name, *counts, stat_text(setting, stat) + interval, stat.mean if stat else float("nan")))
    return pd.DataFrame(rows, columns=["group", "train", split, "accuracy", "mean"])


def stat_text(setting: Setting, stat: Stat | None) -> str:
    """Return a Stat as text, with its n if that is smaller than the setting's; a dash for None."""
    if stat is None:
        return DASH
    return str(stat) + (f" (n={stat.n})" if stat.n < len(setting.runs) else "")


def interval_text(interval: tuple[float, float] | None) -> str:
    """Return ' [low, high]' in percent; '' without an interval."""
    return "" if interval is None else f" [{interval[0]:.1f}, {interval[1]:.1f}]"


def count_text(count: float | None) -> str:
    """Return a number of rows as text; a dash for None."""
    return DASH if count is None else f"{count:,.0f}"


def to_markdown(table: pd.DataFrame) -> str:
    """Return a table as Markdown; numbers are aligned to the right."""
    lines = [list(map(str, table.columns)), *(list(map(str, row)) for row in table.itertuples(index=False))]
    cells = [[markdown_text(text).replace("|", r"\|") for text in line] for line in lines]
    right = [pd.api.types.is_numeric_dtype(table[c]) or c in TITLES for c in table.columns]
    rule = ["---:" if is_right else "---" for is_right in right]
    return "\n".join("| " + " | ".join(line) + " |" for line in [cells[0], rule, *cells[1:]]) + "\n"


def markdown_text(text: str) -> str:
    """Return a text as Markdown of one line, in which '<' begins no HTML; names come from files of other people."""
    return re.sub(r"<(?=[A-Za-z/!?])", r"\<", CONTROL.sub(" ", text).replace("\u2028", " ").replace("\u2029", " "))


def to_latex(table: pd.DataFrame, caption: str | None = None) -> str:
    """Return a table as LaTeX (booktabs); special characters are escaped.

    caption: text of a comment of one line above it.
    """
    right = [pd.api.types.is_numeric_dtype(table[c]) or c in TITLES for c in table.columns]
    text = table.to_latex(index=False, escape=True, column_format="".join("r" if r else "l" for r in right))
    for character, command in (("±", r"$\pm$"), ("·", r"$\cdot$"), ("–", "--"), ("…", r"\dots{}")):
        text = text.replace(character, command)
    return (f"% {' '.join(CONTROL.sub(' ', caption).split())}\n" if caption else "") + text
