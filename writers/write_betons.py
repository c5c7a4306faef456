#!/usr/bin/env python
"""Write a data set as betons, one per split, with their sidecars: the command `debeton write-betons`.

python writers/write_betons.py --dataset dominoes --raw DIR --out BETONS
"""

from debeton.commands.dispatch import run_script

if __name__ == "__main__":
    run_script("write-betons")
