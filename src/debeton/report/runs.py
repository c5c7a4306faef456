"""Runs gathered into settings, which agree in everything but their seeds, and numbers over them."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from debeton.report.records import OPTION, RunRecord, natural_key


@dataclass(frozen=True)
class Stat:
    """Mean and sample standard deviation (None for n = 1) of one number over n seeds; percent."""

    mean: float
    std: float | None
    n: int

    def __str__(self) -> str:
        return f"{self.mean:.1f}" if self.std is None else f"{self.mean:.1f} ± {self.std:.1f}"


def make_stat(values: Sequence[float]) -> Stat | None:
    """The Stat of `values`; None when there is none, because 0/0 is not 0."""
    if not values:
        return None
    return Stat(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None, len(values))


@dataclass(frozen=True)
class Setting:
    """Runs that differ only in their seeds.

    parts: the label's pieces: the method, then 'key value' of what tells it from the other settings.
    repeats: runs whose seeds another run of the setting has too; not counted.
    """

    parts: tuple[str, ...]
    identity: Mapping[str, Any]
    runs: tuple[RunRecord, ...]
    repeats: tuple[RunRecord, ...] = ()

    @property
    def label(self) -> str:
        return " · ".join(self.parts)

    @property
    def method(self) -> str:
        return str(self.identity["training.method"])

    @property
    def dataset(self) -> str:
        return str(self.identity["dataset"])

    @property
    def selection(self) -> str:
        return str(self.identity["selection"] or "–")

    @property
    def group_names(self) -> tuple[str, ...]:
        """Every group of the training and test splits, in the data set's order."""
        final = [run.results or {} for run in self.runs]
        names = [name for result in final for name in result.get("train_groups") or {}]
        names += [g for run in self.runs for s in ("test", "val") for g in run.metrics(s).get("group_accuracy") or {}]
        return tuple(dict.fromkeys(names))

    def stat(self, metric: str, split: str) -> Stat | None:
        """A metric in percent over the seeds that define it."""
        return _percent(run.metrics(split).get(metric) for run in self.runs)

    def group_stat(self, group: str, split: str) -> Stat | None:
        """A group's accuracy in percent over the seeds that have a sample of it."""
        return _percent((run.metrics(split).get("group_accuracy") or {}).get(group) for run in self.runs)

    def group_count(self, group: str, split: str) -> float | None:
        """Samples of a group, the mean over seeds (subsets may depend on data.seed); None where unknown."""
        final = [run.results or {} for run in self.runs]
        counts = [r.get("train_groups") if split == "train" else (r.get(split) or {}).get("group_count") for r in final]
        known = [c[group] for c in counts if c and c.get(group) is not None]
        return statistics.fmean(known) if known else None


def _percent(values: Iterable[float | None]) -> Stat | None:
    return make_stat([100 * value for value in values if value is not None])


def group_settings(records: Iterable[RunRecord], searched: Sequence[str] = ()) -> list[Setting]:
    """Finished runs by setting, ordered by data set, its options and method (erm first).

    searched: keys whose values were chosen, run by run, by a search, and so tell no settings apart.
    """
    finished = [run for run in records if run.is_finished]
    sections = sorted({section for run in finished for section in run.sections})
    found: dict[str, list[RunRecord]] = {}
    identity_of: dict[str, dict[str, Any]] = {}
    for run in finished:
        identity = {key: value for key, value in run.identity(sections).items() if key not in searched}
        name = json.dumps(identity, sort_keys=True, default=str)
        found.setdefault(name, []).append(run)
        identity_of[name] = identity
    members = list(found.values())
    identities = list(identity_of.values())
    settings = []
    for runs, identity, parts in zip(members, identities, _labels(identities), strict=True):
        kept = {run.seeds: run for run in runs}  # the last version of a seed counts
        counted = sorted(kept.values(), key=lambda run: natural_key(run.seeds))
        repeats = [run for run in runs if kept[run.seeds] is not run]
        settings.append(Setting(parts, identity, tuple(counted), tuple(repeats)))

    def order(setting: Setting) -> Any:
        options = [
            (k, (0, v) if isinstance(v, int | float) else (1, str(v)))
            for k, v in sorted(setting.identity.items())
            if k.startswith(OPTION)
        ]
        return setting.dataset, options, setting.method != "erm", natural_key(setting.label)

    return sorted(settings, key=order)


def differing_keys(identities: Sequence[Mapping[str, Any]]) -> list[str]:
    """Keys whose value is not the same everywhere: data set and its options first, paths last."""

    def order(key: str) -> tuple[int, str]:
        is_path = any("/" in str(i.get(key)) for i in identities)
        return 0 if key == "dataset" else 1 if key.startswith(OPTION) else 3 if is_path else 2, key

    keys = dict.fromkeys(key for identity in identities for key in identity)
    return sorted((k for k in keys if len({repr(i.get(k, ...)) for i in identities}) > 1), key=order)


def _labels(identities: Sequence[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """Short names: the method, data set options that vary, then only the keys needed to tell settings apart."""
    chosen = ["training.method"]

    def told_apart(keys: Sequence[str]) -> int:
        return len({tuple(repr(identity.get(key, ...)) for key in keys) for identity in identities})

    def is_option(key: str) -> bool:
        return key == "dataset" or key.startswith(OPTION)

    for key in differing_keys(identities):
        is_varied_option = is_option(key) and len({repr(i[key]) for i in identities if key in i}) > 1
        if key != "training.method" and (is_varied_option or told_apart([*chosen, key]) > told_apart(chosen)):
            chosen.append(key)
    for key in chosen[1:]:  # what a later key tells too, as a learning rate that belongs to a mode
        others = [other for other in chosen if other != key]
        if not is_option(key) and told_apart(others) == told_apart(chosen):
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
    """A configuration value in a few characters; of a path, its end."""
    if value is None or isinstance(value, bool):
        return {None: "none", True: "on", False: "off"}[value]
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return text if len(text) <= 32 else "…" + text[-31:]
