"""The commands of the pages under docs/, run as a reader would type them.

A block of a page that begins with ```bash NAME is run by `run_block("page.md", "NAME")`, in this process and in the
current folder. A block without a name is not run.
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from debeton.commands import dispatch
from debeton.system.errors import run_command

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = {
    "main.py": "train",
    "writers/write_betons.py": "write-betons",
    "writers/generate_images.py": "generate",
    **{f"scripts/{name}.py": name for name in ("sweep", "report", "evaluate", "predict", "captions", "probe")},
}


def block(page: str, name: str) -> str:
    """Return the text of the one block called `name` of a page, such as 'own_data.md' or '../README.md'."""
    text = (ROOT / "docs" / page).read_text()
    (found,) = re.findall(rf"^```\w+ {re.escape(name)}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    return found


def commands_of(page: str, name: str) -> list[list[str]]:
    """Return the commands of a block, each as the words after `debeton`. Comments are left out."""
    commands = []
    for line in block(page, name).replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        if not words:
            continue
        words = words[2:] if words[:2] == ["python", "-m"] else words[1:] if words[0] == "python" else words
        if words[0] in ("debeton", *SCRIPTS):
            words = words[1:] if words[0] == "debeton" else [SCRIPTS[words[0]], *words[1:]]
        else:
            raise ValueError(f"docs/{page}, block {name}: '{line}' is no command of debeton")
        commands.append([str(ROOT / word) if word.startswith("dataset_configs/") else word for word in words])
    return commands


def run_block(page: str, name: str, *extra: str) -> None:
    """Run the commands of a block in the current folder, and fail at the first one that fails.

    extra: words appended to every `train` command, such as '--training.epochs', '1' to keep a test short.
    """
    for words in commands_of(page, name):
        words = [*words, *extra] if words[0] == "train" else words
        status = run_command(lambda words=words: dispatch.main(words))
        assert status == 0, f"docs/{page}, block {name}: 'debeton {shlex.join(words)}' ended with {status}"
