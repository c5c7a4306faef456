"""The network whose last layer a method fits anew: trained by another method, of an earlier run, or published.

Methods of this kind (dfr, crt, afr, self, dispel) begin by themselves, because a checkpoint needs no training.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from debeton.config import section, setting
from debeton.config.checkers import Bool, OrNull, Text
from debeton.data.views.view import View
from debeton.methods.method import METHODS, Method, base_outline, check_base, train_base
from debeton.methods.parts.first_phase import begin, first_outline
from debeton.methods.parts.frozen_network import network_of
from debeton.methods.parts.logistic_head import FeatureSet
from debeton.nets.checkpoint import BEST_NAME, save_checkpoint
from debeton.nets.describe import describe_inputs, describe_network
from debeton.nets.heads import RefittedHead, install_head, normalised
from debeton.nets.models import make_model, named_head
from debeton.nets.transfer import starts_published
from debeton.system import distributed
from debeton.system.errors import UsageError
from debeton.system.log import logger
from debeton.train.features import cached_features, extract_features
from debeton.train.objective import Precision
from debeton.train.outline import Outline
from debeton.train.phase import PhaseRecord
from debeton.train.run import Run
from debeton.train.run_loaders import eval_loader

PRETRAINED = "pretrained"


@section("head", "the network whose last layer is fitted anew (crt, crt_reweight, afr, self)")
@dataclass(frozen=True)
class HeadSettings:
    """The settings of section 'head'."""

    base: str = setting(
        Text(), "method that trains the features first; pretrained: published weights, no training", default="erm"
    )
    checkpoint: str | None = setting(
        OrNull(Text()),
        "run folder, checkpoint or weight file whose features are used instead; null: none",
        default=None,
    )
    cache: bool = setting(Bool(), "keep features in {outdir}/features for later runs", default=True)


@dataclass(frozen=True)
class Base:
    """The source of the features.

    section: name of the section that has the settings, for messages.
    name: the method that trains the features, or 'pretrained'.
    checkpoint: run folder, checkpoint or weight file whose features are used instead, or None.
    cache: keep features on disk.
    normalise: divide each feature vector by its length.
    """

    section: str
    name: str
    checkpoint: str | None
    cache: bool
    normalise: bool = False

    @classmethod
    def of(cls, run: Run) -> Base:
        """Return the source that section 'head' names."""
        settings = run.config.section(HeadSettings)
        return cls("head", settings.base, settings.checkpoint, settings.cache)

    @property
    def trains(self) -> bool:
        """Return whether a method of this run trains the features."""
        return self.checkpoint is None and self.name != PRETRAINED

    def check(self, run: Run) -> None:
        """Raise UsageError or DataError where the network cannot be had, or its head cannot be replaced."""
        if run.config.training.class_weights is not None and not self.trains:
            raise UsageError(
                f"training.class_weights is set, and {run.config.training.method} trains no features here, so that no "
                f"loss has them; leave them out, or train the features with --{self.section}.base erm"
            )
        with torch.device("meta"):  # raises for a head that cannot be replaced
            install_head(make_model(run.config.model.arch, 2), 2, normalise=False)
        if self.checkpoint is not None:
            network_of(run, Path(self.checkpoint), f"{self.section}.checkpoint")
        method = self.method(run)
        if method is not None:
            check_base(run, self.name, method)

    def method(self, run: Run) -> Method | None:
        """Return the method that trains the features; None where they come from elsewhere.

        Raise UsageError for a base that trains no classifier, and for the features of random weights.
        """
        if self.checkpoint is not None:
            return None
        if self.name == PRETRAINED:
            if not starts_published(run.config):
                raise UsageError(
                    f"{self.section}.base is 'pretrained', but model.pretrained is false, so that the features would "
                    "be those of random weights; add --model.pretrained true"
                )
            return None
        base = METHODS.get(self.name)
        if base.begins_itself:
            itself = "itself" if self.name == run.config.training.method else "which fits a last layer itself"
            raise UsageError(
                f"{self.section}.base is '{self.name}' {itself}; name the method that trains the features, such as erm"
            )
        if not base.classifies:
            raise UsageError(
                f"{self.section}.base is '{self.name}', which trains no classifier; name one that does, such as erm"
            )
        return base

    def phases(self, run: Run) -> Outline:
        """Return the outline of the training of the features; empty where they come from elsewhere."""
        method = self.method(run)
        before = [] if self.checkpoint is not None else first_outline(run)
        return [*before, *([] if method is None else base_outline(run, method))]

    def network(self, run: Run) -> nn.Module:
        """Return the network whose features are used: from a checkpoint, trained here, or with published weights."""
        if self.checkpoint is not None:
            logger.info("features of %s", self.checkpoint)
            return network_of(run, Path(self.checkpoint), f"{self.section}.checkpoint")
        others = {key.split(".")[0] for key in run.config.values} - _head_sections()
        method, run = self.method(run), begin(replace(run, sections=tuple(sorted(others))))
        return run.network() if method is None else train_base(run, method)

    def replace_head(self, run: Run, model: nn.Module) -> RefittedHead:
        """Put a new last layer into the network, and return it."""
        return install_head(model, run.views["train"].spec.num_classes, normalise=self.normalise)

    def features(self, run: Run, model: nn.Module, view: View) -> FeatureSet:
        """Return the features of a view's rows, without augmentation; from disk if they are there."""
        loader = eval_loader(view, run.config, run.device)
        precision = Precision(run.config.training.precision, run.device)
        if self.cache:
            folder = Path(run.config.training.outdir) / "features"
            features = cached_features(model, loader, precision, folder, progress=run.progress)
        else:
            features = extract_features(model, loader, precision, progress=run.progress)
        features = normalised(features) if self.normalise else features
        return FeatureSet(features.numpy(), view.label[view.rows], view.group[view.rows], view.spec)

    def save(self, run: Run, model: nn.Module, phase: str) -> None:
        """Save the refitted model as the run's best checkpoint, which `Run.phase` keeps as this phase's."""
        spec = run.views["train"].spec
        building = {**describe_network(run.config, spec), "normalise_features": self.normalise}
        content = {
            "phase": phase,
            "config_hash": run.config.identity_hash(),
            "model": building,
            "inputs": describe_inputs(run.config, spec, run.views),
            "data": run.data,
        }
        save_checkpoint(run.checkpoints / BEST_NAME, {**content, "state_dict": model.state_dict()})


def _head_sections() -> set[str]:
    """Return the sections that only methods of this kind read, so that their settings keep the base's identity."""
    methods = {entry.name: entry.value for entry in METHODS if entry.value.begins_itself}
    return set(methods).union(*(method.sections for method in methods.values()))


Fit = Callable[[nn.Module, Mapping[str, FeatureSet]], dict[str, Any]]


def refit_head(
    run: Run, base: Base, phase: str, views: Mapping[str, View], fit: Fit, features_of: Run | None = None
) -> nn.Module:
    """Return the base network with a last layer that is fitted anew, in a phase that is recorded and resumed.

    phase: name of the phase; run.notes gets the notes of the fit under it.
    views: the rows that the fit needs, by role.
    fit: changes the layer, which has the base's weights, and returns plain notes. The main process alone calls it.
    features_of: the run that trains the base, if it is not `run`.
    """
    model = base.network(features_of or run)
    first = named_head(model)[1]
    head = base.replace_head(run, model)
    with torch.no_grad():
        head.weight.copy_(first.weight.flatten(1))
        head.bias.copy_(torch.zeros_like(head.bias) if first.bias is None else first.bias)

    def work() -> PhaseRecord:
        began, distinct = time.perf_counter(), {id(view): view for view in views.values()}
        run.announce(phase, f"features of {' and '.join(dict.fromkeys(view.name for view in views.values()))} rows")
        features = {key: base.features(run, model, view) for key, view in distinct.items()}
        run.leave_if_asked()  # the features are on disk
        notes: dict[str, Any] = {}
        if distributed.is_main():
            notes = fit(head, {role: features[id(view)] for role, view in views.items()})
            base.save(run, model, phase)
        return PhaseRecord(seconds=time.perf_counter() - began, notes=notes)

    run.notes[phase] = dict(run.phase(phase, model, work).notes)
    return model
