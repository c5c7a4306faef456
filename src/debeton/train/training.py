"""Training by gradient: `fit` trains a model through one phase of a run.

Read `fit` from top to bottom: it takes over a finished phase, or runs the loop (`loop.py`) from the phase's latest
checkpoint to its end. What a phase is trained with is section 'training', with values of the phase's own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from debeton.config import PhaseSettings, phase_settings
from debeton.data.loader.augment import split_mixing
from debeton.data.loader.loader import Loader, make_loader
from debeton.data.loader.options import LoaderOptions, Tail
from debeton.data.views.view import View
from debeton.nets.describe import describe_inputs, describe_network
from debeton.nets.shared_statistics import trained_batch_norms
from debeton.nets.transfer import body_is_still, describe_training
from debeton.system import distributed
from debeton.system.log import logger
from debeton.system.wording import count, duration
from debeton.train.batch_rows import check_smallest_batch, least_rows
from debeton.train.cut_mixing import with_cutmix
from debeton.train.evaluation import evaluate_view
from debeton.train.extension import continue_shorter
from debeton.train.feature_loader import FeatureStore, HeadOnly, reason_against_cache, refuse_cache
from debeton.train.keeper import PhaseKeeper, reason_of_epoch
from debeton.train.loop import TrainState, train_epochs
from debeton.train.metrics import Metrics
from debeton.train.micro_batches import micro_batches, warn_of_batch_norm
from debeton.train.objective import Objective, Precision
from debeton.train.optim import PLATEAU
from debeton.train.outline import PhaseStart, images_after
from debeton.train.pace import Pace
from debeton.train.phase import PhaseRecord
from debeton.train.phase_identity import phase_identity
from debeton.train.phase_setup import as_called, fit_options, hold_frozen, initial_state, learning_rate
from debeton.train.processes import check_processes
from debeton.train.run import Run
from debeton.train.run_loaders import loader_options
from debeton.train.schedule_checks import check_settings, warn_of_schedule
from debeton.train.selection import NO_SELECTION, Selection, selection_on

# An epoch on features takes less time than writing down the whole network after it.
EPOCHS_OF_FEATURES_SAVED_AT_ONCE = 10


def fit(
    run: Run,
    view: View,
    objective: Objective,
    *,
    phase: str = "train",
    model: nn.Module | None = None,
    settings: PhaseSettings | None = None,
    arch: str = "",
    val: View | None = None,
    sections: Sequence[str] | None = None,
) -> nn.Module:
    """Train through one phase, resume it, or take over its result. Return the model of the selected epoch.

    view: the training rows.
    objective: the loss of one step.
    phase: a name, unique in the run.
    model: the model to train; None for the run's network.
    settings: of this phase (`debeton.config.phase_settings`); None for those of section 'training'.
    arch: the architecture, for a model that is not the configured one.
    val: the rows that select the epoch; None for the view 'val'.
    sections: further sections of settings that the phase reads, beside its settings and those of the data. The phase
        is trained again only where they change (`phase_identity`), and runs of other methods take it over. None for
        `run.sections`.
    """
    training = settings or phase_settings(run.config)
    if val is None and objective.classifies:
        val = run.views.get("val")
    model = run.network() if model is None else model
    objective = with_cutmix(objective, training.augment, training.seed_of_augmentation)
    read = run.sections if sections is None else tuple(sections)
    run.about_to_train(PhaseStart(phase, view, objective, model, training, arch))
    identity = partial(phase_identity, run, phase, view, val, model, objective, training, read)
    run.phase(
        phase,
        model,
        lambda: _train(run, view, objective.to(run.device), phase, model, training, arch, val, identity(endless=True)),
        identity,
        **({} if read is None else {"shared": True}),
    )
    return model


def train_loader(run: Run, view: View, training: PhaseSettings | None = None) -> Loader:
    """Make the training batches of a view: shuffled or drawn by weight, with augmentation.

    training: the settings of a phase (`phase_settings`); None for those of the configuration.
    """
    training = training or phase_settings(run.config)
    batch_size = min(training.batch_size, view.largest_batch)
    if batch_size < training.batch_size:
        given, rows = training.batch_size, view.largest_batch
        logger.info("view '%s' holds %d rows: batches of %d instead of %d", view.name, rows, batch_size, given)
    tail: Tail = "drop" if training.drop_last else "share"
    least, options = least_rows(run.config), train_options(run, training)
    loader = make_loader(view, batch_size, seed=training.seed_of_order, tail=tail, least_rows=least, options=options)
    if loader.joined_rows:
        logger.info(
            "view '%s': the last %d of the %d rows of an epoch join the batch before, because batch norm needs %d rows",
            view.name,
            loader.joined_rows,
            view.epoch_size,
            least,
        )
    return loader


def train_options(run: Run, training: PhaseSettings) -> LoaderOptions:
    """Return the loader options of training batches by the settings of a phase."""
    return replace(
        loader_options(run.config, run.device),
        decoder=training.decoder_train,
        ops=split_mixing(training.augment)[0],
        augment_seed=training.seed_of_augmentation,
        resolution=training.resolution,
        channels_last=training.channels_last,
    )


def _train(
    run: Run,
    view: View,
    objective: Objective,
    phase: str,
    model: nn.Module,
    training: PhaseSettings,
    arch: str,
    val: View | None,
    endless_identity: str,
) -> PhaseRecord:
    """Train from the phase's latest checkpoint to its end, and leave the selected weights in checkpoint_best.pt."""
    check_settings(training)
    loader, model, features = _batches(run, view, objective, phase, model, training, arch)
    state = initial_state(run, view, objective, model, training)
    selection = _selection(val, phase, training, only_head=body_is_still(run.config) and not arch)
    keeper = _keeper(run, view, state, phase, training, arch, val, features, selection.rule)
    keeper.check_processes(run.processes)
    rows = loader.view.epoch_size if loader.tail != "drop" else len(loader) * loader.batch_size
    run.announce(
        phase,
        f"{count(training.epochs, 'epoch')} of {count(len(loader), 'step')}, {count(rows, 'row')} in batches of "
        f"{loader.batch_size}"
        f"{', on cached features' if features is not None else ''}",
    )
    rates = partial(learning_rate, training, len(loader))
    continues = continue_shorter(run, keeper, training, endless_identity, rates, len(loader))
    if keeper.restore(run.device):
        logger.info("resuming phase '%s' at epoch %d, step %d", phase, state.epoch, state.step)
    keeper.pace = Pace(training.epochs, rows / len(loader), images_after(run.outline, phase))
    keeper.pace.begin(state.step, state.seconds)
    keeper.finish_pending()
    train_epochs(
        state,
        loader,
        replace(
            fit_options(run, state, training, len(loader), configured=not arch),
            title=f"{phase}{run.place_of(phase)}",
            phase=phase,
            kept=keeper.kept,
        ),
        forward=as_called(run, model, objective, phase, training),
        after_epoch=keeper.after_epoch,
        ended=lambda: bool(keeper.reason_to_end),
        save=keeper.save,
        stop=run.stop,
    )
    record = PhaseRecord(
        seconds=state.seconds,
        selected_epoch=keeper.select(),
        images=state.step * loader.batch_size,
        data_wait=state.data_wait,
        processes=keeper.processes,
        selection=selection.to_json(),
        ended_early=keeper.reason_to_end,
        features=features,
        epochs=training.epochs,
        endless_identity=endless_identity,
        continues=continues,
    )
    _say_end(run, phase, record, selection)
    return record


def _batches(
    run: Run,
    view: View,
    objective: Objective,
    phase: str,
    model: nn.Module,
    training: PhaseSettings,
    arch: str,
) -> tuple[Loader, nn.Module, FeatureStore | None]:
    """Return the batches of a phase, the model that sees them, and its cached features, if any.

    An objective that accumulates gradients gets its parts of a batch.
    """
    loader = train_loader(run, view, training)
    features = None if arch else _feature_store(run, model, objective, training)
    hold = None if arch else hold_frozen(run)
    micro = objective.micro = micro_batches(loader.batch_size, training.accumulate, loader.least_rows)
    if features is not None:
        loader, model = features.training(loader), HeadOnly(model)
    elif objective.classifies:
        check_smallest_batch(model, loader, phase, shared=run.config.dist.sync_bn, hold=hold, micro=micro)
    if micro is not None:
        warn_of_batch_norm(model, micro, loader.batch_size, phase, hold)
    return loader, model, features


def _selection(val: View | None, phase: str, training: PhaseSettings, *, only_head: bool) -> Selection:
    """Return the rule that selects the epoch of a phase, with warnings of it and of the schedule."""
    selection = selection_on(val, training.selection)
    if selection.text != selection.asked and val is not None:
        logger.warning("warning: the epoch of phase '%s' is selected by %s", phase, selection.text)
    warn_of_schedule(training, phase, selects=selection.rule != NO_SELECTION, only_head=only_head)
    return selection


def _say_end(run: Run, phase: str, record: PhaseRecord, selection: Selection) -> None:
    """Log the time that a phase took, and why it has this epoch."""
    assert record.selected_epoch is not None
    if record.ended_early:
        logger.info("phase '%s' ended early, at %s", phase, record.ended_early)
    values = _values_of(run, phase)
    why = reason_of_epoch(record.selected_epoch, record.epochs, selection.rule, selection.text, values)
    wait = 100 * (record.data_wait or 0)
    logger.info("phase '%s' took %s, data_wait %.1f %%", phase, duration(record.seconds), wait)
    logger.info("phase '%s': %s", phase, why)


def _values_of(run: Run, phase: str) -> dict[int, Metrics]:
    """Return the validation metrics of a phase by epoch, as the log has them."""
    lines = run.log.read() if distributed.is_main() else []
    return {line["epoch"]: line["metrics"] for line in lines if (line["phase"], line["split"]) == (phase, "val")}


def _feature_store(run: Run, model: nn.Module, objective: Objective, training: PhaseSettings) -> FeatureStore | None:
    """Return the cached features to train on; None where training on them is not the same as on the images."""
    wanted = run.config.model.cache
    if wanted == "off" or not (body_is_still(run.config) and objective.takes_features):
        return None
    prog_resizing = run.config.resolution.prog_resizing
    reason = reason_against_cache(
        model, train_options(run, training), prog_resizing=prog_resizing, ema=training.ema, tta=training.tta
    )
    if reason and wanted == "on":
        raise refuse_cache(reason)
    if reason:
        return None
    folder = Path(run.config.training.outdir) / "features"
    return FeatureStore(model, Precision(training.precision, run.device), folder, progress=run.progress)


def _keeper(
    run: Run,
    view: View,
    state: TrainState,
    phase: str,
    training: PhaseSettings,
    arch: str,
    val: View | None,
    features: FeatureStore | None,
    rule: str,
) -> PhaseKeeper:
    def accuracy_on(view: View) -> Callable[[nn.Module], Metrics]:
        return lambda model: evaluate_view(run, model, view, features=features).metrics

    hold = None if arch else hold_frozen(run)
    own_statistics = not run.config.dist.sync_bn and bool(trained_batch_norms(state.model, hold))
    measures_test = state.objective.classifies and training.oracle
    return PhaseKeeper(
        name=phase,
        state=state,
        folder=run.checkpoints,
        log=run.log,
        identity=_identity(run, view, training.resolution, arch),
        evaluate=None if val is None else accuracy_on(val),
        rule=rule,
        epochs=training.epochs,
        pace=Pace(training.epochs),
        eval_epochs=training.eval_epochs,
        patience=training.patience,
        lr_patience=training.lr_patience if training.lr_scheduler == PLATEAU else None,
        lead=leading_metric(run),
        save_every=EPOCHS_OF_FEATURES_SAVED_AT_ONCE if features else 1,
        oracle=accuracy_on(run.views["test"]) if measures_test else None,
        processes=(distributed.world_size(),),
        check_processes=partial(check_processes, own_statistics=own_statistics),
        check=run.check_data,
    )


def leading_metric(run: Run) -> str:
    """Return the accuracy that the log leads with: by training.granularity, or the data set's own metric."""
    kind = run.config.training.granularity
    if kind == "auto":
        kind = "per_class" if run.views["train"].spec.metric == "mean_per_class" else "global"
    return "mean_class_accuracy" if kind == "per_class" else "accuracy"


def _identity(run: Run, view: View, resolution: int, arch: str) -> dict[str, Any]:
    """Return the plain values of every checkpoint.

    They are the hashes of configuration and data, and what rebuilds the model and its inputs.
    """
    return {
        "config_hash": run.config.identity_hash(),
        "model": describe_network(run.config, view.spec, arch),
        "inputs": describe_inputs(run.config, view.spec, run.views, resolution),
        "trained_on": describe_training(run.config),
        "data": run.data,
    }


def features_serve(run: Run, start: PhaseStart) -> bool:
    """Return whether a phase trains on cached features."""
    return not start.arch and _feature_store(run, start.model, start.objective, start.training) is not None


def train_briefly(run: Run, start: PhaseStart, loader: Loader) -> None:
    """Take the steps of one epoch of a loader as `fit` takes them. Nothing is evaluated, logged or saved."""
    start.objective.micro = micro_batches(loader.batch_size, start.training.accumulate, loader.least_rows)
    state = initial_state(run, start.view, start.objective.to(run.device), start.model, start.training)
    options = fit_options(run, state, start.training, len(loader), configured=not start.arch)
    forward = as_called(run, start.model, start.objective, start.phase, start.training)
    train_epochs(state, loader, replace(options, epochs=1, progress=False), forward=forward)
