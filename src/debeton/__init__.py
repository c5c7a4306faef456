"""debeton: training that does not take the shortcut.

The names below are the library; docs/library.md shows their use. Each is imported when it is first used: `import
debeton` itself imports no torch, compiles nothing and opens no file.

Data:
    DatasetSpec: names of classes and attributes, and which of them go together
    Rows: one split before it is written, labels, attributes and a way to read each image
    rows_from_arrays: Rows of images and labels in memory
    rows_from_dataset: Rows of any PyTorch map-style data set
    write_beton: write Rows as a beton with its sidecar
    write_dataset: write any PyTorch map-style data set as a beton, each item read once
    WriteOptions: how images are stored, JPEG or raw, quality, largest size
    adopt_beton: give a beton that FFCV's own writer made a sidecar, without changing it
    open_beton: open a beton; no image is decoded
    View: which rows of a beton, how often, in which order, in which groups
    make_loader: batches of a view, decoded ahead by a background thread
    LoaderOptions: decoder, augmentation, resolution, device
    Batch: the rows of one step, image, label, attribute, group, source, row

Training and measuring:
    Objective: base class of losses that see a whole batch
    StepOutput: the loss and the logits of one step
    CrossEntropy: the objective of ordinary training
    fit: train a network on a loader
    evaluate: measure a network on a loader, accuracy by group, predictions and losses
    group_metrics: every accuracy from counts by group
    GroupMeter: counts by group of batch after batch, on the device
    measure_predictions: every accuracy of predictions made elsewhere

Runs:
    load_config: the settings of files and overrides
    open_run: the run of these settings in its folder, new or resumed
    fit_phase: train through one phase of a run, as a method does
    load_trained: the classifier of a run, a checkpoint or an exported folder
    predict: the probabilities of a trained classifier for image files

Extending:
    register_method: a method, a function from a run to the trained network
    register_finder: a group finder, a function from a run to the groups of its training rows
    Found, Groups, found_groups: the result of a finder, the groups of rows, and the table that holds them
    register_source: a data set, a function from a raw folder to its splits
    Dataset, Option, Request: the result, the options and the argument of a source
    register_trigger: a trigger, a function from its options to what is drawn over a frame
    Layers, TriggerOptions: what a trigger draws, and its options
    register_augmentation: an augmentation, a class whose instances change a batch of images
    register_network: a network, a function from the number of classes to a module
    section, setting: declare the settings of a method of your own
    load_plugins: load files or modules that register such things

Errors:
    UsageError: a command, a setting or an argument is wrong
    DataError: a file or a data set is not as it should be
"""

from __future__ import annotations

import importlib
import os

__version__ = "0.1.0"

# torch's OpenMP threads spin while they wait, and so take the cores from the threads that decode the next batch:
# waiting passively trains 3 to 4 times faster on two busy cores and a tenth slower on two idle ones (RESULTS.md).
# Read when torch is first imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

TYPE_CHECKING = False  # true for type checkers; importing typing for it would take two thirds of the time
if TYPE_CHECKING:
    from typing import Any

    from debeton.config import section as section
    from debeton.config import setting as setting
    from debeton.data.beton.reading import open_beton as open_beton
    from debeton.data.beton.writer import WriteOptions as WriteOptions
    from debeton.data.beton.writer import write_beton as write_beton
    from debeton.data.loader.augment import register_augmentation as register_augmentation
    from debeton.data.loader.batch import Batch as Batch
    from debeton.data.loader.loader import make_loader as make_loader
    from debeton.data.loader.options import LoaderOptions as LoaderOptions
    from debeton.data.raw.adopt import adopt_beton as adopt_beton
    from debeton.data.raw.own_data import rows_from_arrays as rows_from_arrays
    from debeton.data.raw.own_data import rows_from_dataset as rows_from_dataset
    from debeton.data.raw.write_dataset import write_dataset as write_dataset
    from debeton.data.sources import Dataset as Dataset
    from debeton.data.sources import Option as Option
    from debeton.data.sources import Request as Request
    from debeton.data.sources import register_source as register_source
    from debeton.data.spec import DatasetSpec as DatasetSpec
    from debeton.data.spec import Rows as Rows
    from debeton.data.triggers.trigger import Layers as Layers
    from debeton.data.triggers.trigger import TriggerOptions as TriggerOptions
    from debeton.data.triggers.trigger import register_trigger as register_trigger
    from debeton.data.views.view import View as View
    from debeton.library import evaluate as evaluate
    from debeton.library import fit as fit
    from debeton.library import fit_phase as fit_phase
    from debeton.library import load_config as load_config
    from debeton.library import measure_predictions as measure_predictions
    from debeton.methods import Found as Found
    from debeton.methods import Groups as Groups
    from debeton.methods import found_groups as found_groups
    from debeton.methods import register_finder as register_finder
    from debeton.methods import register_method as register_method
    from debeton.nets.models import register_network as register_network
    from debeton.nets.trained import load_trained as load_trained
    from debeton.nets.trained import predict as predict
    from debeton.system.errors import DataError as DataError
    from debeton.system.errors import UsageError as UsageError
    from debeton.system.plugins import load_plugins as load_plugins
    from debeton.train.metrics import GroupMeter as GroupMeter
    from debeton.train.metrics import group_metrics as group_metrics
    from debeton.train.objective import CrossEntropy as CrossEntropy
    from debeton.train.objective import Objective as Objective
    from debeton.train.objective import StepOutput as StepOutput
    from debeton.train.run import open_run as open_run

# The module that each public name comes from.
_MODULES = {
    "Batch": "debeton.data.loader.batch",
    "CrossEntropy": "debeton.train.objective",
    "DataError": "debeton.system.errors",
    "Dataset": "debeton.data.sources",
    "DatasetSpec": "debeton.data.spec",
    "Found": "debeton.methods",
    "GroupMeter": "debeton.train.metrics",
    "Groups": "debeton.methods",
    "Layers": "debeton.data.triggers.trigger",
    "LoaderOptions": "debeton.data.loader.options",
    "Objective": "debeton.train.objective",
    "Option": "debeton.data.sources",
    "Request": "debeton.data.sources",
    "Rows": "debeton.data.spec",
    "StepOutput": "debeton.train.objective",
    "TriggerOptions": "debeton.data.triggers.trigger",
    "UsageError": "debeton.system.errors",
    "View": "debeton.data.views.view",
    "WriteOptions": "debeton.data.beton.writer",
    "adopt_beton": "debeton.data.raw.adopt",
    "evaluate": "debeton.library",
    "fit": "debeton.library",
    "fit_phase": "debeton.library",
    "found_groups": "debeton.methods",
    "group_metrics": "debeton.train.metrics",
    "load_config": "debeton.library",
    "load_plugins": "debeton.system.plugins",
    "load_trained": "debeton.nets.trained",
    "make_loader": "debeton.data.loader.loader",
    "measure_predictions": "debeton.library",
    "open_beton": "debeton.data.beton.reading",
    "open_run": "debeton.train.run",
    "predict": "debeton.nets.trained",
    "register_augmentation": "debeton.data.loader.augment",
    "register_finder": "debeton.methods",
    "register_method": "debeton.methods",
    "register_network": "debeton.nets.models",
    "register_source": "debeton.data.sources",
    "register_trigger": "debeton.data.triggers.trigger",
    "rows_from_arrays": "debeton.data.raw.own_data",
    "rows_from_dataset": "debeton.data.raw.own_data",
    "section": "debeton.config",
    "setting": "debeton.config",
    "write_beton": "debeton.data.beton.writer",
    "write_dataset": "debeton.data.raw.write_dataset",
}
__all__ = ["__version__", *_MODULES]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used."""
    if name not in _MODULES:
        raise AttributeError(f"module 'debeton' has no attribute '{name}'")
    value = getattr(importlib.import_module(_MODULES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """Return the public names, sorted, and the module's own."""
    return sorted({*globals(), *__all__})
