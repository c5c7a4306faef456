"""Evaluation of any classifier on any groups, without a training run; it leaves the results of a run."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from debeton import methods  # noqa: F401 - methods declare their settings
from debeton.config import Config, load
from debeton.config.yaml_files import read_mapping
from debeton.data.views.row_lists import pseudo_grouped
from debeton.data.views.splits import with_normalisation
from debeton.data.views.view import View
from debeton.nets.checkpoint import CHECKPOINT_FOLDER
from debeton.nets.models import place_network
from debeton.nets.trained import Trained, load_trained
from debeton.nets.weight_files import CARD, find_weight_file, read_card
from debeton.system import distributed
from debeton.system.errors import DataError, UsageError
from debeton.system.file_names import file_name
from debeton.system.files import temporary_folder
from debeton.system.log import log_to_file, logger
from debeton.system.plugins import require_plugins_of
from debeton.tools.class_matching import ClassMap, MatchedClasses, match_classes
from debeton.tools.export import check_run
from debeton.tools.measured_data import SPLIT, open_data
from debeton.train.finish import finish
from debeton.train.planting import plant
from debeton.train.result_files import LOG_NAME, RESULTS_NAME, damaged_results, read_results
from debeton.train.results import ResultLog
from debeton.train.run import Run
from debeton.train.run_data import describe_data, recorded_data
from debeton.train.run_folder import CONFIG_NAME, claim_folder, locked
from debeton.train.stop import StopRequest

METHOD = "evaluate"  # stands for the method where no run trained the model
# The settings that decide how a model is measured. A model of a run keeps all others as its run had them.
MEASURING = (
    *(f"data.{name}" for name in ("label", "attribute", "aligned", "group_by")),
    *(f"data.pseudo_{name}" for name in ("groups", "column", "kind")),
    *(f"training.{name}" for name in ("device", "eval_batch_size", "num_workers", "precision", "channels_last")),
    *(f"training.{name}" for name in ("tta", "decoder_val", "outdir", "exp_name", "deterministic")),
    "resolution.val_res",
    "spurious.",
    "loader.",
    "logging.",
)
SELECTION_KEYS = ("selection", "selected_by", "selected_epoch", "selected_on", "method_sections")


@dataclass(frozen=True)
class Model:
    """A classifier to measure, and what is known of its training.

    trained: the classifier.
    name: a short name, for folders.
    checkpoint: its file; None for published weights.
    folder: the folder of the run that trained it, if there is one.
    """

    trained: Trained
    name: str
    checkpoint: Path | None
    folder: Path | None = None

    def normalised(self, mean: tuple[float, float, float] | None, std: tuple[float, float, float] | None) -> Model:
        """Return the model with another normalisation of its images in [0, 1]; None keeps what is known of it."""
        given = {name: list(values) for name, values in (("mean", mean), ("std", std)) if values is not None}
        return replace(self, trained=replace(self.trained, network={**self.trained.network, **given}))

    @property
    def place(self) -> str:
        """Return the run folder or the file of the model; for published weights, the architecture."""
        place = self.folder or self.checkpoint
        return f"{self.trained.network['arch']}, published weights" if place is None else str(place.resolve())

    @property
    def results(self) -> Mapping[str, Any]:
        """Return the results of the run that trained the model; empty if there are none. DataError if damaged."""
        return (read_results(self.folder) if self.folder else None) or {}


def load_model(checkpoint: Path | None, arch: str | None, classes: Sequence[str] | None, *, pretrained: bool) -> Model:
    """Load the classifier to measure. Arguments and errors are those of `load_trained`."""
    trained = load_trained(checkpoint, arch=arch, classes=classes, pretrained=pretrained)
    if checkpoint is None:
        return Model(trained, _short(str(trained.network["arch"])), None)
    file = find_weight_file(checkpoint)
    folder = file.parent.parent if file.parent.name == CHECKPOINT_FOLDER else None
    if folder is None or not (folder / CONFIG_NAME).is_file():
        return Model(trained, _short(checkpoint.resolve().stem), file)
    require_plugins_of(folder)
    name = folder.resolve()
    return Model(trained, _short(f"{name.parent.name}_{name.name}"), file, folder)


def _short(name: str) -> str:
    return re.sub(r"[^\w.-]", "_", name)


def evaluate(
    model: Model,
    data: Path,
    overrides: Sequence[str] = (),
    *,
    split: str | None = None,
    class_map: ClassMap | None = None,
) -> Path:
    """Measure a classifier on every row of the data, and return the folder with the results of a run.

    The folder has config.yaml, results.json, results.pt and the predictions by row. adjusted_accuracy is None, because
    it needs the groups of training rows.

    data, split: as in `measured_data.open_data`.
    overrides: words of the command line, such as ['--data.attribute', 'Male'], of the settings in MEASURING.
    class_map: the model's classes that stand for each class of the data; None: by name.
    """
    check_overrides(overrides)
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise UsageError("debeton evaluate runs in one process; start it without torchrun")
    with open_data(data, split, model.trained.image_options) as whole:
        config = configuration(model, data, whole, overrides)
        device = distributed.pick_device(config.training.device)
        view = _view(whole, model.trained, config)
        match = match_classes(view.spec.classes, model.trained.classes, class_map)
        views = plant({SPLIT: view}, config)
        described = describe_data(views)
        folder = claim_folder(config, described)
        with locked(folder):
            _check_owner(folder, model)
            log_to_file(folder / "log.txt")
            for note in (match.note, model.trained.note_on_images if data.suffix != ".beton" else ""):
                if note:
                    logger.info("note: %s", note)
            run = Run(config, folder, device, views, ResultLog(folder / LOG_NAME), StopRequest(), data=described)
            run.remarks.extend(_remarks(model, described))
            network = MatchedClasses(model.trained.bare, match)
            placed = place_network(network, device, channels_last=config.training.channels_last)
            finish(run, placed, more=_known(model, data, match.note))
    return folder


def check_overrides(words: Sequence[str]) -> None:
    """Raise UsageError for a setting that does not decide how a model is measured: it would have no effect."""
    for word in words:
        key = word.removeprefix("--").split("=")[0]
        if (
            word.startswith("--")
            and "." in key
            and not any(key.startswith(known) if known.endswith(".") else key == known for known in MEASURING)
        ):
            raise UsageError(
                f"--{key} has no effect on an evaluation; these settings have: "
                + ", ".join(f"{known}*" if known.endswith(".") else known for known in MEASURING)
            )


def configuration(model: Model, data: Path, view: View, overrides: Sequence[str]) -> Config:
    """Return the settings of an evaluation: those of the run that trained the model, and how it is measured now.

    The columns of the run (data.label, data.attribute, data.aligned) are kept for data of the same name.
    """
    inputs, trained = model.trained.inputs, model.trained
    written = model.folder / CONFIG_NAME if model.folder is not None else None
    values = read_mapping(written, "config file", "sections such as 'training:'") if written is not None else {}
    if wrong := [name for name, section in values.items() if not isinstance(section, dict | None)]:
        raise UsageError(f"{written}: section '{wrong[0]}' is {values[wrong[0]]!r}; expected keys below it")
    sections = {name: dict(values.get(name) or {}) for name in (*values, "data", "training", "model", "resolution")}
    if sections["data"].get("dataset") != view.spec.name:
        for name in ("label", "attribute", "aligned"):
            sections["data"].pop(name, None)
    for name in ("pseudo_groups", "train_path", "val_path", "target_path", "synthetic_path", "custom_indices_path"):
        sections["data"].pop(name, None)  # of the rows that the model was trained and selected on
    sections["data"] |= {"dataset": view.spec.name, "test_path": str(data)}
    sections["training"] |= {
        "exp_name": f"evaluate_{model.name}_on_{file_name(view.spec.name)}",
        "decoder_val": inputs["decoder"],
        "tta": inputs["tta"],
        "oracle": False,
    }
    sections["training"].pop("outdir", None)
    sections["resolution"] |= {"val_res": inputs["resolution"]}
    if model.folder is None:
        known = _card(model)
        sections["training"] |= {"method": known.get("method") or METHOD, "seed": known.get("seed") or 0}
        sections["model"] |= {
            "arch": trained.network["arch"],
            "pretrained": model.checkpoint is None,
            "blurpool": bool(trained.network.get("blurpool", False)),
            "checkpoint": None if model.checkpoint is None else str(model.checkpoint),
        }
    with temporary_folder("evaluate") as folder:
        file = Path(folder, CONFIG_NAME)
        file.write_text(yaml.safe_dump(sections, allow_unicode=True), encoding="utf-8")
        return load([file], overrides)


def _card(model: Model) -> Mapping[str, Any]:
    """Return the run that an exported model names; empty for other files."""
    card = model.checkpoint.with_name(CARD) if model.checkpoint is not None else None
    run = read_card(card).get("run") if card and card.is_file() else None
    return check_run(run, str(card)) if run else {}


def _view(whole: View, trained: Trained, config: Config) -> View:
    """Return the rows with the columns, groups and normalisation that they are measured with."""
    data = config.data
    view = whole.with_task(data.label, data.attribute, data.aligned, data.group_by)
    if data.pseudo_groups is not None:
        view = pseudo_grouped(view, Path(data.pseudo_groups), data.pseudo_column, data.pseudo_kind)
    network = trained.network
    return with_normalisation({SPLIT: view}, tuple(network["mean"]), tuple(network["std"]))[SPLIT]


def _check_owner(folder: Path, model: Model) -> None:
    """Raise DataError if a folder holds the results of another model with the same settings."""
    file = folder / RESULTS_NAME
    if not file.is_file():
        return
    if damage := damaged_results(folder):
        raise DataError(
            f"{damage}, so it does not say whose results they are; remove the file to measure the model anew, or give "
            "this evaluation another --name"
        )
    known = ((read_results(folder) or {}).get("evaluated") or {}).get("model")
    if known != model.place:
        raise DataError(
            f"{folder} holds the results of {known or 'another run'}, which has the same settings; give this "
            "evaluation another --name"
        )
    logger.info("%s is measured again", folder)
    file.unlink()  # predictions of now beside results of before would not go together


def _remarks(model: Model, described: Mapping[str, Mapping[str, str]]) -> list[str]:
    """Return a remark if the measured rows are those that the model was trained or selected on."""
    recorded = (recorded_data(model.folder) if model.folder else None) or {}
    now = {part: value for part, value in described[SPLIT].items() if part != "file"}
    same = [
        split
        for split, parts in recorded.items()
        if not split.startswith("test") and {part: value for part, value in parts.items() if part != "file"} == now
    ]
    return [f"measured on the rows of '{split}' of the model's own run; not a held-out result" for split in same]


def _known(model: Model, data: Path, note: str) -> dict[str, Any]:
    """Return the entries of results.json that come from the training of the model."""
    results = model.results
    published = {"published": model.trained.network["arch"]} if model.checkpoint is None else None
    return {
        **{key: results[key] for key in SELECTION_KEYS if key in results},
        "source": results.get("source") or published,
        "evaluated": {"model": model.place, "data": str(data), **({"classes": note} if note else {})},
    }
