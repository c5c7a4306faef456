"""The way of the finders that tell the attribute from frozen features: known rows, a model of them, all rows."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace

import numpy as np
import torch
from torch import nn

from debeton.config import section, setting
from debeton.config.checkers import FloatList, Int, OrNull, Text
from debeton.data.spec import Ints
from debeton.data.views.view import View
from debeton.methods.finder import IDENTIFY, Found, Groups, found_groups
from debeton.methods.parts.attribute_models import AttributeModel, KnownFeatures
from debeton.methods.parts.frozen_network import frozen_network, row_features
from debeton.methods.parts.known_rows import KnownRows, announce_known_rows, check_known_rows, known_rows
from debeton.nets.checkpoint import BEST_NAME, save_checkpoint
from debeton.system import distributed
from debeton.system.errors import DataError
from debeton.system.log import logger
from debeton.train.features import feature_key, feature_size
from debeton.train.objective import Precision
from debeton.train.outline import Outline, PhaseOutline
from debeton.train.phase import PhaseRecord
from debeton.train.run import Run
from debeton.train.run_loaders import eval_loader


@section("labelled", "group finders that learn the attribute from frozen features of the rows where it is known")
@dataclass(frozen=True)
class LabelledSettings:
    """The settings of section 'labelled'."""

    checkpoint: str | None = setting(
        OrNull(Text()),
        "run folder, checkpoint or weight file whose features are used; null: model.checkpoint or published weights",
        default=None,
    )
    c_grid: tuple[float, ...] = setting(
        FloatList(above=0, at_least=1),
        "values of C, the inverse strength of the penalty, that probe chooses from by cross-validation",
        default=(0.001, 0.01, 0.1, 1.0),
    )
    k: int = setting(Int(1), "number of nearest known rows that vote in knn", default=5)


Make = Callable[[LabelledSettings, Ints, int], AttributeModel]


def check_attribute_finder(run: Run) -> None:
    """Raise UsageError or DataError without rows to learn from, or without a network whose features can be used."""
    check_known_rows(run)
    _network(run)


def _network(run: Run) -> nn.Module:
    return frozen_network(run, run.config.section(LabelledSettings).checkpoint, "labelled.checkpoint")


def attribute_outline(run: Run) -> Outline:
    """Return the outline: phase 'identify', which takes no training step."""
    rows = known_rows(run)
    return [
        PhaseOutline(
            IDENTIFY, note=f"learns from {rows.known.sum():,} rows of '{rows.split.name}' whose attribute is known"
        )
    ]


def attribute_groups(run: Run, make: Make) -> Found:
    """Learn the attribute from the features of the known rows, and tell it of the other training rows.

    make: returns the model for (settings, attributes of the known rows [L], number of features).
    """
    rows, network = known_rows(run), _network(run)
    announce_known_rows(run, rows)
    known = rows.view
    model = make(run.config.section(LabelledSettings), known.attribute[known.rows], feature_size(network))
    model = model.to(run.device)
    record = run.phase(
        IDENTIFY, model, lambda: _learn(run, rows, network, model), lambda: _identity(run, rows, network), shared=True
    )

    def groups_of(view: View) -> Groups:
        told, share = model.tell(row_features(run, network, view))
        kept = rows.kept(view)
        code = np.where(kept, view.attribute[view.rows], told)
        return Groups(np.array(view.spec.attributes)[code], np.where(kept, 1.0, share))

    found = found_groups(run, model, groups_of, kind="attribute")
    return replace(found, notes={"learnt_from": {**rows.describe(), **record.notes}})


def _learn(run: Run, rows: KnownRows, network: nn.Module, model: AttributeModel) -> PhaseRecord:
    """Do the work of phase 'identify': the features of a split, and the model of its known rows."""
    began = time.perf_counter()
    run.announce(IDENTIFY, f"features of the rows of '{rows.split.name}'")
    # Of the whole split: the other rows are asked for next, and one pass decodes all.
    features = row_features(run, network, rows.split)[torch.from_numpy(rows.known)].numpy()
    if (features == features[0]).all():
        raise DataError(
            f"the network gives all {len(features):,} rows of '{rows.split.name}' whose attribute is known the same "
            "features, so that they tell no attribute; take another network (labelled.checkpoint, model.arch)"
        )
    run.leave_if_asked()  # the features are on disk
    view, notes = rows.view, {}
    if distributed.is_main():
        known = KnownFeatures(features, view.attribute[view.rows], view.group[view.rows])
        notes = model.learn(known, run.config.data.seed)
        accuracy = notes["mean_group_accuracy"]
        if accuracy is not None:
            logger.info("mean accuracy over groups on known rows that were held out: %.1f %%", 100 * accuracy)
        content = {"phase": IDENTIFY, "config_hash": run.config.identity_hash(), "state_dict": model.state_dict()}
        save_checkpoint(run.checkpoints / BEST_NAME, content)
    return PhaseRecord(seconds=time.perf_counter() - began, notes=notes)


def _identity(run: Run, rows: KnownRows, network: nn.Module) -> str:
    """Return 24 hex digits of all that decides the model: features, known rows with their attributes, and settings."""
    loader = eval_loader(rows.split, run.config, run.device)
    view, precision = rows.view, Precision(run.config.training.precision, run.device)
    settings = {**asdict(run.config.section(LabelledSettings)), "checkpoint": None}  # its weights are in the features
    content = [run.config.groups.finder, feature_key(network, loader, precision), settings, run.config.data.seed]
    digest = hashlib.sha256(json.dumps(content).encode())
    for codes in (view.rows, view.attribute[view.rows], view.group[view.rows]):
        digest.update(np.ascontiguousarray(codes, np.int64).data)
    return digest.hexdigest()[:24]
