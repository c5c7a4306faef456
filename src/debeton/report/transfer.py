"""Report on triggers after transfer learning: attack rates by target, trigger, transfer and source.

The attack rate of a network with a biased source means little alone, because a trigger also hides a part of the image.
Its difference to the same transfer from a clean source, and to a network trained from scratch, shows the bias.
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
SECTIONS_IN_COLUMNS = ("model", "spurious")  # sections whose settings have their own columns
NOTE = (
    f"Percent; mean ± half the {100 * CONFIDENCE:.0f} % confidence interval over n seeds (Student's t; Welch's for "
    "differences; none for n = 1). Attack success: share of the test images that are classified correctly without the "
    "trigger and wrongly with it. Flips: share of the predictions that the trigger changes. Mostly to: the class whose "
    "share of the predictions grows most with the trigger, in percentage points. Less clean: attack success minus that "
    "of the same transfer from a clean source. Less scratch: attack success minus that of the network trained from "
    "scratch."
)


@dataclass(frozen=True)
class Attack:
    """Measurement of one trigger on one split, over runs that differ only in their seeds.

    target: data set of the runs.
    trigger: name of the trigger.
    transfer: FIXED, FULL or NONE.
    source: 'scratch', 'clean', 'published', or 'TRIGGER on CLASSES' for a biased source.
    rest: further settings that differ between the attacks on this target.
    results: result of each run, see `attack_metrics`.
    """

    target: str
    trigger: str
    transfer: str
    source: str
    rest: str
    results: tuple[Mapping[str, Any], ...]

    def values(self, rate: str) -> list[float]:
        """Return a rate of every run that defines it, in percent."""
        return [100 * entry[rate] for entry in self.results if entry[rate] is not None]

    def accuracy(self, form: str) -> list[float]:
        """Return the accuracy of every run in percent, on 'clean' or 'triggered' images."""
        return [100 * entry[form]["accuracy"] for entry in self.results]

    @property
    def is_of_its_source(self) -> bool:
        """Return whether the trigger is the one that was planted in the source."""
        return self.source.split(" on ")[0] == self.trigger


def attacks_of(settings: Sequence[Setting], split: str = "test") -> list[Attack]:
    """Return the attacks of all settings measured with triggers, sorted by target, trigger and transfer."""
    all_attacks = []
    shared_parts = {setting.dataset: set(_extra_parts(setting)) for setting in settings}
    for setting in settings:
        shared_parts[setting.dataset] &= set(_extra_parts(setting))
    for setting in settings:
        results = [run.results or {} for run in setting.runs]
        measured = [(result.get("triggers") or {}).get(split) or {} for result in results]
        transfer = str(setting.identity.get("model.transfer", "NONE"))
        rest = " · ".join(part for part in _extra_parts(setting) if part not in shared_parts[setting.dataset])
        for trigger in dict.fromkeys(name for entry in measured for name in entry):
            entries = tuple(entry[trigger] for entry in measured if trigger in entry)
            source = source_name(results[0].get("source"))
            all_attacks.append(Attack(setting.dataset, trigger, transfer, source, rest, entries))
    rank = {"FIXED": 0, "FULL": 1, "NONE": 2}
    return sorted(
        all_attacks, key=lambda a: (a.target, a.trigger, rank[a.transfer], a.rest, *_source_rank(a), a.source)
    )


def _source_rank(attack: Attack) -> tuple[int, bool]:
    """Return a sort key: the source with this trigger, other biased sources, then the controls."""
    controls = ("published", CLEAN, SCRATCH)
    return 1 + controls.index(attack.source) if attack.source in controls else 0, not attack.is_of_its_source


def _extra_parts(setting: Setting) -> list[str]:
    """Return the parts of a setting's label without a column, and the trigger in its own training rows."""
    in_columns = {key.rsplit(".", 1)[-1] for key in setting.identity if key.split(".")[0] in SECTIONS_IN_COLUMNS}
    in_columns |= {"dataset"}
    parts = [p for p in setting.parts if not p.startswith("#") and p.split(" ")[0].rsplit(".", 1)[-1] not in in_columns]
    spurious = {key.removeprefix("spurious."): value for key, value in setting.identity.items()}
    share = float(spurious.get("spurious_perc", 0) or 0)
    if share and spurious.get("splits") != "test":
        parts.append(f"{spurious['spurious_type']} in {100 * share:g} % of {Path(str(spurious['spurious_file'])).stem}")
    return parts


def source_name(source: Mapping[str, Any] | None) -> str:
    """Return the name of the source that results.json describes; None: 'scratch'."""
    if source is None:
        return SCRATCH
    if "published" in source:
        return "published"
    if source.get("trigger", "none") == "none":
        return CLEAN
    return f"{source['trigger']} on {Path(str(source.get('trigger_classes', ''))).stem}"


def confidence_interval(values: Sequence[float]) -> tuple[float, float | None]:
    """Return the mean and half the width of its confidence interval (Student's t); None for one value."""
    mean = float(np.mean(values))
    if len(values) < 2:
        return mean, None
    spread = float(np.std(values, ddof=1)) / math.sqrt(len(values))
    return mean, float(stats.t.ppf((1 + CONFIDENCE) / 2, len(values) - 1)) * spread


def difference_interval(left: Sequence[float], right: Sequence[float]) -> tuple[float, float | None]:
    """Return the difference of two means and half the width of Welch's confidence interval.

    The width is None if one side has a single value.
    """
    mean = float(np.mean(left) - np.mean(right))
    if min(len(left), len(right)) < 2:
        return mean, None
    a, b = (float(np.var(values, ddof=1)) / len(values) for values in (left, right))
    if a + b == 0:
        return mean, 0.0
    freedom = (a + b) ** 2 / (a**2 / (len(left) - 1) + b**2 / (len(right) - 1))
    return mean, float(stats.t.ppf((1 + CONFIDENCE) / 2, freedom)) * math.sqrt(a + b)


def interval_text(interval: tuple[float, float | None] | None) -> str:
    """Return (mean, half width) as text such as '12.3 ± 4.5'; a dash for None."""
    if interval is None:
        return DASH
    mean, half = interval
    return f"{mean:.1f}" if half is None else f"{mean:.1f} ± {half:.1f}"


def find_control(attack: Attack, others: Iterable[Attack], source: str) -> Attack | None:
    """Return the attack with the same target, trigger and transfer from the control `source`.

    A network trained from scratch has no transfer, so for 'scratch' target and trigger decide. None: there is none.
    """
    for other in others:
        same = (other.target, other.trigger, other.source) == (attack.target, attack.trigger, source)
        if same and (source == SCRATCH or (other.transfer, other.rest) == (attack.transfer, attack.rest)):
            return other
    return None


def attack_table(all_attacks: Sequence[Attack]) -> pd.DataFrame:
    """Return one row per attack, with all numbers as text."""
    rows = []
    for attack in all_attacks:
        success = attack.values("attack_success_rate")
        row = {
            "target": attack.target,
            "trigger": attack.trigger,
            "transfer": attack.transfer,
            "source": attack.source,
            "other": attack.rest,
            "n": len(attack.results),
            **{f"accuracy {form}": _mean_text(attack.accuracy(form)) for form in ("clean", "triggered")},
            **{title: _mean_text(attack.values(rate)) for rate, title in RATES.items()},
            "mostly to": _main_shift(attack),
        }
        for source in (CLEAN, SCRATCH):
            control = find_control(attack, all_attacks, source) if attack.source not in (source, SCRATCH) else None
            theirs = control.values("attack_success_rate") if control else []
            row[f"less {source}"] = interval_text(difference_interval(success, theirs)) if success and theirs else DASH
        rows.append(row)
    table = pd.DataFrame(rows)
    return table.drop(columns="other") if len(table) and table["other"].nunique() == 1 else table


def _mean_text(values: Sequence[float]) -> str:
    """Return mean and confidence interval as text; a dash without values."""
    return interval_text(confidence_interval(values) if values else None)


def _main_shift(attack: Attack) -> str:
    """Return the class whose share of the predictions grows most, and the growth in points, as mean over runs."""
    shifts = {
        name: np.mean([100 * entry["shift"][name] for entry in attack.results]) for name in attack.results[0]["shift"]
    }
    name = max(shifts, key=lambda key: shifts[key])
    return f"{name} (+{shifts[name]:.1f})" if shifts[name] > 0.05 else DASH


@styled
def plot_attacks(all_attacks: Sequence[Attack]) -> Figure | None:
    """Plot attack success as bars by source and transfer, one panel per target and trigger.

    Bars are means, whiskers are confidence intervals. Returns None if no attack has a success rate.
    """
    drawn = [attack for attack in all_attacks if attack.values("attack_success_rate")]
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
        for position, members in enumerate(groups.values()):
            for k, attack in enumerate(members):
                mean, half = confidence_interval(attack.values("attack_success_rate"))
                colour = colour_of(sources.index(attack.source), len(sources))
                x = position + width * (k - (len(members) - 1) / 2)
                axes.bar(x, mean, color=colour, width=0.94 * width, yerr=half or None)
        axes.set_xticks(range(len(groups)), list(groups))
        axes.set_title(f"{panel[0]}, {panel[1]}")
        axes.grid(axis="x", visible=False)
    figure.axes[0].set(ylabel="attack success (%)", ylim=(0, 105))  # the interval of two runs may reach far beyond 100
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
