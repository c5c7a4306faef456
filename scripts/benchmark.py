#!/usr/bin/env python
"""Measure something and record it as JSON: the package `benchmarks` of this checkout, as a program.

python scripts/benchmark.py loader --json loader.json
python scripts/benchmark.py --check [NAME...]      measure the guarded ones again; status 1 where one became slower
"""

import os
import sys
from pathlib import Path

if __name__ == "__main__":
    folders = [str(Path(__file__).resolve().parents[1]), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, folders))}
    os.execve(sys.executable, [sys.executable, "-m", "benchmarks", *sys.argv[1:]], environment)
