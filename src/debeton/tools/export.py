"""Export of a trained classifier: its weights as safetensors, its description as JSON, and a model card for people.

safetensors: https://huggingface.co/docs/safetensors. The card has the sections of Mitchell et al. 2019 (Model Cards for
Model Reporting, arXiv 1810.03993) that a run can fill in by itself.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from safetensors.torch import save

from debeton.nets.trained import Trained, load_trained
from debeton.nets.weight_files import CARD, WEIGHTS, read_weight_file
from debeton.report.tables import markdown_text, to_markdown
from debeton.system.digests import with_digests
from debeton.system.errors import DataError
from debeton.system.files import write_files
from debeton.system.json_shapes import fault_in
from debeton.system.json_text import json_text
from debeton.train.remarks import remarks_of
from debeton.train.result_files import RESULTS, read_results

README = "README.md"
RUN_RESULTS = (
    "dataset",
    "method",
    "seed",
    "selection",
    "selected_by",
    "selected_epoch",
    "config_hash",
    "versions",
    "train_groups",
    "dataset_options",
    "val",
    "test",
    "other_tests",
)
ACCURACY_TITLES = {
    "accuracy": "accuracy",
    "adjusted_accuracy": "adjusted",
    "mean_group_accuracy": "mean group",
    "worst_group_accuracy": "worst group",
    "bias_aligned_accuracy": "aligned",
    "bias_conflicting_accuracy": "conflicting",
    "mean_conflicting_group_accuracy": "mean-conflicting",
}


def export(path: Path, out: Path) -> Path:
    """Write model.safetensors, model.json and README.md of a classifier into the folder `out`.

    path: a run folder or a checkpoint. If the run's results.json lies beside the checkpoint, its results are included.
    All three files are written or none. model.json holds digests of itself and of the weights. Returns `out`. Errors
    as in `load_trained`.
    """
    file = read_weight_file(path)
    trained, content = load_trained(path), file.content
    described_by = str(file.path.with_name(CARD) if file.path.name == WEIGHTS else file.path)
    card = {
        "model": dict(trained.network),
        "inputs": dict(trained.inputs),
        "phase": content.get("phase"),
        "trained_on": content.get("trained_on"),
        "run": check_run(content["run"], described_by) if content.get("run") else _run(file.path),
    }
    weights = {name: value.contiguous() for name, value in trained.bare.state_dict().items()}
    stored = save(weights, metadata={"format": "pt"})
    card_with_digests = with_digests(card, {WEIGHTS: hashlib.sha256(stored).hexdigest()})
    files = {
        WEIGHTS: stored,
        README: describe(trained, card).encode(),
        CARD: json_text(card_with_digests, out / CARD, indent=1).encode(),  # last: the others exist if it does
    }
    write_files({out / name: content for name, content in files.items()})
    return out


def _run(checkpoint: Path) -> dict[str, Any] | None:
    """Return the results of a checkpoint's run, or None if they do not exist."""
    content = read_results(checkpoint.parent.parent)
    if content is None:
        return None
    return {**{key: content.get(key) for key in RUN_RESULTS}, "remarks": remarks_of(content)}


def check_run(run: Any, where: str) -> dict[str, Any]:
    """Return the results of a run as an exported model has them. DataError names what is damaged.

    where: the file that holds them, for the message.
    """
    if fault := fault_in(run, RESULTS, "run"):
        raise DataError(f"{where}{fault}; export the model again")
    return {**{key: run.get(key) for key in RUN_RESULTS}, "remarks": remarks_of(run)}


def describe(trained: Trained, card: Mapping[str, Any]) -> str:
    """Return the model card as Markdown."""
    network, inputs, run = card["model"], card["inputs"], card["run"]
    parts = [
        markdown_text(f"# {network['arch']} on {inputs['dataset']}"),
        f"A classifier of {len(trained.classes)} classes ({markdown_text(', '.join(trained.classes[:12]))}"
        f"{', ...' if len(trained.classes) > 12 else ''}), trained with debeton"
        + (
            f" by {run['method']}, seed {run['seed']}, epoch {run['selected_epoch']} selected by "
            f"{(run['selected_by'] or {}).get('text', run['selection'])}."
            if run
            else "."
        ),
        "## Use",
        "```\npython scripts/predict.py --checkpoint DIR --images IMAGES --out predictions.csv\n```",
        f"Images are decoded by '{inputs['decoder']}' at {inputs['resolution']} px and normalised by mean "
        f"{_numbers(network['mean'])} and deviation {_numbers(network['std'])} of values in [0, 1]"
        + ("; logits are averaged over the image and its mirror image." if inputs["tta"] else "."),
    ]
    if run:
        parts += ["## Results", "Percent.", to_markdown(_accuracies(run)).strip()]
        parts += [markdown_text(f"Remark: {remark}.") for remark in run["remarks"]]
        parts += [
            "## Groups",
            _limits(run),
            to_markdown(_groups(run)).strip(),
            "## Made with",
            ", ".join(f"{name} {version}" for name, version in (run["versions"] or {}).items())
            + f"; configuration {run['config_hash']}.",
        ]
    return "\n\n".join(parts) + "\n"


def _numbers(values: list[float]) -> str:
    """Return the values as text, with four digits each."""
    return "(" + ", ".join(f"{value:.4g}" for value in values) + ")"


def _tests(run: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Return the metrics of each split that was measured."""
    all_splits = {"val": run["val"], "test": run["test"], **(run["other_tests"] or {})}
    return {split: metrics for split, metrics in all_splits.items() if metrics}


def _percent(value: float | None) -> str:
    """Return a fraction as percent, or a dash for None."""
    return "–" if value is None else f"{100 * value:.1f}"


def _accuracies(run: Mapping[str, Any]) -> pd.DataFrame:
    """Return a table of accuracies, one row for each split."""
    return pd.DataFrame(
        [
            {"split": split, **{title: _percent(metrics.get(key)) for key, title in ACCURACY_TITLES.items()}}
            for split, metrics in _tests(run).items()
        ]
    )


def _groups(run: Mapping[str, Any]) -> pd.DataFrame:
    """Return a table of groups: training rows, evaluated rows, accuracy."""
    metrics = run["test"] or run["val"] or {}
    return pd.DataFrame(
        [
            {
                "group": name,
                "training rows": (run["train_groups"] or {}).get(name, 0),
                "evaluated": (metrics.get("group_count") or {}).get(name),
                "accuracy": _percent(accuracy),
            }
            for name, accuracy in (metrics.get("group_accuracy") or {}).items()
        ]
    )


def _limits(run: Mapping[str, Any]) -> str:
    """Return a sentence on the worst group, for the card."""
    metrics = run["test"] or run["val"]
    if not metrics or metrics.get("worst_group") is None:
        return "No group was measured."
    worst, accuracy = metrics.get("worst_group_accuracy"), metrics.get("accuracy")
    return (
        f"The worst group is '{markdown_text(metrics['worst_group'])}': {_percent(worst)} % "
        f"accuracy, against {_percent(accuracy)} % over all rows. On images with other shares of the "
        "groups, the accuracy will differ."
    )
