#!/usr/bin/env python
"""Run a study, many runs from one YAML file, here or through SLURM: the command `debeton sweep`.

python scripts/sweep.py run dataset_configs/studies/scale_ablation.yaml --raw DIR --workers 2
"""

from debeton.commands.dispatch import run_script

if __name__ == "__main__":
    run_script("sweep")
