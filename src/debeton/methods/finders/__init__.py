"""The group finders, one module each. Importing this package registers all of them.

A new finder is one new module here that calls `register_finder` (`methods/finder.py`). No other file names it.
"""

from __future__ import annotations

import importlib
import pkgutil

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")
