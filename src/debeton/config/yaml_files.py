"""YAML files that people write, read strictly: each fault is one sentence."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from debeton.system.errors import UsageError, nearest, unknown_names

# libyaml's loader takes a tenth of the time, where PyYAML was built with it: a study reads thousands of files.
FAST_LOADER: type[yaml.SafeLoader] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
KINDS = {list: "a list", dict: "keys and values", str: "text", int: "a whole number"}


def parse_yaml(text: str) -> Any:
    """Return the content of a YAML or JSON text: plain values only, and no key of a mapping twice.

    PyYAML keeps the last of two equal keys, so the first one would be lost without a word. Keys are equal where Python
    finds them equal, as 1 and 1.0. Merge keys (<<) may still give values that the mapping replaces.

    Raises: yaml.YAMLError with the key, both lines and both values, as for every other fault of the text.
    """
    try:
        return _parse(text, FAST_LOADER)
    except yaml.YAMLError:  # the messages of the slower one show the place in the text
        return _parse(text, yaml.SafeLoader)


def _parse(text: str, loader_class: type[yaml.SafeLoader]) -> Any:
    loader = loader_class(text)
    try:
        root = loader.get_single_node()
        if root is None:
            return None
        _refuse_repeated_keys(loader, root, "", set())
        return loader.construct_document(root)
    finally:
        loader.dispose()


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


def read_mapping(path: Path, kind: str, expected: str, hint: str = "") -> dict[str, Any]:
    """Return the keys and values of a YAML or JSON file; none of an empty one.

    kind: the kind of file for messages, such as 'config file'.
    expected: the content that the file should have, for messages.
    hint: a place of similar files, for the message about a missing file.

    Raises: UsageError where the file is missing, cannot be read or holds anything else.
    """
    try:
        content = parse_yaml(path.read_text(encoding="utf-8"))
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
    """Raise UsageError with all unknown keys, each with the nearest known one."""
    known = list(known)
    unknown = {str(key): nearest(str(key), known) for key in values if key not in known}
    if unknown:
        raise UsageError(f"{where}: {unknown_names('key', unknown)} known: {', '.join(known)}")
