"""The end of a run: the selected model is evaluated, with every trigger, and the results are written."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import nn

from debeton.data.triggers.trigger import Trigger
from debeton.data.views.splits import evaluated
from debeton.data.views.view import View
from debeton.nets.checkpoint import save_checkpoint
from debeton.nets.transfer import describe_source
from debeton.system import distributed
from debeton.system.files import write_text
from debeton.system.json_text import json_text
from debeton.system.log import logger
from debeton.train.attack import attack_metrics, rates_by
from debeton.train.evaluation import CLEAN, Evaluation, Presentation, evaluate_presentations, final_metrics
from debeton.train.held_out import shared_row_remarks
from debeton.train.metrics import TIE_BREAK, selection_score
from debeton.train.phase import PhaseRecord
from debeton.train.planting import evaluation_triggers
from debeton.train.predictions import write_predictions
from debeton.train.processes import described
from debeton.train.remarks import SELECTED, not_held_out
from debeton.train.result_files import RESULTS_NAME
from debeton.train.results import prediction_result, versions
from debeton.train.run import Run
from debeton.train.run_folder import experiment_name
from debeton.train.run_views import groups_without_rows
from debeton.train.selection import NO_SELECTION, selection_on
from debeton.train.stop import Preempted


@dataclass(frozen=True)
class SplitEvaluations:
    """The evaluations of a model on one split.

    standard: on the images as they are, with a planted trigger if the view has one.
    clean: without any trigger.
    triggered: by the name of a trigger, with it in all images.
    """

    standard: Evaluation
    clean: Evaluation
    triggered: Mapping[str, Evaluation] = field(default_factory=dict)


def finish(
    run: Run,
    model: nn.Module | None,
    method_sections: Sequence[str] = (),
    more: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Evaluate the selected model on validation and every test, and write predictions, results.pt and results.json.

    model: None for a method that trains no classifier; then nothing is evaluated.
    method_sections: sections of settings that belong to the method, beside the one with its name.
    more: entries of results.json that are known otherwise, as for a model that no phase of this run trained.
    DataError, and no results, if a beton of the run changed or a loss is not finite. Preempted, and no results, if the
    run is asked to stop meanwhile.
    """
    began = time.perf_counter()
    try:
        measured = {split: evaluate_split(run, model, split) for split in evaluated(run.views)} if model else {}
    except Preempted as stop:
        raise Preempted(stop.signum, saved=stop.saved, during="the final evaluation") from None
    metrics = {split: final_metrics(one.standard, run.views[split]) for split, one in measured.items()}
    timing = {**timing_of(run), "final_evaluation_seconds": time.perf_counter() - began}
    config, train = run.config, run.views.get("train")  # there is none where a model is only measured
    triggers = {split: describe_triggers(run.views[split], evaluations) for split, evaluations in measured.items()}
    absent = groups_without_rows(run.views) if train else {}
    shown = train or next(iter(run.views.values()))
    results = {
        "name": experiment_name(config),
        "dataset": config.data.dataset,
        "method": config.training.method,
        "method_sections": list(method_sections),
        "seed": config.training.seed,
        **describe_selection(run, list(metrics)),
        **({"ended_early": ended} if (ended := ended_early(run)) else {}),
        "config_hash": config.identity_hash(),
        "processes": described(run.processes),
        "sync_bn": config.dist.sync_bn,
        "data": run.data,
        "dataset_options": shown.beton.sidecar.get("dataset_options") or {},
        "versions": versions(),
        "source": describe_source(config) if train else None,
        "train_groups": train.counts_by_name() if train else {},
        **({"groups_without_rows": absent} if absent else {}),
        **{split: metrics.get(split) for split in ("val", "test")},
        "other_tests": {split: values for split, values in metrics.items() if split not in ("val", "test")},
        **({"triggers": triggers} if any(triggers.values()) else {}),
        **({"oracle": _oracle(run)} if config.training.oracle else {}),
        "notes": run.notes,
        "timing": timing,
        **(more or {}),
    }
    run.check_data()
    if distributed.is_main():
        _write(run, results, measured)
    distributed.barrier()
    return results


def describe_selection(run: Run, reported: Sequence[str]) -> dict[str, Any]:
    """Return the part of results.json on the selected epoch, the uses of validation rows, and remarks for tables.

    selection: the rule that selected in the last phase with epochs.
    selected_by: the rule that was asked for, the groups without rows, and the text of tables.
    selected_on: 'val', or None for the last epoch.
    val_uses: uses of the validation split in training.
    reported: the splits that were measured.
    remarks: short texts on the results.
    """
    phases = {
        name: _selection_of(run, record) for name, record in run.phases.items() if record.selected_epoch is not None
    }
    last = list(phases.values())[-1] if phases else {"asked": run.selection_rule, "rule": "none", "text": "no epochs"}
    if phases and (tie := _tie_of_all_epochs(run, list(phases)[-1], last["rule"])):
        last["text"] = tie
        logger.warning("warning: the epoch is selected by %s", tie)
    selects = any(one["rule"] != NO_SELECTION for one in phases.values())
    uses = [*([SELECTED] if selects else []), *run.val_uses]
    return {
        "selection": last["rule"],
        "selected_by": last,
        "selected_epoch": run.selected_epoch,
        "selected_on": "val" if phases and last["rule"] != NO_SELECTION else None,
        "val_uses": uses,
        "reported": list(reported),
        "remarks": [*not_held_out(uses, reported), *shared_row_remarks(run.views), *run.remarks],
    }


def ended_early(run: Run) -> dict[str, str]:
    """Return why phases ended before their last epoch, by name."""
    return {name: record.ended_early for name, record in run.phases.items() if record.ended_early}


def _selection_of(run: Run, record: PhaseRecord) -> dict[str, Any]:
    """Return the selection of a phase; for one that an older version trained, that of the configuration."""
    return dict(record.selection or selection_on(run.views.get("val"), run.selection_rule).to_json())


def _tie_of_all_epochs(run: Run, phase: str, rule: str) -> str:
    """Return the rule that selects where the epochs of a phase agree in `rule`; empty where some differ."""
    lines = [line for line in run.log.read() if line["phase"] == phase and line["split"] == "val"]
    if rule == NO_SELECTION or len(lines) < 2:
        return ""
    scores = [selection_score(line["metrics"], rule) for line in lines]
    if len({score for score, _ in scores}) > 1:
        return ""
    by = TIE_BREAK if len({tie_break for _, tie_break in scores}) > 1 else "first epoch"
    return "" if rule == by else f"{by} ({rule} is the same in all epochs)"


def timing_of(run: Run) -> dict[str, Any]:
    """Return the times of a run's phases, as results.json has them: seconds, images, shares, images per second."""
    trained = [record for record in run.phases.values() if record.images]
    waits = {name: record.data_wait for name, record in run.phases.items() if record.data_wait is not None}
    return {
        "phases": {name: record.seconds for name, record in run.phases.items()},
        "images": {name: record.images for name, record in run.phases.items() if record.images},
        "data_wait": waits,
        "train_seconds": sum(record.seconds for record in run.phases.values()),
        **({"train_images_per_second": trained[-1].images / max(trained[-1].seconds, 1e-9)} if trained else {}),
    }


def evaluate_split(run: Run, model: nn.Module, split: str) -> SplitEvaluations:
    """Measure the model on a split as its images are, clean, and with each trigger. Decode each image once."""
    view = run.views[split]
    triggers = {trigger.name: trigger for trigger in evaluation_triggers(run.config)}
    shown: list[Trigger] = list(triggers.values())
    everywhere = np.ones(len(view.beton), bool)
    presentations = [CLEAN, *(Presentation(everywhere, k) for k in range(len(shown)))]
    if view.planted is not None:
        shown = shown if view.planted.trigger in shown else [*shown, view.planted.trigger]
        presentations.append(Presentation(view.planted.mask, shown.index(view.planted.trigger)))
    number = len(presentations) - 1 if view.planted is not None else 0
    unplanted = replace(view, planted=None)
    clean, *others = evaluate_presentations(run, model, unplanted, presentations, shown, logits_of=number)
    standard = others[-1] if view.planted is not None else clean
    return SplitEvaluations(standard, clean, dict(zip(triggers, others, strict=False)))


def describe_triggers(view: View, measured: SplitEvaluations) -> dict[str, Any]:
    """Return the effect of each trigger, by its name.

    It has the accuracies without and with the trigger, `attack_metrics`, and rates by class and by group.
    """
    spec, label, group = view.spec, view.label[view.rows], view.group[view.rows]
    clean = measured.clean.predicted.numpy()
    effects: dict[str, Any] = {}
    for name, evaluation in measured.triggered.items():
        triggered = evaluation.predicted.numpy()
        effects[name] = {
            **attack_metrics(label, clean, triggered, spec.classes),
            "clean": measured.clean.metrics,
            "triggered": evaluation.metrics,
            "by_class": rates_by(label, spec.classes, label, clean, triggered),
        }
        if len(spec.attributes) > 1:
            effects[name]["by_group"] = rates_by(group, spec.group_names, label, clean, triggered)
    return effects


def _write(run: Run, results: dict[str, Any], measured: Mapping[str, SplitEvaluations]) -> None:
    noted = {**results, "evaluations": len(run.log.read())}
    text = json_text(noted, run.folder / RESULTS_NAME, indent=1)  # before any file is written
    predictions = run.config.logging.predictions
    if predictions is not None and measured:
        shown = {split: (run.views[split], evaluations.standard) for split, evaluations in measured.items()}
        write_predictions(run.folder / predictions, shown)
    content: dict[str, Any] = {"args": run.config.nested()}
    split = "test" if "test" in measured else "val"
    if split in measured:
        view, evaluations = run.views[split], measured[split]
        # results_spurious is the first trigger, as in the published code; others go by their names.
        names = [f"spurious_{name}" if k else "spurious" for k, name in enumerate(evaluations.triggered)]
        entries = {
            "standard": evaluations.standard,
            "clean": evaluations.clean,
            **dict(zip(names, evaluations.triggered.values(), strict=True)),
        }
        label = torch.from_numpy(view.label[view.rows])
        content["results"] = {
            f"results_{name}": prediction_result(entry.metrics, label, entry.predicted)
            for name, entry in entries.items()
        }
    save_checkpoint(run.folder / "results.pt", content)
    # Last: this file says that the run is finished.
    write_text(run.folder / RESULTS_NAME, text)


def _oracle(run: Run) -> dict[str, Any] | None:
    """Return the epoch of the last phase that the selection rule would keep on the test split; None without epochs."""
    phase = list(run.phases)[-1]
    lines = [line for line in run.log.read() if line["phase"] == phase and line["split"] == "test"]
    asked = run.selection_rule if run.selection_rule != NO_SELECTION else "worst_group"
    rule = selection_on(run.views["test"], asked).rule
    best = max(lines, key=lambda line: selection_score(line["metrics"], rule), default=None)
    return best and {"asked": asked, "rule": rule, "epoch": best["epoch"], "test": best["metrics"]}
