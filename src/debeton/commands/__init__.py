"""Commands: one module for each word after `debeton`, with `main(argv)` that returns the exit status.

`dispatch.py` is the command `debeton`. The scripts of a checkout (`main.py`,
`writers/*.py`, `scripts/*.py`) start the same modules.
"""
