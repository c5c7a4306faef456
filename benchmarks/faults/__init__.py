"""Faults on purpose: kills, full disks, flipped bits and hostile files, and what a run loses by each.

`python scripts/faults.py --minutes 10` tries a sample of all of them.
"""
