"""Methods, one module each; importing this package registers them all.

A method is a short function of a Run that returns the trained model. Adding one is a new module here that
calls `register_method`; nothing else names it.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from debeton.registry import Registry
from debeton.run import Run


@dataclass(frozen=True)
class Method:
    """paper: where it comes from. needs: which columns of the training rows it looks at."""

    run: Callable[[Run], nn.Module]
    paper: str
    needs: str


METHODS: Registry[Method] = Registry("method")


def register_method(
    name: str, summary: str, *, paper: str, needs: str
) -> Callable[[Callable[[Run], nn.Module]], Callable[[Run], nn.Module]]:
    """Decorator that registers `run -> trained model` under `name`."""

    def decorate(run: Callable[[Run], nn.Module]) -> Callable[[Run], nn.Module]:
        METHODS.add(name, Method(run, paper, needs), summary)
        return run

    return decorate


for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")
