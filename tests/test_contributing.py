"""The diffs that CONTRIBUTING.md shows are the files that they are of."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def test_every_diff_in_contributing_is_the_file_as_it_stands():
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    parts = re.findall(r"^--- (\S+)\n\+\+\+ b/(\S+)\n((?:[+@].*\n)+)", text, re.MULTILINE)
    assert len(parts) == text.count("\n+++ b/") == 4
    for before, name, lines in parts:
        shown = "".join(line[1:] + "\n" for line in lines.splitlines() if line.startswith("+"))
        content = (ROOT / name).read_text(encoding="utf-8")
        if before == "/dev/null":
            assert shown == content, name
        else:
            assert shown in content, name
