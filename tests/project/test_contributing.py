"""CONTRIBUTING.md names files that exist."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_every_file_that_contributing_links_to_or_names_exists():
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)#:]+)\)", text)
    names = re.findall(r"`((?:src|tests|dataset_configs|writers|scripts)/[\w./]*)`", text)
    assert len(links) >= 5
    assert len(names) >= 5
    missing = [name for name in links + names if not (ROOT / name).exists()]
    assert missing == []
