"""Patterns of paths, such as '{split}/{class}/{attribute}/*': the tables that the folders and names of images hold.

A name in braces is a part of one level of the path and becomes a column; `*`, `?`, `[...]` and `**` are those of globs.
Each part is as short as it can be, from left to right: '{class}_*' reads 'cat_1_2.png' as the class 'cat'.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from debeton.data.left_out import LeftOut, left_out
from debeton.data.raw.image_files import ImageTree
from debeton.data.raw.other_files import other_files, visible_images
from debeton.data.raw.tables import Table
from debeton.system.errors import DataError, UsageError, nearest

NOT_FITTING = "images that the pattern does not fit"
SHOWN = 4  # real paths in messages
PIECE = re.compile(r"\{(?P<name>[^{}]*)\}|(?P<star>\*+)|(?P<any>\?)|\[(?P<set>!?\]?[^\]]*)\]|(?P<text>.)", re.DOTALL)
CLASS_NAMES = ("class", "label")  # names in braces for the label; of two the first


@dataclass(frozen=True)
class PathTable:
    """The table that a pattern reads from the paths of a tree.

    table: with the column 'path' and one for each name in braces.
    roles: the column of each role.
    left_out: everything else in the tree.
    notes: a sentence that shows how the first path was read.
    """

    table: Table
    roles: dict[str, str]
    left_out: tuple[LeftOut, ...]
    notes: tuple[str, ...]


def read_pattern(tree: ImageTree, pattern: str) -> PathTable:
    """Return the images whose path fits a pattern.

    UsageError for a pattern without {class} or one that cannot be read; DataError if no image fits.
    """
    listing = tree.listing()
    images = visible_images(listing)
    expression = compile_pattern(pattern, images)
    matches = [(path, match) for path in images if (match := expression.fullmatch(path))]
    if not matches:
        raise DataError(_explain_no_match(tree, pattern, images))
    names = list(expression.groupindex)
    columns = {_column(name): [match[name] for _, match in matches] for name in names}
    paths = [path for path, _ in matches]
    first = ", ".join(f"{column} {cells[0]}" for column, cells in columns.items())
    fitting = set(paths)
    return PathTable(
        Table(str(tree.root), {"path": paths, **columns}, paths),
        {
            "path": "path",
            "label": next(name for name in CLASS_NAMES if name in columns),
            **{role: role for role in ("attribute", "split") if role in columns},
        },
        (*left_out(NOT_FITTING, [path for path in images if path not in fitting]), *other_files(listing)),
        (f"--pattern reads {len(paths)} of {len(images)} images, the first, {paths[0]}, as {first}",),
    )


def compile_pattern(pattern: str, examples: list[str]) -> re.Pattern[str]:
    """Return the expression of a pattern over whole paths. Column NAME is its group `_NAME`.

    examples: real paths, of which messages show some.
    """
    levels = [level for level in pattern.split("/") if level != "."]
    if pattern.startswith("/") or ".." in levels or "" in levels[:-1]:
        raise UsageError(f"--pattern '{pattern}' is no path below --raw; {_shown(examples)}")
    names: list[str] = []
    text = ""
    for number, level in enumerate(levels, start=1):
        is_last = number == len(levels)
        if level == "**":
            text += "(?:[^/]+/)*" + ("[^/]+" if is_last else "")
        else:
            text += _level_expression(level, names, pattern, examples) + ("" if is_last else "/")
    if not set(CLASS_NAMES) & set(names):
        raise UsageError(
            f"--pattern '{pattern}' has no {{class}}; put it in the place of the class, as in "
            f"'{{class}}/{{attribute}}/*'; {_shown(examples)}"
        )
    try:
        return re.compile(text, re.DOTALL)
    except re.error as error:
        raise UsageError(f"--pattern '{pattern}' cannot be read ({error.msg}); {_shown(examples)}") from None


def _level_expression(level: str, names: list[str], pattern: str, examples: list[str]) -> str:
    """Return the expression of one level of a path; add its names in braces to `names`."""
    text = ""
    for piece in PIECE.finditer(level):
        name = piece["name"]
        if name is not None:
            if not re.fullmatch(r"[^\W\d]\w*", name) or name == "path":
                raise UsageError(
                    f"--pattern '{pattern}': '{{{name}}}' is no name of a column; expected letters, digits and '_', as "
                    f"in {{class}}{nearest(name, ('split', 'class', 'attribute'))} {_shown(examples)}"
                )
            text += f"(?P=_{name})" if name in names else f"(?P<_{name}>[^/]+?)"
            names.append(name)
        elif piece["star"]:
            text += "[^/]*?"
        elif piece["any"]:
            text += "[^/]"
        elif piece["set"] is not None:
            inner = piece["set"].replace("\\", r"\\")
            text += f"(?!/)[{'^' + inner[1:] if inner.startswith('!') else inner.replace('^', chr(92) + '^')}]"
        else:
            text += re.escape(piece["text"])
    if level.count("{") != level.count("}") or "{" in re.sub(r"\{[^{}]*\}", "", level):
        raise UsageError(f"--pattern '{pattern}': a brace in '{level}' has no partner; {_shown(examples)}")
    return text


def _column(group: str) -> str:
    return group[1:]


def _explain_no_match(tree: ImageTree, pattern: str, images: list[str]) -> str:
    """Return the error for a pattern that no image fits."""
    if not images:
        return f"folder: no image in {tree.root}; --pattern says where the images of --raw lie below it"
    levels = sorted({path.count("/") + 1 for path in images})
    wanted = pattern.removeprefix("./").count("/") + 1
    depth = (
        f"; it has {wanted} levels and their paths {' or '.join(map(str, levels))}"
        if "**" not in pattern and wanted not in levels
        else ""
    )
    return (
        f"folder: --pattern '{pattern}' fits none of the {len(images)} images in {tree.root}{depth}; {_shown(images)}"
    )


def _shown(paths: list[str]) -> str:
    """Return a sentence with a few real paths, spread over all of them."""
    if not paths:
        return "there is no image"
    step = max(1, len(paths) // SHOWN)
    shown = list(dict.fromkeys(paths[::step][:SHOWN]))
    return f"real paths: {', '.join(shown)}"
