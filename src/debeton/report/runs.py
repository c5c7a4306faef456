"""Runs grouped into settings. The runs of a setting differ only in their seeds; statistics are taken over them."""

from __future__ import annotations

import collections
import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from debeton.report.records import OPTION, RunRecord, natural_key
from debeton.report.same_data import data_identity
from debeton.train.intervals import accuracy_intervals


@dataclass(frozen=True)
class Stat:
    """Statistics of one number over seeds, in percent.

    mean: mean.
    std: sample standard deviation; None for n = 1.
    n: number of seeds.
    """

    mean: float
    std: float | None
    n: int

    def __str__(self) -> str:
        return f"{self.mean:.1f}" if self.std is None else f"{self.mean:.1f} ± {self.std:.1f}"


def make_stat(values: Sequence[float]) -> Stat | None:
    """Return the Stat of `values`, or None if there are none, because the mean of no values is not 0."""
    if not values:
        return None
    return Stat(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None, len(values))


@dataclass(frozen=True)
class Setting:
    """Finished runs that differ only in their seeds.

    parts: pieces of the label: the method, then 'key value' of the keys that differ between the settings.
    identity: settings by dotted key, without seeds.
    runs: one run per pair of seeds.
    repeats: runs with the same seeds as one of `runs`; they do not count.
    """

    parts: tuple[str, ...]
    identity: Mapping[str, Any]
    runs: tuple[RunRecord, ...]
    repeats: tuple[RunRecord, ...] = ()

    @property
    def label(self) -> str:
        """Return the label, for example 'erm · lr 0.1'."""
        return " · ".join(self.parts)

    @property
    def method(self) -> str:
        """Return the name of the method."""
        return str(self.identity["training.method"])

    @property
    def dataset(self) -> str:
        """Return the name of the data set."""
        return str(self.identity["dataset"])

    @property
    def selection(self) -> str:
        """Return the rule that selected the epoch; if seeds disagree, each rule with its number of seeds."""
        return _by_seeds([run.selection or "–" for run in self.runs])

    @property
    def cost(self) -> str:
        """Return the number of runs that were trained for the setting, as text; '' if not known."""
        return ", ".join(dict.fromkeys(run.cost for run in self.runs if run.cost))

    @property
    def remarks(self) -> tuple[str, ...]:
        """Return the remarks on the runs; those that do not hold for all seeds with the number of seeds."""
        counts = collections.Counter(remark for run in self.runs for remark in dict.fromkeys(run.remarks))
        return tuple(_of_seeds(remark, count, len(self.runs)) for remark, count in counts.items())

    @property
    def group_names(self) -> tuple[str, ...]:
        """Return the names of all groups of the training and evaluation splits, in the data set's order."""
        final = [run.results or {} for run in self.runs]
        names = [name for result in final for name in result.get("train_groups") or {}]
        names += [g for run in self.runs for s in ("test", "val") for g in run.metrics(s).get("group_accuracy") or {}]
        return tuple(dict.fromkeys(names))

    def stat(self, metric: str, split: str) -> Stat | None:
        """Return the Stat of a metric over the seeds that define it; None if none does."""
        return _percent(run.metrics(split).get(metric) for run in self.runs)

    def group_stat(self, group: str, split: str) -> Stat | None:
        """Return the Stat of a group's accuracy over the seeds that have a row of it; None if none has."""
        return self.entry_stat("group_accuracy", group, split)

    def entry_stat(self, metric: str, name: str, split: str) -> Stat | None:
        """Return the Stat of one entry of a metric by name, such as 'group_f1'; None if no seed defines it."""
        return _percent((run.metrics(split).get(metric) or {}).get(name) for run in self.runs)

    def interval(self, metric: str, split: str, group: str | None = None) -> tuple[float, float] | None:
        """Return the 95 % interval of an accuracy over its rows, in percent; None for several seeds.

        metric: 'accuracy', 'worst_group_accuracy', or 'group_accuracy' with the name of a group.
        """
        if len(self.runs) > 1:
            return None
        metrics = self.runs[0].metrics(split)
        intervals = accuracy_intervals(metrics)
        if metric == "accuracy":
            found = intervals["accuracy_interval"]
        else:
            name = metrics.get("worst_group") if metric == "worst_group_accuracy" else group
            found = intervals["group_accuracy_interval"].get(name)
        return None if found is None else (100 * found[0], 100 * found[1])

    def group_count(self, group: str, split: str) -> float | None:
        """Return the number of rows of a group, as mean over seeds; None if unknown.

        The number may differ between seeds, because subsets may depend on data.seed.
        """
        final = [run.results or {} for run in self.runs]
        counts = [r.get("train_groups") if split == "train" else (r.get(split) or {}).get("group_count") for r in final]
        known = [c[group] for c in counts if c and c.get(group) is not None]
        return statistics.fmean(known) if known else None


def _by_seeds(texts: Sequence[str]) -> str:
    """Return a text that all runs share, or each text with the number of its runs."""
    counts = collections.Counter(texts)
    return ", ".join(_of_seeds(text, count, len(texts)) for text, count in counts.most_common())


def _of_seeds(text: str, count: int, seeds: int) -> str:
    """Return a text, with the number of seeds for which it holds where that is not all."""
    return text if count == seeds else f"{text} ({count} of {seeds} seeds)"


def _percent(values: Iterable[float | None]) -> Stat | None:
    return make_stat([100 * value for value in values if value is not None])


def group_settings(records: Iterable[RunRecord], searched: Sequence[str] = ()) -> list[Setting]:
    """Group finished runs into settings, ordered by data set, its options and method (erm first).

    Runs that must have the same data and have not are settings of their own (`same_data.py`).

    records: runs; unfinished ones are left out.
    searched: keys that a random search chose for each run; runs that differ only in these are one setting.
    """
    finished = [run for run in records if run.is_finished]
    sections = sorted({section for run in finished for section in run.sections})
    runs_of: dict[str, list[RunRecord]] = {}
    identity_of: dict[str, dict[str, Any]] = {}
    data = data_identity(finished)
    for run in finished:
        identity = {key: value for key, value in run.identity(sections).items() if key not in searched}
        identity |= data.get(id(run), {})
        name = json.dumps(identity, sort_keys=True, default=str)
        runs_of.setdefault(name, []).append(run)
        identity_of[name] = identity
    members = list(runs_of.values())
    identities = list(identity_of.values())
    settings = []
    for runs, identity, parts in zip(members, identities, _labels(identities), strict=True):
        last_of = {run.seeds: run for run in runs}  # of several runs with the same seeds, the last one counts
        counted = sorted(last_of.values(), key=lambda run: natural_key(run.seeds))
        repeats = [run for run in runs if last_of[run.seeds] is not run]
        settings.append(Setting(parts, identity, tuple(counted), tuple(repeats)))

    def sort_key(setting: Setting) -> Any:
        """Return data set, options, method (erm first) and label."""
        options = [
            (k, (0, v) if isinstance(v, int | float) else (1, str(v)))
            for k, v in sorted(setting.identity.items())
            if k.startswith(OPTION)
        ]
        return setting.dataset, options, setting.method != "erm", natural_key(setting.label)

    return sorted(settings, key=sort_key)


def differing_keys(identities: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the keys whose values differ: data set and its options first, paths last."""

    def sort_key(key: str) -> tuple[int, str]:
        """Return the rank of a key's kind, and the key."""
        is_path = any("/" in str(i.get(key)) for i in identities)
        return 0 if key == "dataset" else 1 if key.startswith(OPTION) else 3 if is_path else 2, key

    keys = dict.fromkeys(key for identity in identities for key in identity)
    return sorted((k for k in keys if len({repr(i.get(k, ...)) for i in identities}) > 1), key=sort_key)


def _labels(identities: Sequence[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """Return the parts of each setting's label.

    These are the method, the data set options that vary, and as few further keys as make the labels differ.
    """
    chosen = ["training.method"]

    def count_distinct(keys: Sequence[str]) -> int:
        """Return the number of settings that differ in these keys."""
        return len({tuple(repr(identity.get(key, ...)) for key in keys) for identity in identities})

    def is_option(key: str) -> bool:
        """Return whether a key is the data set or one of its options."""
        return key == "dataset" or key.startswith(OPTION)

    for key in differing_keys(identities):
        is_varied_option = is_option(key) and len({repr(i[key]) for i in identities if key in i}) > 1
        if key != "training.method" and (is_varied_option or count_distinct([*chosen, key]) > count_distinct(chosen)):
            chosen.append(key)
    for key in chosen[1:]:  # drop a key whose difference later keys show, such as a learning rate that follows the mode
        others = [other for other in chosen if other != key]
        if not is_option(key) and count_distinct(others) == count_distinct(chosen):
            chosen = others
    leaves = [key.rsplit(".", 1)[-1] for key in chosen]
    names = [leaf if leaves.count(leaf) == 1 else key for key, leaf in zip(chosen, leaves, strict=True)]
    labels = []
    for identity in identities:
        parts = [
            f"{n} {format_value(identity[k])}" for k, n in zip(chosen[1:], names[1:], strict=True) if k in identity
        ]
        labels.append((str(identity["training.method"]), *parts))
    return [(*x, f"#{labels[: i + 1].count(x)}") if labels.count(x) > 1 else x for i, x in enumerate(labels)]


def format_value(value: Any) -> str:
    """Return a configuration value in at most 32 characters; of a longer text, such as a path, the end."""
    if value is None or isinstance(value, bool):
        return {None: "none", True: "on", False: "off"}[value]
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return text if len(text) <= 32 else "…" + text[-31:]
