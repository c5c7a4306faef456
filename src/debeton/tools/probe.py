"""What the features of a trained network still say: whether an image is synthetic, and which attribute it has.

From Fake to Real's argument is that mixing biased real with balancing synthetic rows ties the attribute to the source,
so that the network learns both. A linear probe shows it: logistic regression on the features of one half of some rows,
its accuracy on the other half. The rows are those of the test split and synthetic ones; where both are compared, every
group has as many of either: neither label nor attribute betrays the source, nor the label the attribute.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

import debeton.methods  # noqa: F401 - methods declare their settings
from debeton.config import Config, load
from debeton.data.beton.reading import open_beton
from debeton.data.spec import Ints
from debeton.data.views.splits import find_betons
from debeton.data.views.synthetic import cells, synthetic_view
from debeton.data.views.view import View
from debeton.nets.checkpoint import BEST_CHECKPOINT, run_weights
from debeton.nets.describe import describe_network
from debeton.nets.models import make_model
from debeton.system.distributed import pick_device
from debeton.system.errors import DataError, UsageError
from debeton.system.files import write_text
from debeton.system.plugins import require_plugins_of
from debeton.system.seed import make_rng
from debeton.train.features import extract_features
from debeton.train.objective import Precision
from debeton.train.run_loaders import eval_loader
from debeton.train.run_views import SPLITS, prepare_views

PROBE_NAME = "probe.json"


@dataclass(frozen=True)
class Probe:
    """accuracy: mean over values, of held-out rows, a fraction. chance: 1 / number of values. rows: both halves."""

    accuracy: float
    chance: float
    rows: int


def probe_run(folder: Path, per_group: int = 200) -> dict[str, Any]:
    """Probe a finished run and keep what was found in its probe.json: attribute and, where there are any, source.

    per_group: rows of each group and source at most. DataError where the run is not finished or has no test split.
    """
    if not (folder / "results.json").is_file():
        raise DataError(f"{folder} is not finished; only a finished run has a network to be probed")
    require_plugins_of(folder)
    config = load([folder / "config.yaml"])
    device = pick_device(config.training.device)
    views = prepare_views(config)
    if "test" not in views:
        raise DataError(f"{folder} has no test split, and probes look at rows that nothing was trained or selected on")
    real, seed = views["test"], config.data.seed
    model = _network(folder, config, real, device)
    found = {"attribute": probe_attribute(model, real, config, per_group, device, seed)} if _varies(real) else {}
    synthetic = _synthetic(config, real)
    if synthetic is not None:
        found["source"] = probe_source(model, real, synthetic, config, per_group, device, seed)
    content = {"per_group": per_group, **{name: vars(probe) for name, probe in found.items()}}
    write_text(folder / PROBE_NAME, json.dumps(content, indent=1))
    return content


def _varies(view: View) -> bool:
    return len(view.spec.attributes) > 1


def _network(folder: Path, config: Config, view: View, device: torch.device) -> torch.nn.Module:
    expected = describe_network(config, view.spec)
    weights = run_weights(folder / BEST_CHECKPOINT, expected, "the run's checkpoint")
    model = make_model(config.model.arch, view.spec.num_classes, blurpool=config.model.blurpool)
    own = model.state_dict()
    # A head that DFR fitted anew has a layout of its own; the features come before it.
    model.load_state_dict({name: value for name, value in weights.items() if name in own}, strict=False)
    return model.to(device)


def _synthetic(config: Config, real: View) -> View | None:
    """The synthetic rows of the run's betons under the run's columns; None where there are none."""
    given = {split: getattr(config.data, f"{split}_path") for split in SPLITS}
    paths = find_betons(config.data.dataset, Path(config.training.data_root), given)
    for split in ("synthetic", "train"):
        if split in paths:
            whole = View.whole(open_beton(paths[split]), split)
            view = whole.with_task(config.data.label, config.data.attribute, config.data.aligned)
            try:
                found = synthetic_view(view)
            except UsageError:
                continue
            return View(**{**vars(found), "spec": real.spec})
    return None


def probe_attribute(
    model: torch.nn.Module, real: View, config: Config, per_group: int, device: torch.device, seed: int
) -> Probe:
    """How well the attribute can be read from the features of test rows, equally many of every group."""
    chosen = some_of_each_group(real, per_group, seed)
    return fit_probe(_features(model, chosen, config, device), chosen.attribute[chosen.rows], seed)


def probe_source(
    model: torch.nn.Module, real: View, synthetic: View, config: Config, per_group: int, device: torch.device, seed: int
) -> Probe:
    """How well real and synthetic rows can be told apart by their features, equally many of either in every group."""
    counts = np.minimum(real.group_counts(), synthetic.group_counts())[cells(real)]
    each = int(min(per_group, counts.min(initial=per_group)))
    if each < 2:
        raise DataError(f"a group has fewer than 2 test or synthetic rows of {real.spec.name}; nothing to probe")
    parts = [some_of_each_group(view, each, seed) for view in (real, synthetic)]
    x = np.concatenate([_features(model, part, config, device) for part in parts])
    return fit_probe(x, np.repeat([0, 1], [len(part) for part in parts]), seed)


def some_of_each_group(view: View, count: int, seed: int) -> View:
    """As many rows of every group that exists, `count` or what the smallest has, drawn by the seed."""
    counts = view.group_counts()[cells(view)]
    each = int(min(count, counts.min()))
    if each < 2:
        raise DataError(f"a group of view '{view.name}' of {view.beton.path} has {each} rows; probes need 2 of each")
    group = view.group[view.rows]
    chosen = [make_rng(seed, "probe", g).permutation(np.flatnonzero(group == g))[:each] for g in cells(view)]
    return view.subset(np.sort(np.concatenate(chosen)))


def _features(model: torch.nn.Module, view: View, config: Config, device: torch.device) -> np.ndarray[Any, Any]:
    loader = eval_loader(view, config, device)
    return np.asarray(extract_features(model, loader, Precision(config.training.precision, device)).numpy())


def fit_probe(x: np.ndarray[Any, Any], codes: Ints, seed: int) -> Probe:
    """Standardised features, L2 logistic regression (C = 1) on a random half of every value, accuracy on the other."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    rng, fitted = make_rng(seed, "probe halves"), np.zeros(len(codes), bool)
    for code in np.unique(codes):
        mine = rng.permutation(np.flatnonzero(codes == code))
        fitted[mine[: len(mine) // 2]] = True
    model = make_pipeline(StandardScaler(), LogisticRegression(C=1.0, max_iter=2000)).fit(x[fitted], codes[fitted])
    right = model.predict(x[~fitted]) == codes[~fitted]
    values = np.unique(codes)
    accuracy = float(np.mean([right[codes[~fitted] == value].mean() for value in values]))
    return Probe(accuracy, 1 / len(values), len(codes))


def read_probe(folder: Path) -> Mapping[str, Any] | None:
    """What `probe_run` left in a run folder."""
    path = folder / PROBE_NAME
    return json.loads(path.read_text()) if path.is_file() else None
