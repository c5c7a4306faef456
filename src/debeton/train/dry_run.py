"""The dry run: print the resolved configuration, the group counts of every view, and the shapes of a batch."""

from __future__ import annotations

from pathlib import Path

from debeton.config import Config
from debeton.data.loader.loader import first_shapes, make_loader
from debeton.data.loader.options import LoaderOptions
from debeton.data.views.view import View
from debeton.nets.transfer import check_transfer
from debeton.system import distributed
from debeton.train.held_out import warn_of_results
from debeton.train.results import ResultLog
from debeton.train.run import Run
from debeton.train.run_views import check_selection, check_selection_rows, prepare_views, warn_of_views
from debeton.train.stop import StopRequest


def prepare(config: Config) -> Run:
    """Return the run of a configuration as its method's check sees it: with views, and without a folder on disk."""
    check_transfer(config)
    views = prepare_views(config)
    check_selection(config, views)
    device, folder = distributed.pick_device(config.training.device), Path(config.training.outdir)
    return Run(config, folder, device, views, ResultLog(folder / "results.jsonl"), StopRequest())


def describe(run: Run, *, selects: bool = True) -> str:
    """Return the text of --dry-run. Decode one batch; train nothing and write nothing.

    selects: the method trains a classifier, of which an epoch is selected.
    """
    config, views = run.config, run.views
    warn_of_views(config, views)
    parts = [config.dump()]
    parts += [_describe_view(view) for view in views.values()]
    if selects:
        parts.append(f"epoch selected by {check_selection_rows(config, views).text}")
    warn_of_results(config, views)
    training = config.training
    options = LoaderOptions(training.decoder_train, training.augment, config.resolution.val_res)
    shapes = first_shapes(make_loader(views["train"], min(training.batch_size, len(views["train"])), options=options))
    parts.append("one batch: " + ", ".join(f"{name} {list(shape)}" for name, shape in shapes.items()))
    return "\n".join(parts)


def _describe_view(view: View) -> str:
    counts = view.counts_by_name()
    width = max(map(len, counts))
    lines = [f"view {view.name}: {len(view)} rows of {view.beton.path}, order {view.order}"]
    if view.planted is not None:
        planted = int(view.planted.mask[view.rows].sum())
        lines.append(f"  trigger {view.planted.trigger.name} in {planted} rows")
    return "\n".join(lines + [f"  {name:<{width}}  {count}" for name, count in counts.items()])
