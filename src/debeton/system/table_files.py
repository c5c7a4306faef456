"""Tables written as Parquet or CSV; the suffix of the name says which."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from debeton.system.errors import UsageError
from debeton.system.files import replacing

SUFFIXES = (".parquet", ".csv")


def check_table_name(path: Path | str) -> None:
    """Raise UsageError, with the end of a sentence, unless the suffix is that of a table."""
    if Path(path).suffix.lower() not in SUFFIXES:
        raise UsageError(f"'{path}' ends in none of {', '.join(SUFFIXES)}, which decide the format of the table")


def write_table(path: Path, columns: Mapping[str, Any]) -> None:
    """Write columns of one length so that `path` holds either the old table or the whole new one.

    A missing value is null in Parquet, and empty in CSV. Numbers keep all their digits.

    columns: an array or a list by column name; None in a list is a missing value.
    """
    check_table_name(path)
    with replacing(path) as (partial,):
        if path.suffix.lower() == ".csv":
            import pandas as pd

            pd.DataFrame(columns).to_csv(partial, index=False)
        else:
            import pyarrow
            from pyarrow import parquet

            parquet.write_table(pyarrow.table(dict(columns)), partial, compression="zstd")
