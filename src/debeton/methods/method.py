"""The registry of methods, and `train`, which runs one.

A method is a short function of a Run: a list of phases, read from top to bottom. It returns the trained model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from torch import nn

from debeton.config import imply, phase_settings
from debeton.data.views.view import View
from debeton.methods.group_choice import check_choice, finder_of, finder_outline, provisional, with_groups
from debeton.methods.parts.cross_entropy import class_weights
from debeton.methods.parts.first_phase import begin, first_outline
from debeton.system.errors import UsageError
from debeton.system.registry import Registry
from debeton.train.checks import check_classifier
from debeton.train.outline import Outline, PhaseOutline
from debeton.train.run import Run
from debeton.train.run_views import check_selection_rows
from debeton.train.schedule_checks import check_evaluations


def _accept(run: Run) -> None:
    """Accept every run: the check of a method that has no requirements."""


def phase_on(run: Run, view: View, name: str = "train") -> Outline:
    """Return the outline of a method that has one phase, with the settings of section 'training'."""
    return [PhaseOutline(name, phase_settings(run.config), view)]


def one_phase(run: Run) -> Outline:
    """Return the outline of a method with the phase 'train' alone, on the training rows."""
    return phase_on(run, run.views["train"])


@dataclass(frozen=True)
class Method:
    """A registered method.

    run: trains through the method's phases; returns the model, or None if the method trains no classifier.
    paper: the publication.
    needs: the columns of the training rows that the method looks at. A method that needs 'label, attribute' is not
        called where the attribute of a training row is not known, and takes groups of any finder (groups.from).
    check: raises UsageError or DataError for a run that the method cannot train; called before the first phase.
    classifies: False for a method that trains no classifier.
    sections: sections of settings that belong to the method, beside the one with its name.
    begins_itself: the method calls `begin` by itself, because its training may begin elsewhere (dfr.checkpoint).
         Then its outline has the first phase too.
    class_weights: the method's loss has the weights of training.class_weights. Others refuse them.
    phases: returns the outline of a run, without looking at anything but its settings and views.
    finder: the group finder that belongs to the method; '' for none.
    infers_val: the method puts the validation rows into groups by itself where groups.val is 'inferred'.
    """

    run: Callable[[Run], nn.Module | None]
    paper: str
    needs: str
    check: Callable[[Run], object] = _accept
    classifies: bool = True
    sections: tuple[str, ...] = ()
    begins_itself: bool = False
    class_weights: bool = False
    phases: Callable[[Run], Outline] = one_phase
    finder: str = ""
    infers_val: bool = False

    @property
    def takes_groups(self) -> bool:
        """True if the method looks at groups, which a finder may give."""
        return "attribute" in self.needs or bool(self.finder)


Trainer = TypeVar("Trainer", bound=Callable[[Run], nn.Module | None])
METHODS: Registry[Method] = Registry("method")
NEEDS_ATTRIBUTE = "label, attribute"  # `needs` of a method that groups every training row


def register_method(
    name: str,
    summary: str,
    *,
    paper: str,
    needs: str,
    check: Callable[[Run], object] = _accept,
    classifies: bool = True,
    sections: tuple[str, ...] = (),
    begins_itself: bool = False,
    class_weights: bool = False,
    implies: Mapping[str, Any] | None = None,
    phases: Callable[[Run], Outline] = one_phase,
    finder: str = "",
    infers_val: bool = False,
) -> Callable[[Trainer], Trainer]:
    """Return a decorator that registers `run -> trained model`.

    name: the value of training.method.
    summary: one line for --list methods.
    implies: settings of other sections that come with the method, such as {'synthetic.mode': 'ffr'}.
    The other parameters are those of `Method`.
    """

    def decorate(run: Trainer) -> Trainer:
        method = Method(
            run, paper, needs, check, classifies, sections, begins_itself, class_weights, phases, finder, infers_val
        )
        METHODS.add(name, method, summary)
        implied = {**(implies or {}), **({"groups.from": finder} if finder else {})}
        if implied:
            imply("training.method", name, implied)
        return run

    return decorate


def check_method(run: Run, name: str, method: Method) -> None:
    """Raise UsageError or DataError for a run that the method cannot train."""
    check_choice(run, name, takes_groups=method.takes_groups, own_finder=method.finder, infers_val=method.infers_val)
    _check_trainer(run, name, method)


def _check_trainer(run: Run, name: str, method: Method, finder: str = "") -> None:
    """Raise UsageError or DataError for groups or settings that the method cannot train on. finder: of a base."""
    if method.needs == NEEDS_ATTRIBUTE and finder_of(run, finder) is None:
        run.views["train"].require_attributes(name)
    check_class_weights(run, name, method)
    method.check(provisional(run, finder))


def check_base(run: Run, name: str, base: Method) -> None:
    """Raise UsageError or DataError where a method cannot train the network that another one goes on with (dfr.base).

    The base takes the groups of groups.from, or those of the finder that belongs to it.
    """
    given, finder = run.config.groups.finder, finder_of(run, base.finder) if base.finder else None
    if finder is not None and finder_of(run) is not None and given != base.finder:
        raise UsageError(
            f"{run.config.training.method} goes on with {name}, which finds groups by '{base.finder}', and groups.from "
            f"is '{given}'; use --groups.from {base.finder}, or take upweight or groupdro as the base"
        )
    if finder is not None:
        finder.check(run)
    _check_trainer(run, name, base, base.finder)


def base_outline(run: Run, base: Method) -> Outline:
    """Return the outline of the training of a base, after the finder that belongs to it."""
    return [*(finder_outline(run, base.finder) if _finds_itself(run, base) else []), *base.phases(run)]


def train_base(run: Run, base: Method) -> nn.Module:
    """Train the base of a method, in the groups that `check_base` says, and return its model."""
    model = base.run(with_groups(run, base.finder) if _finds_itself(run, base) else run)
    assert model is not None  # a base trains a classifier
    return model


def _finds_itself(run: Run, base: Method) -> bool:
    """Return whether a finder belongs to the base, and the run has not found its groups already."""
    return bool(base.finder) and run.config.groups.finder != base.finder


def check_class_weights(run: Run, name: str, method: Method) -> None:
    """Raise UsageError where training.class_weights is set for a method whose loss has none, or does not fit."""
    if run.config.training.class_weights is None:
        return
    if not method.class_weights:
        able = ", ".join(sorted(entry.name for entry in METHODS if entry.value.class_weights))
        raise UsageError(
            f"training.class_weights is set, and {name} has no class weights in its loss; leave them out, use a method "
            f"that has them ({able}), or one that balances classes by itself (reweight_class, resample_class, suby)"
        )
    class_weights(run, run.views["train"])


def check(run: Run) -> None:
    """Check, before the first phase, whatever any phase of the configured method needs.


    UsageError or DataError: the method cannot train the run; or the weights of a network, a file of a setting, or
    images of another run cannot be had.
    """
    method = METHODS.get(run.config.training.method)
    if "first" in run.views and not method.classifies:
        raise UsageError(
            f"synthetic.mode {run.config.synthetic.mode} trains a classifier first, and {run.config.training.method} "
            "trains none; use --synthetic.mode none, usb, asb or only"
        )
    check_method(run, run.config.training.method, method)
    check_evaluations(run, classifies=method.classifies)
    if method.classifies:
        check_selection_rows(run.config, provisional(run).views)
        check_classifier(run)


def train(run: Run) -> nn.Module | None:
    """Train the configured method and return its model; None for a method that trains no classifier.

    Where synthetic.mode asks for a first phase on synthetic rows, the method's networks begin with its weights.
    """
    check(run)
    return run_method(replace(run, outline=outline(run)))


def run_method(run: Run) -> nn.Module | None:
    """Run the configured method after the first phase, if there is one. `train` checks the run before."""
    method = METHODS.get(run.config.training.method)
    return method.run(with_groups(run if method.begins_itself else begin(run)))


def sections_of(run: Run) -> tuple[str, ...]:
    """Return the sections of settings that belong to a run's method and its finder, beside the one of its name.

    Reports tell runs apart by them, and leave out the sections of methods that the run does not have.
    """
    finder = finder_of(run)
    sections = [*METHODS.get(run.config.training.method).sections, *(() if finder is None else finder.sections)]
    return tuple(dict.fromkeys(sections))


def outline(run: Run) -> Outline:
    """Return the outline of a run: the first phase where there is one, and the phases of its method."""
    method = METHODS.get(run.config.training.method)
    return [*([] if method.begins_itself else first_outline(run)), *finder_outline(run), *method.phases(run)]
