"""Reports of one table and one figure, for one kind of study each."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from debeton.report.figures.plots import to_png
from debeton.report.records import load_runs
from debeton.report.runs import Setting, group_settings
from debeton.report.same_data import data_notes
from debeton.report.tables import markdown_text, remark_notes, to_latex, to_markdown
from debeton.system.errors import DataError
from debeton.system.files import write_files


@dataclass(frozen=True)
class ReportKind:
    """Report of one table and one figure.

    summary: subject of the table, for `--help`.
    stem: name of its files without suffix.
    note: text below the table.
    missing: error message if the table is empty.
    table: makes the table from the settings; it is empty if no run has the numbers.
    figure: makes the figure from the settings; None if there is nothing to draw.
    """

    summary: str
    stem: str
    note: str
    missing: str
    table: Callable[[Sequence[Setting]], pd.DataFrame]
    figure: Callable[[Sequence[Setting]], Figure | None]

    def text(self, paths: Iterable[str | Path]) -> str:
        """Return the table of the runs at `paths` and the note, as Markdown. DataError if the table is empty."""
        settings = group_settings(load_runs(paths))
        return self._markdown(self._nonempty_table(settings), self._notes(settings))

    def write(self, paths: Iterable[str | Path], out: str | Path) -> Path:
        """Write STEM.{csv,tex,png,md} to `out`, all or none, and return the path of the Markdown file."""
        settings, out = group_settings(load_runs(paths)), Path(out)
        table, figure = self._nonempty_table(settings), self.figure(settings)
        notes = self._notes(settings)
        files = {
            f"{self.stem}.csv": table.to_csv(index=False).encode(),
            f"{self.stem}.tex": to_latex(table, " ".join(notes)).encode(),
            **({f"{self.stem}.png": to_png(figure)} if figure is not None else {}),
            f"{self.stem}.md": self._markdown(table, notes).encode(),
        }
        write_files({out / name: content for name, content in files.items()})
        return out / f"{self.stem}.md"

    def _nonempty_table(self, settings: Sequence[Setting]) -> pd.DataFrame:
        """Return the table; DataError if it is empty."""
        table = self.table(settings)
        if table.empty:
            raise DataError(self.missing)
        return table

    def _notes(self, settings: Sequence[Setting]) -> list[str]:
        """Return the note on the table, notes on runs of other data, and the remarks on its runs."""
        other_data = data_notes([(setting.label, setting.runs) for setting in settings])
        return [self.note, *other_data, *remark_notes(settings)]

    def _markdown(self, table: pd.DataFrame, notes: Sequence[str]) -> str:
        return "\n".join([to_markdown(table), *map(markdown_text, notes)]) + "\n"
