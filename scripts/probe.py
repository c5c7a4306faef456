#!/usr/bin/env python
"""Read source and attribute from the features of trained networks: the command `debeton probe`.

python scripts/probe.py runs/ffr_dominoes --out probes.csv
"""

from debeton.commands.dispatch import run_script

if __name__ == "__main__":
    run_script("probe")
