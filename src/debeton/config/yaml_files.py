"""YAML files that people write, read strictly: each fault is one sentence."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from debeton.system.errors import UsageError, nearest

KINDS = {list: "a list", dict: "keys and values", str: "text", int: "a whole number"}


def read_mapping(path: Path, kind: str, expected: str, hint: str = "") -> dict[str, Any]:
    """Return the keys and values of a YAML or JSON file; none of an empty one.

    kind: the kind of file for messages, such as 'config file'.
    expected: the content that the file should have, for messages.
    hint: a place of similar files, for the message about a missing file.

    Raises: UsageError where the file is missing, cannot be read or holds anything else.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError(f"no {kind} at {path}{hint and f'; {hint}'}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{kind} {path} cannot be read: {error}") from None
    except yaml.YAMLError as error:
        raise UsageError(f"{kind} {path} is not valid YAML: {' '.join(str(error).split())}") from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise UsageError(f"{kind} {path} holds {type(content).__name__}; expected {expected}")
    return content


def check_kinds(values: Mapping[str, Any], kinds: Mapping[str, tuple[type, ...]], where: str) -> None:
    """Check keys as `check_keys` does, and each value against the kinds of its key; a null value passes.

    kinds: the types that each key may have, of those in KINDS.

    Raises: UsageError for the first value that has none of them.
    """
    check_keys(values, kinds, where)
    for key, value in values.items():
        if value is not None and not isinstance(value, kinds[key]):
            expected = " or ".join(KINDS[kind] for kind in kinds[key])
            raise UsageError(f"{where}: {key} is {value!r}; expected {expected}")


def check_keys(values: Mapping[str, Any], known: Iterable[str], where: str) -> None:
    """Raise UsageError for the first unknown key, with the nearest known one."""
    known = list(known)
    for key in values:
        if key not in known:
            raise UsageError(f"{where}: unknown key '{key}'{nearest(str(key), known)} known: {', '.join(known)}")
