"""The record of each image on its way into a beton: kept, repaired, stored as pixels, or encoded.

The sidecar lists equal treatments with their number under image.stored, and the writer prints them in one line.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

AS_IT_IS, REPAIRED, PIXELS, ENCODED, UNKNOWN = "as it is", "repaired", "raw pixels", "encoded", "not recorded"
STORED = (AS_IT_IS, REPAIRED, PIXELS, ENCODED, UNKNOWN)  # in the order of the printed line


@dataclass(frozen=True)
class Treatment:
    """The treatment of one image.

    source: the format of the source, such as 'JPEG' or 'PNG', or 'array'.
    stored: one of STORED. A repaired JPEG has other header bytes and the same pixels.
    changes: the changes to the picture before it was stored, such as 'CMYK' or 'larger than 512'.
    quality: of the JPEG, if it was encoded.
    chroma: the resolution of its colours, '4:4:4' (whole) or '4:2:0' (half of each side), if it was encoded.
    """

    source: str
    stored: str
    changes: tuple[str, ...] = ()
    quality: int | None = None
    chroma: str | None = None


def count_treatments(counts: Mapping[Treatment, int]) -> list[dict[str, Any]]:
    """Return the entries of the sidecar: each treatment once, with its number of images, in the order of STORED."""
    ordered = sorted(counts.items(), key=lambda item: (STORED.index(item[0].stored), -item[1], str(item[0])))
    return [{"images": n, **asdict(t), "changes": list(t.changes)} for t, n in ordered]


def read_treatments(entries: Iterable[Mapping[str, Any]]) -> Counter[Treatment]:
    """Return the number of images by treatment from the entries of a sidecar."""
    counts: Counter[Treatment] = Counter()
    for entry in entries:
        values = {key: value for key, value in entry.items() if key != "images"}
        counts[Treatment(**{**values, "changes": tuple(values["changes"])})] += entry["images"]
    return counts


def describe_treatments(entries: Sequence[Mapping[str, Any]]) -> str:
    """Return the entries of a sidecar as words: '990 JPEGs as they are, 8 re-encoded at quality 90, ...'."""
    parts: dict[tuple[str, int | None, str | None], list[Mapping[str, Any]]] = {}
    for entry in entries:
        parts.setdefault((entry["stored"], entry["quality"], entry["chroma"]), []).append(entry)
    return ", ".join(_part(*key, some) for key, some in parts.items())


def _part(stored: str, quality: int | None, chroma: str | None, entries: Sequence[Mapping[str, Any]]) -> str:
    count = sum(entry["images"] for entry in entries)
    if stored == AS_IT_IS:
        return f"{count} JPEG{'s' * (count != 1)} as {'they are' if count != 1 else 'it is'}"
    if stored == REPAIRED:
        return f"{count} JPEG{'s' * (count != 1)} with repaired headers and the same pixels"
    if stored == UNKNOWN:
        return f"{count} of unknown treatment"
    what = "as raw pixels" if stored == PIXELS else f"re-encoded at quality {quality}, chroma {chroma}"
    shown = [(entry["images"], _label(entry)) for entry in entries]
    kinds = shown[0][1] if len(shown) == 1 else ", ".join(f"{n} {label}" for n, label in shown)
    return f"{count} {what} ({kinds})"


def _label(entry: Mapping[str, Any]) -> str:
    """Return the words for the images of one entry: their format, and what was changed."""
    changes = " and ".join(entry["changes"])
    if changes and entry["source"] == "JPEG" and entry["stored"] == ENCODED:
        return changes
    return f"{entry['source']} {changes}" if changes else str(entry["source"])
