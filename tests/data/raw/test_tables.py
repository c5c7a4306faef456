"""Tables of text: whatever a CSV writer writes is read back, with each separator and each end of line."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from debeton.data.raw.tables import read_table
from debeton.system.errors import DataError

CELLS = st.text(st.sampled_from('ab ,;"\t\n1'), max_size=5).map(str.strip)
NAMES = st.lists(
    st.text("abc ", min_size=1, max_size=4).map(str.strip).filter(bool), min_size=2, max_size=4, unique=True
)


@given(NAMES, st.data(), st.sampled_from(",;\t"), st.sampled_from(["\n", "\r\n"]), st.booleans())
def test_a_table_is_read_as_it_was_written(names, data, separator, end, all_quoted):
    row = st.lists(CELLS, min_size=len(names), max_size=len(names)).filter(any)
    rows = data.draw(st.lists(row, min_size=1, max_size=4))
    text = io.StringIO(newline="")
    quoting = csv.QUOTE_ALL if all_quoted else csv.QUOTE_MINIMAL
    csv.writer(text, delimiter=separator, lineterminator=end, quoting=quoting).writerows([names, *rows])
    table = read_table(Path("rows.csv"), text.getvalue())
    assert list(table.cells) == names
    assert [list(cells) for cells in zip(*table.cells.values())] == rows
    assert len(table) == len(rows)


def test_a_file_that_is_one_long_text_is_no_table():
    with pytest.raises(DataError, match=r"rows.csv is not a CSV file in UTF-8 \(line 1: field larger than field limit"):
        read_table(Path("rows.csv"), "x" * 200_000)
