"""Generators of images, one module each. Importing this package registers them all.

Adding a generator is one new module here that adds itself to GENERATORS (`generate/generators/generator.py`).
"""

from __future__ import annotations

import importlib
import pkgutil

from debeton.generate.generators.generator import GENERATORS, Generator, Maker, Order, add_model_arguments

__all__ = ["GENERATORS", "Generator", "Maker", "Order", "add_model_arguments"]

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")
