"""Methods, one module each; importing this package registers them all.

A method is a short function of a Run that returns the trained model. Adding one is a new module here that
calls `register_method`; nothing else names it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from torch import nn

from debeton.config import imply
from debeton.system.errors import UsageError
from debeton.system.registry import Registry
from debeton.train.run import Run


@dataclass(frozen=True)
class Method:
    """paper: where it comes from. needs: which columns of the training rows it looks at. classifies: off for one that
    trains no classifier, and whose `run` returns None. sections: of the configuration, beside one of its own name, that
    say what it does."""

    run: Callable[[Run], nn.Module | None]
    paper: str
    needs: str
    classifies: bool = True
    sections: tuple[str, ...] = ()


Trainer = TypeVar("Trainer", bound=Callable[[Run], nn.Module | None])
METHODS: Registry[Method] = Registry("method")


def register_method(
    name: str,
    summary: str,
    *,
    paper: str,
    needs: str,
    classifies: bool = True,
    sections: tuple[str, ...] = (),
    implies: Mapping[str, Any] | None = None,
) -> Callable[[Trainer], Trainer]:
    """Decorator that registers `run -> trained model` under `name`.

    sections: see `Method`. implies: settings of other sections that are the method, such as {'synthetic.mode': 'ffr'}.
    """

    def decorate(run: Trainer) -> Trainer:
        METHODS.add(name, Method(run, paper, needs, classifies, sections), summary)
        if implies:
            imply("training.method", name, implies)
        return run

    return decorate


def train(run: Run) -> nn.Module | None:
    """The model that the run's method trains, from the weights of a first phase where the views have one (FFR)."""
    from debeton.methods.ffr import first_phase

    method = METHODS.get(run.config.training.method)
    run.sections = method.sections
    if "first" in run.views:
        if not method.classifies:
            raise UsageError(
                f"synthetic.mode {run.config.synthetic.mode} trains a classifier first, and "
                f"{run.config.training.method} trains none; use --synthetic.mode none, usb, asb or only"
            )
        run.before = lambda: first_phase(run)
    return method.run(run)
