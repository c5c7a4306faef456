"""Reports of one table and one figure, each of a kind of study: what they share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from debeton.report.figures.plots import to_png
from debeton.report.records import load_runs
from debeton.report.runs import Setting, group_settings
from debeton.report.tables import to_latex, to_markdown
from debeton.system.errors import DataError
from debeton.system.files import write_files


@dataclass(frozen=True)
class ReportKind:
    """summary: what the table is of. stem: of its files' names. note: stands below the table. missing: the error where
    no run has what the table is of, and `table` gives an empty one."""

    summary: str
    stem: str
    note: str
    missing: str
    table: Callable[[Sequence[Setting]], pd.DataFrame]
    figure: Callable[[Sequence[Setting]], Figure | None]

    def text(self, paths: Iterable[str | Path]) -> str:
        """The table of the runs at `paths`, and the note, as Markdown."""
        return self._markdown(self._filled(group_settings(load_runs(paths))))

    def write(self, paths: Iterable[str | Path], out: str | Path) -> Path:
        """STEM.{csv,tex,png,md} in `out`, all or none; returns the path of the Markdown."""
        settings, out = group_settings(load_runs(paths)), Path(out)
        table, figure = self._filled(settings), self.figure(settings)
        files = {
            f"{self.stem}.csv": table.to_csv(index=False).encode(),
            f"{self.stem}.tex": to_latex(table, self.note).encode(),
            **({f"{self.stem}.png": to_png(figure)} if figure is not None else {}),
            f"{self.stem}.md": self._markdown(table).encode(),
        }
        write_files({out / name: content for name, content in files.items()})
        return out / f"{self.stem}.md"

    def _filled(self, settings: Sequence[Setting]) -> pd.DataFrame:
        table = self.table(settings)
        if table.empty:
            raise DataError(self.missing)
        return table

    def _markdown(self, table: pd.DataFrame) -> str:
        return f"{to_markdown(table)}\n{self.note}\n"
