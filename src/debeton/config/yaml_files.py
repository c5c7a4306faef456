"""YAML files that people write, read strictly: each fault is one sentence."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

from debeton.system.errors import UsageError, nearest, unknown_names
from debeton.system.regular_files import UnfitFile, read_regular_text

# libyaml's loader takes a tenth of the time, where PyYAML was built with it: a study reads thousands of files.
# It nests calls without a limit: 50,000 brackets end the process. So it reads only texts that cannot nest deeply.
FAST_LOADER: type[yaml.SafeLoader] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
FAST_BYTES, FAST_DEPTH = 1 << 16, 500
MAX_BYTES = 1 << 20  # of a text; PyYAML reads a tenth of it in a second
MAX_NUMBER = 1000  # letters of a number: Python reads 1:59:59 in quadratic time, and writes no integer of 4,300 digits
NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")
MAX_ITEMS = 100_000  # lines and commas of a text; PyYAML reads 10,000 of them in a second
MAX_VALUES = 1_000_000  # with those that aliases stand for
KINDS = {list: "a list", dict: "keys and values", str: "text", int: "a whole number"}


def parse_yaml(text: str) -> Any:
    """Return the content of a YAML or JSON text: plain values only, and no key of a mapping twice.

    PyYAML keeps the last of two equal keys, so the first one would be lost without a word. Keys are equal where Python
    finds them equal, as 1 and 1.0. Merge keys (<<) may still give values that the mapping replaces.

    Raises: yaml.YAMLError with the key, both lines and both values, as for every other fault of the text. It also names
    a text of more than MAX_BYTES or MAX_ITEMS, a number of more than MAX_NUMBER letters, and aliases that stand for
    more than MAX_VALUES values or for themselves.
    """
    if len(text) > MAX_BYTES:
        raise yaml.YAMLError(
            f"it is longer than {MAX_BYTES >> 20} MiB, which nobody writes by hand; give a shorter file"
        )
    if text.count(",") + text.count("\n") > MAX_ITEMS:
        raise yaml.YAMLError(f"it has more than {MAX_ITEMS:,} lines and commas; give a shorter file")
    if _is_flat(text):
        with suppress(yaml.YAMLError):  # the messages of the slower one show the place in the text
            return _parse(text, FAST_LOADER)
    return _parse(text, yaml.SafeLoader)


def _is_flat(text: str) -> bool:
    """Return True if a text is short, and has few marks that begin a value inside another."""
    if len(text) > FAST_BYTES or text.count("[") + text.count("{") > FAST_DEPTH:
        return False
    return all(line.count("- ") + line.count("? ") + line.count(": ") < FAST_DEPTH for line in text.splitlines())


def _parse(text: str, loader_class: type[yaml.SafeLoader]) -> Any:
    loader = loader_class("")
    try:
        loader = loader_class(text)
        root = loader.get_single_node()
        if root is None:
            return None
        _count_values(root, {})
        _refuse_repeated_keys(loader, root, "", set())
        return loader.construct_document(root)
    except RecursionError:
        raise yaml.YAMLError("it nests lists or mappings too deeply to be read; write it flatter") from None
    except (ValueError, KeyError, TypeError, AttributeError, ArithmeticError) as error:
        # Of a value whose tag or form promises another kind, such as the date 2001-13-01 or '!!int x'.
        raise yaml.YAMLError(f"a value cannot be read as what its form or its tag says ({error}); quote it") from None
    finally:
        loader.dispose()


def _count_values(node: yaml.Node, counts: dict[int, int]) -> int:
    """Return the number of values of a node, where each alias counts all values that it stands for.

    A few lines of aliases of aliases stand for more values than a memory holds. Whatever walks over them, such as a
    message, a copy or a merge, would never end.

    counts: by the id of a node that was counted; 0 while it is being counted.

    Raises: yaml.YAMLError beyond MAX_VALUES, for an alias within its own anchor, or for a number beyond MAX_NUMBER.
    """
    if id(node) in counts:
        if not counts[id(node)]:
            raise yaml.YAMLError(
                f"the alias on line {node.start_mark.line + 1} stands for a value that it is part of; write it out"
            )
        return counts[id(node)]
    counts[id(node)] = 0
    parts: list[yaml.Node] = []
    if isinstance(node, yaml.ScalarNode) and node.tag in NUMBERS and len(node.value) > MAX_NUMBER:
        raise yaml.YAMLError(
            f"the number on line {node.start_mark.line + 1} has {len(node.value):,} letters; quote it if it is text"
        )
    if isinstance(node, yaml.SequenceNode):
        parts = node.value
    elif isinstance(node, yaml.MappingNode):
        parts = [part for pair in node.value for part in pair]
    total = 1 + sum(_count_values(part, counts) for part in parts)
    if total > MAX_VALUES:
        raise yaml.YAMLError(
            f"the aliases on and below line {node.start_mark.line + 1} stand for more than {MAX_VALUES:,} values; "
            "write the values out"
        )
    counts[id(node)] = total
    return total


def _refuse_repeated_keys(loader: yaml.SafeLoader, node: yaml.Node, place: str, seen: set[int]) -> None:
    """Raise yaml.YAMLError for the first key that stands twice in one mapping.

    loader: makes values of keys.
    node: the node to check, with all nodes below it. Merge keys are not yet resolved in it.
    place: dotted keys above the node, for the message.
    seen: nodes that are checked already; an alias is the node of its anchor.
    """
    if id(node) in seen:
        return
    seen.add(id(node))
    if isinstance(node, yaml.SequenceNode):
        for item in node.value:
            _refuse_repeated_keys(loader, item, place, seen)
    elif isinstance(node, yaml.MappingNode):
        first: dict[Any, tuple[yaml.Node, yaml.Node]] = {}
        for key_node, value_node in node.value:
            _refuse_repeated_keys(loader, value_node, f"{place}{key_node.value}.", seen)
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = loader.construct_object(key_node, deep=True)
            if not isinstance(key, Hashable):
                continue  # the construction of the mapping refuses it
            if key in first:
                places = " and ".join(
                    f"on line {k.start_mark.line + 1} ({_shown(v)})" for k, v in (first[key], (key_node, value_node))
                )
                raise yaml.YAMLError(f"the key '{place}{key_node.value}' is given twice, {places}; remove one of them")
            first[key] = key_node, value_node


def _shown(node: yaml.Node) -> str:
    """Return a value as an error message shows it."""
    if isinstance(node, yaml.ScalarNode):
        return str(node.value)
    return KINDS[list if isinstance(node, yaml.SequenceNode) else dict]


def read_text(path: Path) -> str:
    """Return the text of a YAML file.

    UnfitFile where it is no regular file or has more than MAX_BYTES, UnicodeDecodeError where it is no UTF-8.
    """
    return read_regular_text(path, max_bytes=MAX_BYTES)


def read_mapping(path: Path, kind: str, expected: str, hint: str = "") -> dict[str, Any]:
    """Return the keys and values of a YAML or JSON file; none of an empty one.

    kind: the kind of file for messages, such as 'config file'.
    expected: the content that the file should have, for messages.
    hint: a place of similar files, for the message about a missing file.

    Raises: UsageError where the file is missing, cannot be read or holds anything else.
    """
    try:
        content = parse_yaml(read_text(path))
    except FileNotFoundError:
        raise UsageError(f"no {kind} at {path}{hint and f'; {hint}'}") from None
    except UnfitFile as error:
        raise UsageError(f"{kind} {error}") from None
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
    """Raise UsageError with all unknown keys, each with the nearest known one."""
    known = list(known)
    unknown = {str(key): nearest(str(key), known) for key in values if key not in known}
    if unknown:
        raise UsageError(f"{where}: {unknown_names('key', unknown)} known: {', '.join(known)}")
