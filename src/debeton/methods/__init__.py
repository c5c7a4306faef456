"""The methods and the group finders, one module each. Importing this package registers all of them.

A new method is one new module here that calls `register_method` (`methods/method.py`). No other file names it.
"""

from __future__ import annotations

import importlib
import pkgutil

from debeton.methods.finder import FINDERS, Finder, Found, Groups, found_groups, register_finder
from debeton.methods.method import METHODS, Method, check, outline, register_method, run_method, sections_of, train

__all__ = [
    "FINDERS",
    "METHODS",
    "Finder",
    "Found",
    "Groups",
    "Method",
    "check",
    "found_groups",
    "outline",
    "register_finder",
    "register_method",
    "run_method",
    "sections_of",
    "train",
]

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")
