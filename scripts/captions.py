#!/usr/bin/env python
"""Name the bias of a set of synthetic images in words: the command `debeton captions`.

python scripts/captions.py RUN/synthetic --model FOLDER --out words
"""

from debeton.commands.dispatch import run_script

if __name__ == "__main__":
    run_script("captions")
