#!/usr/bin/env python
"""Classify a folder of images with a trained network, or export the network: the command `debeton predict`.

python scripts/predict.py --checkpoint RUN --images DIR --out predictions.csv
"""

from debeton.commands.dispatch import run_script

if __name__ == "__main__":
    run_script("predict")
