"""The dry run: what a command would do, on one screen. With --all: every setting, group and shape."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import torch

from debeton.config import Config
from debeton.config.section import declared, show
from debeton.data.loader.loader import first_shapes, make_loader
from debeton.data.loader.options import LoaderOptions
from debeton.data.views.view import View
from debeton.nets.transfer import check_transfer
from debeton.system import distributed
from debeton.system.locks import is_locked
from debeton.system.log import collected_warnings
from debeton.train.held_out import warn_of_results
from debeton.train.outline import Outline
from debeton.train.result_files import LOG_NAME
from debeton.train.results import ResultLog
from debeton.train.run import Run
from debeton.train.run_folder import find_folder, next_folder
from debeton.train.run_views import check_selection, check_selection_rows, prepare_views, warn_of_views
from debeton.train.selection import NO_SELECTION
from debeton.train.standing import Standing, standing
from debeton.train.stop import StopRequest
from debeton.train.time_guess import TimeGuess, guess_times
from debeton.train.trial import processes
from debeton.train.unfinished import nearest_unfinished

WIDTH, HEADING = 100, 13  # columns of the screen, and of its headings
MOST_GROUPS = 10  # lines of the table of groups; more are summarised
NOT_SHOWN = ("training.method", "training.exp_name", "training.outdir", "data.dataset", "logging.progress")


def prepare(config: Config) -> Run:
    """Return the run of a configuration as its method's check sees it: with views, and without a folder on disk."""
    check_transfer(config)
    views = prepare_views(config)
    check_selection(config, views)
    device, folder = distributed.pick_device(config.training.device), Path(config.training.outdir)
    return Run(config, folder, device, views, ResultLog(folder / LOG_NAME), StopRequest())


def screen(run: Run, outline: Outline, method: Callable[[Run], object], summary: str, *, selects: bool = True) -> str:
    """Return the text of --dry-run. Take a few real steps on real batches; write nothing.

    outline: of the run's method.
    method: trains the run; it is followed to its first step.
    summary: the method in a line.
    selects: the method trains a classifier, of which an epoch is selected.
    """
    with collected_warnings() as messages:
        warn_of_views(run.config, run.views)
        warn_of_results(run.config, run.views)
        times = guess_times(run, outline, method, classifies=selects, where=_standing_of(run.config))
    parts: list[tuple[str, Sequence[str]]] = [
        ("run folder", _folder_lines(run.config)),
        ("method", [f"{run.config.training.method}: {summary}"]),
        ("settings", _settings_lines(run.config)),
        ("device", [_device_text(run)]),
        ("network", times.networks),
        ("phases", _phase_lines(outline, times)),
        ("groups", _group_lines(run.views)),
    ]
    if selects:
        rule = check_selection_rows(run.config, run.views).text
        parts.append(("selection", ["the last epoch is kept" if rule == NO_SELECTION else f"{rule} selects the epoch"]))
    parts.append(("time", times.lines))
    parts.append(("warnings", list(dict.fromkeys(text.removeprefix("warning: ") for text in messages)) or ["none"]))
    return "\n".join(line for heading, lines in parts for line in _under(heading, lines))


def _under(heading: str, lines: Sequence[str]) -> Iterator[str]:
    """Yield the lines under a heading, wrapped to the width of the screen."""
    for line in lines:
        # A line of a table keeps its columns; text is wrapped.
        is_text = "   " not in line
        for k, piece in enumerate(_wrapped(line) if is_text else [line]):
            yield f"{heading:<{HEADING}}{'  ' if k else ''}{piece}".rstrip()
            heading = ""


def _wrapped(line: str) -> list[str]:
    """Return a text as lines. A path or a number stays whole, so that it can be copied."""
    return textwrap.wrap(line, WIDTH - HEADING - 2, break_long_words=False, break_on_hyphens=False)


def _folder_lines(config: Config) -> list[str]:
    """Return the run folder: new, to be resumed, or finished."""
    folder = find_folder(config)
    if folder is None:
        new = next_folder(config)
        beside = nearest_unfinished(config, new)
        return [f"{new} (new)", *([f"note: {beside.text(new)}"] if beside is not None and beside.differences else [])]
    where = standing(folder)
    if where.is_finished:
        return [f"{folder} (finished: this command would do nothing)"]
    if is_locked(folder / ".lock"):
        return [f"{folder} (running now: {where.text})"]
    return [f"{folder} (resumed: {where.text})"]


def _standing_of(config: Config) -> Standing | None:
    folder = find_folder(config)
    return None if folder is None else standing(folder)


def _settings_lines(config: Config) -> list[str]:
    """Return the settings that differ from their defaults, a line for each section."""
    by_section: dict[str, list[str]] = {}
    for key, one in declared().items():
        if config.values[key] != one.default and key not in NOT_SHOWN:
            section, _, name = key.partition(".")
            by_section.setdefault(section, []).append(f"{name} {show(config.values[key])}")
    return [f"{name}: {', '.join(values)}" for name, values in by_section.items()] or ["the defaults"]


def _device_text(run: Run) -> str:
    kind = torch.cuda.get_device_name(run.device) if run.device.type == "cuda" else f"{torch.get_num_threads()} threads"
    number = processes()
    return f"{run.device} ({kind}), {number} process{'es' if number > 1 else ''}, {run.config.training.precision}"


def _phase_lines(outline: Outline, times: TimeGuess) -> list[str]:
    """Return a table of the phases, and below it what else they do."""
    rows = [("", "", "epochs", "steps", "rows", "batch", "lr", "schedule", "time")]
    notes = []
    for number, phase in enumerate(outline, 1):
        name = (f"{number} of {len(outline)}", phase.name)
        training = phase.settings
        if training is None:
            rows.append((*name, "-", "-", "-", "-", "-", "-", "-"))
        else:
            shown = f"{phase.rows_of_epoch:,}{'+' if phase.at_least else ''}"
            rate = (f"{training.lr:g}", training.lr_scheduler)
            rows.append(
                (*name, f"{phase.epochs}", f"{phase.steps}", shown, f"{phase.batch_size}", *rate, times.of(phase.name))
            )
        if phase.note:
            notes.append(f"{phase.name}: {phase.note}")
    return [*_table(rows), *notes]


def _group_lines(views: Mapping[str, View]) -> list[str]:
    """Return a table of rows by group and split; of many groups the number, the smallest and the largest."""
    counts = {name: view.counts_by_name() for name, view in views.items()}
    names = list(dict.fromkeys(group for one in counts.values() for group in one))
    names = [name for name in names if any(one.get(name) for one in counts.values())]
    head = ("rows of", *(_short(name) for name in counts))
    total = ("all", *(f"{len(view):,}" for view in views.values()))
    if len(names) <= MOST_GROUPS:
        body = [
            (_short(name, 34), *(f"{one[name]:,}" if name in one else "-" for one in counts.values())) for name in names
        ]
    else:
        filled = [[n for n in one.values() if n] for one in counts.values()]
        body = [
            (f"groups with rows, of {len(names)}", *(f"{len(n)}" for n in filled)),
            ("smallest group", *(f"{min(n):,}" for n in filled)),
            ("largest group", *(f"{max(n):,}" for n in filled)),
        ]
    lines = _table([head, *body, total])
    planted = [
        f"{view.name}: trigger {view.planted.trigger.name} in {int(view.planted.mask[view.rows].sum()):,} rows"
        for view in views.values()
        if view.planted is not None
    ]
    return [*lines, *planted]


def _short(text: str, length: int = 12) -> str:
    return text if len(text) <= length else f"{text[: length - 2]}.."


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return lines of columns: the first two columns of text to the left, numbers to the right."""
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
    left = [
        not any(character.isdigit() for character in "".join(row[k] for row in rows[1:])) for k in range(len(widths))
    ]
    left[0] = True
    return [
        "   ".join(
            f"{cell:<{width}}" if to_left else f"{cell:>{width}}" for cell, width, to_left in zip(row, widths, left)
        )
        for row in rows
    ]


def describe(run: Run, *, selects: bool = True) -> str:
    """Return the text of --dry-run --all. Decode one batch; train nothing and write nothing.

    selects: the method trains a classifier, of which an epoch is selected.
    """
    config, views = run.config, run.views
    warn_of_views(config, views)
    parts = [config.dump()]
    parts += [_describe_view(view) for view in views.values()]
    if selects:
        parts.append(f"epoch selected by {check_selection_rows(config, views).text}")
    warn_of_results(config, views)
    training = config.training
    options = LoaderOptions(training.decoder_train, training.augment, config.resolution.val_res)
    shapes = first_shapes(make_loader(views["train"], min(training.batch_size, len(views["train"])), options=options))
    parts.append("one batch: " + ", ".join(f"{name} {list(shape)}" for name, shape in shapes.items()))
    return "\n".join(parts)


def _describe_view(view: View) -> str:
    counts = view.counts_by_name()
    width = max(map(len, counts))
    lines = [f"view {view.name}: {len(view)} rows of {view.beton.path}, order {view.order}"]
    if view.planted is not None:
        planted = int(view.planted.mask[view.rows].sum())
        lines.append(f"  trigger {view.planted.trigger.name} in {planted} rows")
    return "\n".join(lines + [f"  {name:<{width}}  {count}" for name, count in counts.items()])
