"""What came along in transfer: attack rates of every target, trigger, source and kind of transfer, as table and figure.

A rate of a network with a biased source means little alone, as a trigger also hides a part of the image. What counts
is its difference to the same network with a clean source, and to one trained from scratch.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from scipy import stats

from debeton.report.figures.maps import WIDTH, colour_of, wrap
from debeton.report.figures.style import styled
from debeton.report.kind import ReportKind
from debeton.report.runs import Setting
from debeton.report.tables import DASH

CONFIDENCE = 0.95
SCRATCH, CLEAN = "scratch", "clean"
RATES = {"attack_success_rate": "attack success", "flip_rate": "flips"}
SECTIONS_SAID_ELSEWHERE = ("model", "spurious")  # in columns of their own
NOTE = (
    f"Percent; mean ± half the {100 * CONFIDENCE:.0f} % confidence interval over n seeds (Student's t; of differences "
    "Welch's; none for n = 1). Attack success: of the test images that are right without the trigger, those that are "
    "wrong with it. Flips: predictions that change. Mostly to: the class that gains most with the trigger, in points. "
    "Less clean, less scratch: attack success less that of the same transfer from a clean source, and less that of the "
    "network trained from scratch."
)


@dataclass(frozen=True)
class Attack:
    """Runs that differ in their seeds alone, measured with one trigger on one split.

    transfer: FIXED, FULL or NONE. source: 'scratch', 'clean', 'published', or the trigger that was planted in it and
    the classes that carried it. rest: what else tells it from others of its target. found: results of each run, see
    `attack_metrics`.
    """

    target: str
    trigger: str
    transfer: str
    source: str
    rest: str
    found: tuple[Mapping[str, Any], ...]

    def values(self, rate: str) -> list[float]:
        """A rate of every run that defines it, in percent."""
        return [100 * entry[rate] for entry in self.found if entry[rate] is not None]

    def accuracy(self, form: str) -> list[float]:
        """Accuracy on the images 'clean' or 'triggered', in percent."""
        return [100 * entry[form]["accuracy"] for entry in self.found]

    @property
    def is_of_its_source(self) -> bool:
        """Whether the trigger is the one that was planted in the source."""
        return self.source.split(" on ")[0] == self.trigger


def attacks_of(settings: Sequence[Setting], split: str = "test") -> list[Attack]:
    """The attacks of all settings whose runs were measured with triggers, sorted by target, trigger and transfer."""
    found = []
    alike = {setting.dataset: set(_extra_parts(setting)) for setting in settings}
    for setting in settings:
        alike[setting.dataset] &= set(_extra_parts(setting))
    for setting in settings:
        results = [run.results or {} for run in setting.runs]
        measured = [(result.get("triggers") or {}).get(split) or {} for result in results]
        transfer = str(setting.identity.get("model.transfer", "NONE"))
        rest = " · ".join(part for part in _extra_parts(setting) if part not in alike[setting.dataset])
        for trigger in dict.fromkeys(name for entry in measured for name in entry):
            entries = tuple(entry[trigger] for entry in measured if trigger in entry)
            source = source_name(results[0].get("source"))
            found.append(Attack(setting.dataset, trigger, transfer, source, rest, entries))
    order = {"FIXED": 0, "FULL": 1, "NONE": 2}
    return sorted(found, key=lambda a: (a.target, a.trigger, order[a.transfer], a.rest, *_rank(a), a.source))


def _rank(attack: Attack) -> tuple[int, bool]:
    """Biased sources first, that of the trigger the first of them, then the controls."""
    controls = ("published", CLEAN, SCRATCH)
    return 1 + controls.index(attack.source) if attack.source in controls else 0, not attack.is_of_its_source


def _extra_parts(setting: Setting) -> list[str]:
    """The pieces of a setting's label that no other column tells, and the trigger planted in its own training rows."""
    elsewhere = {key.rsplit(".", 1)[-1] for key in setting.identity if key.split(".")[0] in SECTIONS_SAID_ELSEWHERE}
    elsewhere |= {"dataset"}
    parts = [p for p in setting.parts if not p.startswith("#") and p.split(" ")[0].rsplit(".", 1)[-1] not in elsewhere]
    spurious = {key.removeprefix("spurious."): value for key, value in setting.identity.items()}
    share = float(spurious.get("spurious_perc", 0) or 0)
    if share and spurious.get("splits") != "test":
        parts.append(f"{spurious['spurious_type']} in {100 * share:g} % of {Path(str(spurious['spurious_file'])).stem}")
    return parts


def source_name(source: Mapping[str, Any] | None) -> str:
    """What a table calls the source that results.json describes."""
    if source is None:
        return SCRATCH
    if "published" in source:
        return "published"
    if source.get("trigger", "none") == "none":
        return CLEAN
    return f"{source['trigger']} on {Path(str(source['trigger_classes'])).stem}"


def confidence_interval(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean, and half the width of its confidence interval; None for one value."""
    mean = float(np.mean(values))
    if len(values) < 2:
        return mean, None
    spread = float(np.std(values, ddof=1)) / math.sqrt(len(values))
    return mean, float(stats.t.ppf((1 + CONFIDENCE) / 2, len(values) - 1)) * spread


def difference_interval(left: Sequence[float], right: Sequence[float]) -> tuple[float, float | None]:
    """Difference of means, and half the width of Welch's confidence interval; None where either is of one value."""
    mean = float(np.mean(left) - np.mean(right))
    if min(len(left), len(right)) < 2:
        return mean, None
    a, b = (float(np.var(values, ddof=1)) / len(values) for values in (left, right))
    if a + b == 0:
        return mean, 0.0
    freedom = (a + b) ** 2 / (a**2 / (len(left) - 1) + b**2 / (len(right) - 1))
    return mean, float(stats.t.ppf((1 + CONFIDENCE) / 2, freedom)) * math.sqrt(a + b)


def interval_text(found: tuple[float, float | None] | None) -> str:
    """'12.3 ± 4.5'; a dash for nothing."""
    if found is None:
        return DASH
    mean, half = found
    return f"{mean:.1f}" if half is None else f"{mean:.1f} ± {half:.1f}"


def find_control(attack: Attack, others: Iterable[Attack], source: str) -> Attack | None:
    """The same target and trigger from another source: of the same transfer, or from scratch."""
    for other in others:
        same = (other.target, other.trigger, other.source) == (attack.target, attack.trigger, source)
        if same and (source == SCRATCH or (other.transfer, other.rest) == (attack.transfer, attack.rest)):
            return other
    return None


def attack_table(found: Sequence[Attack]) -> pd.DataFrame:
    """One row an attack, all numbers as text."""
    rows = []
    for attack in found:
        success = attack.values("attack_success_rate")
        row = {
            "target": attack.target,
            "trigger": attack.trigger,
            "transfer": attack.transfer,
            "source": attack.source,
            "other": attack.rest,
            "n": len(attack.found),
            **{
                f"accuracy {form}": interval_text(confidence_interval(attack.accuracy(form)))
                for form in ("clean", "triggered")
            },
            **{
                title: interval_text(confidence_interval(v)) if (v := attack.values(rate)) else DASH
                for rate, title in RATES.items()
            },
            "mostly to": _main_shift(attack),
        }
        for source in (CLEAN, SCRATCH):
            other = find_control(attack, found, source) if attack.source not in (source, SCRATCH) else None
            theirs = other.values("attack_success_rate") if other else []
            row[f"less {source}"] = interval_text(difference_interval(success, theirs)) if success and theirs else DASH
        rows.append(row)
    table = pd.DataFrame(rows)
    return table.drop(columns="other") if len(table) and table["other"].nunique() == 1 else table


def _main_shift(attack: Attack) -> str:
    """The class that predictions shift to, mean over runs, and by how much."""
    shifts = {
        name: np.mean([100 * entry["shift"][name] for entry in attack.found]) for name in attack.found[0]["shift"]
    }
    name = max(shifts, key=lambda key: shifts[key])
    return f"{name} (+{shifts[name]:.1f})" if shifts[name] > 0.05 else DASH


@styled
def plot_attacks(found: Sequence[Attack]) -> Figure | None:
    """Attack success by source and transfer, a panel a target and trigger: means, and whiskers for their intervals."""
    drawn = [attack for attack in found if attack.values("attack_success_rate")]
    if not drawn:
        return None
    panels = list(dict.fromkeys((attack.target, attack.trigger) for attack in drawn))
    sources = list(dict.fromkeys(attack.source for attack in drawn))
    columns = 2 if len(panels) == 4 else min(3, len(panels))
    rows = math.ceil(len(panels) / columns)
    figure = Figure(figsize=(WIDTH, 0.6 + 2.7 * rows))
    cells = figure.subplots(rows, columns, squeeze=False, sharey=True).flat
    for axes, panel in zip(cells, [*panels, *[None] * (rows * columns - len(panels))], strict=True):
        if panel is None:
            axes.set_axis_off()
            continue
        groups: dict[str, list[Attack]] = {}
        for attack in (attack for attack in drawn if (attack.target, attack.trigger) == panel):
            kind = "from scratch" if attack.source == SCRATCH else attack.transfer
            groups.setdefault(wrap(f"{kind} {attack.rest}".rstrip(), 18), []).append(attack)
        width = 0.8 / max(3, *map(len, groups.values()))
        for place, members in enumerate(groups.values()):
            for k, attack in enumerate(members):
                mean, half = confidence_interval(attack.values("attack_success_rate"))
                colour = colour_of(sources.index(attack.source), len(sources))
                x = place + width * (k - (len(members) - 1) / 2)
                axes.bar(x, mean, color=colour, width=0.94 * width, yerr=half or None)
        axes.set_xticks(range(len(groups)), list(groups))
        axes.set_title(f"{panel[0]}, {panel[1]}")
        axes.grid(axis="x", visible=False)
    figure.axes[0].set(ylabel="attack success (%)", ylim=(0, 105))  # intervals of two runs reach far beyond
    legend = [Patch(color=colour_of(i, len(sources)), label=f"source: {name}") for i, name in enumerate(sources)]
    figure.legend(handles=legend, loc="outside upper left", ncols=len(sources))
    return figure


TRANSFER = ReportKind(
    summary="attack rates by target, trigger, transfer and source",
    stem="transfer",
    note=NOTE,
    missing="no finished run was measured with a trigger; give runs their triggers with --spurious.spurious_type or "
    "--spurious.eval_types",
    table=lambda settings: attack_table(attacks_of(settings)),
    figure=lambda settings: plot_attacks(attacks_of(settings)),
)
