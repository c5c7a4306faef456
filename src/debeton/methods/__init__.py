"""Methods, one module each. Importing this package registers them all.

Adding a method is one new module here that calls `register_method` (`methods/method.py`); nothing else names it.
"""

from __future__ import annotations

import importlib
import pkgutil

from debeton.methods.method import METHODS, Method, register_method, train

__all__ = ["METHODS", "Method", "register_method", "train"]

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")
