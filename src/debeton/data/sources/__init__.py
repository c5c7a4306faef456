"""Data sets in the layouts that their owners publish, one module each. Importing this package registers all of them.

The docstring of a module is the data sheet: paper, licence, layout, splits and metric. RAW is the value of `--raw`.
A new data set is one new module here that calls `register_source` (data/raw/source.py).
"""

from __future__ import annotations

import importlib
import pkgutil

from debeton.data.raw.source import SOURCES, Dataset, Option, Request, Source, register_source

__all__ = ["SOURCES", "Dataset", "Option", "Request", "Source", "register_source"]

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")
