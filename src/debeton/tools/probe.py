"""Linear probes of a trained network's features: is an image synthetic, and which attribute does it have?

From Fake to Real argues that training on biased real rows together with synthetic rows that balance them ties the
attribute to the source, so that the network learns both. A probe shows this. It is a logistic regression on the
features of one half of the rows, and its accuracy is measured on the other half. The rows are synthetic ones and those
of the test split. For the probe of the source, every group has as many real as synthetic rows. So neither the label nor
the attribute gives the source away, nor the label the attribute.
"""

from __future__ import annotations

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
from debeton.data.views.subsets import sample_groups
from debeton.data.views.synthetic_modes import synthetic_view
from debeton.data.views.view import View
from debeton.nets.checkpoint import copy_weights
from debeton.nets.describe import describe_network
from debeton.nets.models import rebuild
from debeton.nets.weight_files import read_weight_file
from debeton.nets.weight_fitting import check_described
from debeton.system.distributed import pick_device
from debeton.system.errors import DataError, UsageError
from debeton.system.files import write_text
from debeton.system.json_files import read_json
from debeton.system.json_shapes import Table, Within
from debeton.system.json_text import json_text
from debeton.system.plugins import require_plugins_of
from debeton.system.seed import make_rng
from debeton.train.features import extract_features
from debeton.train.objective import Precision
from debeton.train.result_files import is_finished
from debeton.train.run_data import check_data, describe_data, recorded_data
from debeton.train.run_loaders import eval_loader
from debeton.train.run_views import beton_paths, prepare_views

PROBE_NAME = "probe.json"
PROBES = Table(
    keys={"per_group": Within(int, 0)},
    others=Table(keys={"accuracy": Within(float, 0, 1), "chance": Within(float, 0, 1), "rows": Within(int, 0)}),
)


@dataclass(frozen=True)
class Probe:
    """Result of a probe.

    accuracy: on the other half of the rows, averaged over the values; a fraction.
    chance: 1 / number of values.
    rows: of both halves.
    """

    accuracy: float
    chance: float
    rows: int


def probe_run(folder: Path, per_group: int = 200) -> dict[str, Any]:
    """Probe a finished run and write the results to its probe.json.

    The attribute is probed if it varies, and the source if there are synthetic rows.
    per_group: the most rows of each group and source.
    DataError if the run is not finished, has no test split, or was trained on other data than its betons hold now.
    """
    if not is_finished(folder):
        raise DataError(f"{folder} is not finished; only a finished run has a network that can be probed")
    require_plugins_of(folder)
    config = load([folder / "config.yaml"])
    device = pick_device(config.training.device)
    views = prepare_views(config)
    check_data(recorded_data(folder), describe_data(views), str(folder))
    if "test" not in views:
        raise DataError(f"{folder} has no test split; a probe needs rows that were not used for training or selection")
    real, seed = views["test"], config.data.seed
    model = _network(folder, config, real, device)
    probes = {"attribute": probe_attribute(model, real, config, per_group, device, seed)} if _varies(real) else {}
    synthetic = _synthetic(config, real)
    if synthetic is not None:
        probes["source"] = probe_source(model, real, synthetic, config, per_group, device, seed)
    content = {"per_group": per_group, **{name: vars(probe) for name, probe in probes.items()}}
    write_text(folder / PROBE_NAME, json_text(content, folder / PROBE_NAME, indent=1))
    return content


def _varies(view: View) -> bool:
    """Return whether a view has more than one attribute."""
    return len(view.spec.attributes) > 1


def _network(folder: Path, config: Config, view: View, device: torch.device) -> torch.nn.Module:
    """Load the run's network onto the device."""
    expected = describe_network(config, view.spec)
    file = read_weight_file(folder)
    check_described(file, expected, "the run's checkpoint")
    model = rebuild(expected)
    weights = file.weights
    expected_names = model.state_dict()
    # A head that DFR fitted anew has other parameter names. Features do not need it: they come before the head.
    copy_weights(model, {name: value for name, value in weights.items() if name in expected_names}, strict=False)
    return model.to(device)


def _synthetic(config: Config, real: View) -> View | None:
    """Return the synthetic rows of the run's betons under the run's columns; None if there are none."""
    paths = find_betons(config.data.dataset, Path(config.training.data_root), beton_paths(config.data))
    for split in ("synthetic", "train"):
        if split in paths:
            whole = View.whole(open_beton(paths[split]), split)
            view = whole.with_task(
                *(getattr(config.data, key) for key in ("label", "attribute", "aligned", "group_by"))
            )
            try:
                synthetic = synthetic_view(view)
            except UsageError:
                continue
            return View(**{**vars(synthetic), "spec": real.spec})
    return None


def probe_attribute(
    model: torch.nn.Module, real: View, config: Config, per_group: int, device: torch.device, seed: int
) -> Probe:
    """Probe the attribute in the features of test rows, equally many of every group."""
    sample = equally_many_per_group(real, per_group, seed)
    return fit_probe(_features(model, sample, config, device), sample.attribute[sample.rows], seed)


def probe_source(
    model: torch.nn.Module, real: View, synthetic: View, config: Config, per_group: int, device: torch.device, seed: int
) -> Probe:
    """Probe whether a row is synthetic, with equally many real and synthetic rows in every group."""
    counts = np.minimum(real.group_counts(), synthetic.group_counts())[real.spec.existing_groups]
    each = int(min(per_group, counts.min(initial=per_group)))
    if each < 2:
        raise DataError(f"a group of {real.spec.name} has fewer than 2 test or synthetic rows; a probe needs 2 of each")
    parts = [equally_many_per_group(view, each, seed) for view in (real, synthetic)]
    x = np.concatenate([_features(model, part, config, device) for part in parts])
    return fit_probe(x, np.repeat([0, 1], [len(part) for part in parts]), seed)


def equally_many_per_group(view: View, count: int, seed: int) -> View:
    """Draw equally many rows of every group that exists: `count`, or as many as the smallest has.

    DataError if that is fewer than 2.
    """
    groups = view.spec.existing_groups
    each = int(min(count, view.group_counts()[groups].min()))
    if each < 2:
        raise DataError(f"a group of view '{view.name}' of {view.beton.path} has {each} rows; probes need 2 of each")
    return sample_groups(view, dict.fromkeys(groups, each), seed, "probe")


def _features(model: torch.nn.Module, view: View, config: Config, device: torch.device) -> np.ndarray[Any, Any]:
    """Compute the features [M, D] of a view's rows."""
    loader = eval_loader(view, config, device)
    return np.asarray(extract_features(model, loader, Precision(config.training.precision, device)).numpy())


def fit_probe(x: np.ndarray[Any, Any], codes: Ints, seed: int) -> Probe:
    """Fit a probe on a random half of the rows of every value, and measure it on the other half.

    x: features [M, D]; they are standardised. codes: int64 [M], the values.
    The probe is an L2 logistic regression with C = 1.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    rng, fitted = make_rng(seed, "probe halves"), np.zeros(len(codes), bool)
    for code in np.unique(codes):
        members = rng.permutation(np.flatnonzero(codes == code))
        fitted[members[: len(members) // 2]] = True
    model = make_pipeline(StandardScaler(), LogisticRegression(C=1.0, max_iter=2000)).fit(x[fitted], codes[fitted])
    correct = model.predict(x[~fitted]) == codes[~fitted]
    values = np.unique(codes)
    accuracy = float(np.mean([correct[codes[~fitted] == value].mean() for value in values]))
    return Probe(accuracy, 1 / len(values), len(codes))


def read_probe(folder: Path) -> Mapping[str, Any] | None:
    """Read the results of `probe_run` from a run folder; None if there are none."""
    path = folder / PROBE_NAME
    remedy = "remove the file, and the probe is fitted again"
    return read_json(path, PROBES, remedy=remedy) if path.is_file() else None
