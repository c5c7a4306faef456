"""Check this machine: versions, and what is missing with the one command that mends it.

debeton doctor
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from debeton.tools.doctor import diagnose, print_doctor


def main(argv: Sequence[str]) -> int:
    """Print the doctor's table; return 0 if everything needed is there, else 1."""
    parser = argparse.ArgumentParser(
        description=__doc__, allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.parse_args(list(argv))
    return print_doctor(diagnose())
