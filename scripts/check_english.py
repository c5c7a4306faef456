#!/usr/bin/env python3
"""Check that docstrings are easy to read: short sentences, and a first line that says what is done.

python scripts/check_english.py            the whole project
python scripts/check_english.py src/debeton/train

The rules: at most 30 words in a sentence, at most 20 in the first line. A function's docstring begins with a verb, not
with an article; no docstring begins with What, How, Whether, Where or Which. Status 1 if a docstring breaks a rule.
"""

from __future__ import annotations

import argparse
import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("src", "benchmarks", "scripts", "writers", "tests", "main.py")
SENTENCE, FIRST_LINE = 30, 20  # words
QUESTIONS = ("What", "How", "Whether", "Where", "Which")
ARTICLES = ("The", "A", "An")
# A sentence ends at punctuation, at a blank line, and before a list item or the explanation of a parameter.
ENDS = re.compile(r"(?<=[.;:?!])\s+|\n\s*\n|\n\s*[-*] |\n\s*(?=[\w, ]{1,40}: )")

# A line that shows a command is no sentence.
COMMAND = re.compile(r"^\s*(python|debeton|torchrun|bash|sbatch) .*$", re.MULTILINE)

Function = ast.FunctionDef | ast.AsyncFunctionDef


def words(text: str) -> int:
    """Return the number of words: pieces of text that hold a letter or a digit."""
    return sum(any(c.isalnum() for c in piece) for piece in text.split())


def is_property(node: ast.AST) -> bool:
    """Return True for a property, whose docstring may be a noun."""
    names = [ast.unparse(decorator) for decorator in getattr(node, "decorator_list", [])]
    return any(name.endswith("property") for name in names)


def faults(node: ast.AST, *, is_test: bool) -> Iterator[str]:
    """Yield the rules that a docstring breaks, one sentence each."""
    docstring = ast.get_docstring(node) if isinstance(node, ast.Module | ast.ClassDef | Function) else None
    if not docstring:
        return
    first = docstring.splitlines()[0]
    begin = first.split()[0].rstrip(",.:") if first.split() else ""
    if begin in QUESTIONS:
        yield f"begins with '{begin}'; begin with a verb (function) or a noun (class, module)"
    if isinstance(node, Function) and begin in ARTICLES and not is_property(node) and not is_test:
        yield f"begins with '{begin}'; begin with a verb, such as Return"
    if words(first) > FIRST_LINE:
        yield f"has {words(first)} words in its first line; at most {FIRST_LINE}"
    for sentence in ENDS.split(COMMAND.sub("\n", docstring)):
        if words(sentence) > SENTENCE:
            start = " ".join(sentence.split()[:8])
            yield f"has a sentence of {words(sentence)} words: '{start} ...'; at most {SENTENCE}"


def check(path: Path) -> list[str]:
    """Return the faults of one file's docstrings, with their places."""
    tree = ast.parse(path.read_text(encoding="utf-8"), str(path))
    is_test = "tests" in path.parts
    name = path.relative_to(ROOT) if path.is_relative_to(ROOT) else path
    return [
        f"{name}:{getattr(node, 'lineno', 1)}: the docstring of {getattr(node, 'name', 'the module')} {fault}"
        for node in ast.walk(tree)
        for fault in faults(node, is_test=is_test)
    ]


def main(argv: list[str]) -> int:
    """Check the files and print what is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("paths", nargs="*", type=Path, help="files and folders; default: the whole project")
    given = parser.parse_args(argv).paths or [ROOT / folder for folder in FOLDERS]
    files = [file for path in given for file in (sorted(path.rglob("*.py")) if path.is_dir() else [path])]
    if not files:
        print("error: no Python file there", file=sys.stderr)
        return 2
    lines = [line for file in files for line in check(file.resolve())]
    print("\n".join(lines) if lines else f"the docstrings of {len(files)} files are short and clear")
    return int(bool(lines))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
