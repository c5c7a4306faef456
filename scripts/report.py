#!/usr/bin/env python
"""Make tables, figures and one page of finished runs: the command `debeton report`.

python scripts/report.py runs/ --out runs/report
"""

from debeton.commands.dispatch import run_script

if __name__ == "__main__":
    run_script("report")
