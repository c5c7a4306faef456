#!/usr/bin/env python
"""Try faults on purpose, and say what was lost: the package `benchmarks.faults` of this checkout, as a program.

python scripts/faults.py --minutes 10
"""

import os
import sys
from pathlib import Path

if __name__ == "__main__":
    root = Path(__file__).resolve().parents[1]
    folders = [str(root / "src"), str(root), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, folders))}
    os.execve(sys.executable, [sys.executable, "-m", "benchmarks.faults", *sys.argv[1:]], environment)
