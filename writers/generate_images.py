#!/usr/bin/env python
"""Make synthetic images of every group of a data set: the command `debeton generate`.

python writers/generate_images.py --dataset celeba_hq --out GENERATED --per-cell 10000
"""

from debeton.commands.dispatch import run_script

if __name__ == "__main__":
    run_script("generate")
