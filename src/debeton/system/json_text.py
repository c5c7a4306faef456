"""JSON as text. Python would write NaN and Infinity, which JSON does not have and other programs refuse."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from debeton.system.errors import DataError


def json_text(content: Mapping[str, Any], file: object, *, indent: int | None = None) -> str:
    """Return an object as JSON. DataError names the key of a number that is NaN or infinite.

    file: named in the message.
    """
    try:
        return json.dumps(content, indent=indent, allow_nan=False)
    except ValueError:
        found = next(_not_finite(content, ""), None)
        if found is None:  # a bug, such as an object that holds itself
            raise
        key, value = found
        raise DataError(
            f"{file} is not written: {key} is {value}, and JSON has no such number; training may have diverged (train "
            "with a lower --training.lr), or a method gives this for a value that is not defined (it should give None)"
        ) from None


def _not_finite(value: Any, key: str) -> Iterator[tuple[str, float]]:
    """Yield the key and the value of each number that is NaN or infinite."""
    if isinstance(value, float) and not math.isfinite(value):
        yield key, value
    elif isinstance(value, Mapping):
        for name, one in value.items():
            yield from _not_finite(one, f"{key}.{name}" if key else str(name))
    elif isinstance(value, Sequence) and not isinstance(value, str):
        for i, one in enumerate(value):
            yield from _not_finite(one, f"{key}[{i}]")
