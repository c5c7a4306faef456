#!/usr/bin/env python
"""Train and evaluate: the command `debeton train`.

python main.py --config-file dataset_configs/dominoes.yaml --training.method resample --training.seed 1
"""

import sys

try:
    from debeton.commands.dispatch import run_script
    from debeton.commands.train import main, parse
except ModuleNotFoundError as error:
    if error.name != "debeton":
        raise
    sys.exit(
        f"error: the package debeton is not installed for {sys.executable}\n"
        "  install it with: bash scripts/setup.sh    and start: .venv/bin/python main.py\n"
        "  or in conda:     pip install --no-deps --no-build-isolation -e ."
    )

__all__ = ["main", "parse"]

if __name__ == "__main__":
    run_script("train")
