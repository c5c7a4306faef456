"""Generators of synthetic images, one module each. Importing this package registers all of them.

To add a generator, write a new module here that adds itself to GENERATORS (`generate/generators/generator.py`).

generator: the protocol, the registry, and helpers for model folders.
stable_diffusion: text-to-image models of diffusers.
cdpm: the project's own diffusion model.
halves: eigenimages of the two halves of a stacked image, for dominoes.
folder: images that were made elsewhere.
"""

from __future__ import annotations

import importlib
import pkgutil

from debeton.generate.generators.generator import (
    GENERATORS,
    Generator,
    GeneratorFactory,
    ImageRequest,
    add_model_arguments,
)

__all__ = ["GENERATORS", "Generator", "GeneratorFactory", "ImageRequest", "add_model_arguments"]

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")
