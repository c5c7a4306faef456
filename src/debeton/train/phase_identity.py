"""Identity of a phase: a hash of all that decides its weights, by which another run takes it over.

The folder of a run belongs to all settings together. A phase depends on some of them: those that it is trained with. It
also depends on its rows and their pixels, the weights that it begins with, the code of plugins, and the phases before
it. After a change to the settings of a later phase, the earlier phases of the same experiment have the same identity.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, fields
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import nn

from debeton.config import PhaseSettings
from debeton.config.identity import run_identity
from debeton.config.section import declared
from debeton.data.views.view import View
from debeton.nets.checkpoint import add_weights
from debeton.system import distributed
from debeton.system.plugins import hashes_of_plugins
from debeton.train.features import add_trigger

if TYPE_CHECKING:
    from debeton.train.run import Run

# Of section 'training': the name of the method, whose phases are told apart by their own sections, and the folder of
# the betons, whose rows are covered by content.
NO_PART = ("method", "data_root")
OF_SGD, OF_SELECTION = ("momentum", "nesterov"), ("selection", "eval_epochs", "patience", "lr_patience")
OF_EVERY_PHASE = ("data", "synthetic", "spurious", "resolution", "dist")


def phase_identity(
    run: Run,
    name: str,
    view: View,
    val: View | None,
    model: nn.Module,
    objective: nn.Module,
    training: PhaseSettings,
    sections: Sequence[str] | None,
    *,
    endless: bool = False,
) -> str:
    """Return 24 hex digits that change when the weights of a phase may change; '' if an earlier phase has none.

    run: the run, with the records of the phases before this one.
    name: name of the phase.
    view: the training rows.
    val: the rows that select the epoch; None: the last epoch is kept.
    model: the model with the weights that it begins with.
    objective: the loss, with networks and tables of its own.
    training: settings of the phase.
    sections: further sections of settings that the phase reads; None: all sections.
    endless: leave out the number of epochs, for a phase that may be extended (`extension`).
    """
    before = [record.identity for record in run.phases.values()]
    if not all(before):
        return ""
    without_effect = {
        *NO_PART,
        *(() if training.optimizer == "sgd" else OF_SGD),
        *(OF_SELECTION if val is None else ()),
        *(("epochs",) if endless else ()),
    }
    named = {f"training.{key}": value for key, value in asdict(training).items() if key not in without_effect}
    content: list[Any] = [name, before, run_identity(named), type(model).__name__, type(objective).__name__]
    content += [
        _settings(run, sections, endless=endless),
        hashes_of_plugins(),
        None if run.config.dist.sync_bn else distributed.world_size(),
    ]
    digest = hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode())
    for one in (view, val):
        _add_view(digest, one, training.resolution)
    add_weights(digest, model)
    add_weights(digest, objective)
    return digest.hexdigest()[:24]


def _settings(run: Run, sections: Sequence[str] | None, *, endless: bool) -> dict[str, Any]:
    """Return the settings, by key, of the sections that a phase reads. Those of `training` come with the phase.

    endless: without the settings that stand for the epochs of a phase, such as cdpm.epochs.
    """
    values = run_identity(run.config.values)
    chosen = {key.split(".")[0] for key in values} if sections is None else {*OF_EVERY_PHASE, *sections}
    if endless:
        values = {key: value for key, value in values.items() if declared()[key].replaces != "epochs"}
    return {key: value for key, value in values.items() if key.split(".")[0] in chosen - {"training"}}


def _add_view(digest: hashlib._Hash, view: View | None, side: int) -> None:
    """Add the rows of a view with their labels and groups, and the content of its beton.

    side: of the images, in pixels.
    """
    if view is None:
        digest.update(b"none")
        return
    plain = [view.name, view.order, view.draws, asdict(view.spec)]
    digest.update(json.dumps(plain, sort_keys=True, default=str).encode())
    for one in fields(view):
        values = getattr(view, one.name)
        if isinstance(values, np.ndarray):
            digest.update(np.ascontiguousarray(values).data)
    digest.update(json.dumps(view.beton.content, sort_keys=True).encode())
    if view.planted is not None:
        digest.update(view.planted.mask.data)
        add_trigger(digest, view.planted.trigger, (side, side))
