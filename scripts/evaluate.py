#!/usr/bin/env python
"""Measure any classifier on any groups: the command `debeton evaluate`.

python scripts/evaluate.py --checkpoint RUN --data BETON
"""

from debeton.commands.dispatch import run_script

if __name__ == "__main__":
    run_script("evaluate")
