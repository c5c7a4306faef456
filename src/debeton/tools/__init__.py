"""Programs around training.

- doctor.py: the table of `--doctor`, with everything that debeton needs and the commands that install it.
- probe.py: linear probes of a trained network's features.
- export.py: a trained classifier as a folder to take along.
"""
