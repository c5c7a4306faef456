"""Synthetic image sets: what is asked for (prompts), who makes it (generators), what is kept (filters, image sets).

A generator is a module here that adds itself to GENERATORS; importing this package finds them all.
"""

from __future__ import annotations

import importlib
import pkgutil

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")
