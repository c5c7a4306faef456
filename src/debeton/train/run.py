"""A run: one configuration in one folder, made of phases, resumed by the same command.

A method (`methods/`) is a function of a Run. It asks for views, a model and phases; the Run knows folders,
checkpoints, devices and results.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

from debeton.config import Config
from debeton.data.loader.loader import Loader, make_loader
from debeton.data.loader.options import LoaderOptions, Tail
from debeton.data.triggers.trigger import Trigger
from debeton.data.views.view import View
from debeton.nets.checkpoint import load_run_weights
from debeton.nets.describe import describe_inputs, describe_network
from debeton.nets.models import freeze_batch_norm, make_model
from debeton.nets.networks import MirrorAveraged
from debeton.nets.transfer import body_is_still, check_transfer, describe_training, hold_body, transferred
from debeton.system import distributed
from debeton.system.log import log_to_file, logger, show_progress
from debeton.system.seed import seed_everything
from debeton.train.feature_loader import FeatureStore, HeadOnly, refuse_cache, why_not
from debeton.train.graphs import graphed
from debeton.train.loop import (
    Evaluation,
    FitOptions,
    Form,
    StopRequest,
    TrainState,
    evaluate_forms,
    fit,
    make_average,
)
from debeton.train.metrics import GroupMeter, Metrics
from debeton.train.objective import Objective, Precision
from debeton.train.optim import (
    SCHEDULES,
    ScheduleSpec,
    check_resolution_ramp,
    make_optimizer,
    ramped_resolution,
)
from debeton.train.phase import PhaseKeeper, PhaseRecords
from debeton.train.results import ResultLog, Sink, TensorBoardSink, WandbSink
from debeton.train.run_folder import claim_folder, locked
from debeton.train.run_loaders import eval_loader, loader_options
from debeton.train.run_views import check_selection, prepare_views

# An epoch on features takes less time than writing down the whole network after it.
EPOCHS_OF_FEATURES_SAVED_AT_ONCE = 10


@dataclass
class Run:
    """What a method works with.

    views: 'train' and, where there are any, 'val', 'test' and further 'test_...'. folder: of this run. device: of
    this process. notes: what a method found out beside its accuracy, plain values by method, for results.json.
    start: the weights that networks begin with, where these are neither new nor published ones. before: what finds them
    out, done when the first network is wanted. freeze_bn: keep batch-norm statistics whatever model.bn_mode says.
    features: where the last phase trained a head on features of a still body. sections: of the configuration, beside
    that of the method's name, which are the method's.
    """

    config: Config
    folder: Path
    device: torch.device
    views: dict[str, View]
    log: ResultLog
    stop: StopRequest
    notes: dict[str, Any] = field(default_factory=dict)
    timing: dict[str, Any] = field(default_factory=dict)
    selected_epoch: int | None = None
    start: Mapping[str, torch.Tensor] | None = None
    before: Callable[[], None] | None = None
    freeze_bn: bool = False
    features: FeatureStore | None = None
    sections: tuple[str, ...] = ()

    @property
    def progress(self) -> bool:
        return distributed.is_main() and show_progress(self.config.logging.progress)

    def new_network(self) -> nn.Module:
        """The configured network on the device; the seed alone decides its weights."""
        config = self.config
        seed_everything(config.training.seed)
        num_classes = self.views["train"].spec.num_classes
        if config.model.transfer == "NONE":
            chosen = config.model
            model = make_model(chosen.arch, num_classes, pretrained=chosen.pretrained, blurpool=chosen.blurpool)
        else:
            model = transferred(config, num_classes)
        layout = torch.channels_last if config.training.channels_last else torch.contiguous_format
        return model.to(self.device).to(memory_format=layout)  # type: ignore[call-overload, no-any-return]

    def make_model(self) -> nn.Module:
        """A network to train: with `start` for weights, or those of model.checkpoint, or as new."""
        if self.before is not None:
            before, self.before = self.before, None
            before()
        model, checkpoint = self.new_network(), self.config.model.checkpoint
        if self.start is not None:
            model.load_state_dict(self.start)
        elif checkpoint and self.config.model.transfer == "NONE":
            expected = describe_network(self.config, self.views["train"].spec)
            load_run_weights(model, Path(checkpoint), expected, "model.checkpoint")
        return model

    def phase_settings(self, own: Mapping[str, Any] | None = None) -> SimpleNamespace:
        """The section 'training' and the resolution, with a phase's own values in place of the configuration's."""
        common = {**vars(self.config.training), "resolution": self.config.resolution.val_res}
        return SimpleNamespace(**{**common, **(own or {})})

    def train_loader(self, view: View, training: Any = None) -> Loader:
        """Shuffled or weighted batches with augmentation, as the view and the configuration say.

        training: the settings of a phase (`phase_settings`), where they differ from the configuration's.
        """
        training = training or self.phase_settings()
        batch_size = min(training.batch_size, len(view))
        if batch_size < training.batch_size:
            logger.info(
                "view '%s' holds %d rows: batches of %d instead of %d",
                view.name,
                len(view),
                batch_size,
                training.batch_size,
            )
        tail: Tail = "drop" if training.drop_last else "share"
        options = self._train_options(training)
        return make_loader(view, batch_size, seed=training.seed, tail=tail, options=options)

    def _train_options(self, training: Any) -> LoaderOptions:
        options = loader_options(self.config, self.device)
        return replace(
            options,
            decoder=training.decoder_train,
            ops=training.augment,
            resolution=training.resolution,
            channels_last=training.channels_last,
        )

    def eval_loader(self, view: View, triggers: Sequence[Trigger] = ()) -> Loader:
        """Every row once, in file order, without augmentation; triggers as in `make_loader`."""
        return eval_loader(view, self.config, self.device, triggers)

    def _fit_options(self, training: Any, steps_per_epoch: int, *, configured: bool) -> FitOptions:
        """configured: the model is the configured one, to which the sections 'model' and 'resolution' apply."""
        res = self.config.resolution
        ramp = {"min_res": res.min_res, "max_res": res.max_res, "start": res.start_ramp, "end": res.end_ramp}
        if res.prog_resizing:
            check_resolution_ramp(list(ramp.values()))
        spec = ScheduleSpec(
            epochs=training.epochs,
            steps_per_epoch=steps_per_epoch,
            lr_peak_epoch=training.lr_peak_epoch,
            step_size=training.step_size,
            milestones=tuple(training.lr_milestones),
            gamma=training.gamma,
            warmup_epochs=training.warmup_epochs,
        )
        schedule = SCHEDULES.get(training.lr_scheduler)
        return FitOptions(
            epochs=training.epochs,
            lr=lambda step: training.lr * schedule(step, spec),
            resolution=(lambda epoch: ramped_resolution(epoch, **ramp)) if res.prog_resizing and configured else None,
            clip_grad=training.clip_grad,
            hold=self._hold() if configured else None,
            log_every=training.log_every,
            progress=self.progress,
            checkpoint=str(self.folder / "checkpoints" / "checkpoint_latest.pt"),
        )

    def _hold(self) -> Callable[[nn.Module], None] | None:
        """What of a network does not move in training, beside what has no gradient."""
        if body_is_still(self.config):
            return hold_body
        return freeze_batch_norm if self.freeze_bn or self.config.model.bn_mode == "eval" else None

    def _feature_store(self, model: nn.Module, objective: Objective, training: Any) -> FeatureStore | None:
        """The features that training may run on, where that is the same as training on the images."""
        wanted = self.config.model.cache
        if wanted == "off" or not (body_is_still(self.config) and objective.takes_features):
            return None
        options = self._train_options(training)
        reason = why_not(
            model, options, prog_resizing=self.config.resolution.prog_resizing, ema=training.ema, tta=training.tta
        )
        if reason and wanted == "on":
            raise refuse_cache(reason)
        folder = Path(self.config.training.outdir) / "features"
        precision = Precision(training.precision, self.device)
        return None if reason else FeatureStore(model, precision, folder, progress=self.progress)

    def fit(
        self,
        view: View,
        objective: Objective,
        *,
        phase: str = "train",
        model: nn.Module | None = None,
        settings: Mapping[str, Any] | None = None,
        classifies: bool = True,
        arch: str = "",
        val: View | None = None,
    ) -> nn.Module:
        """Train through one phase, resume it, or take over what it left when it is finished.

        model: where to start from; a fresh one by default. settings: values of the section 'training' that are this
        phase's own, e.g. {'epochs': 1}, and 'resolution'. classifies: off for a model without logits; nothing then
        evaluates it, and its last epoch is kept. arch: what the model is, where it is not the configured one. val:
        what chooses the epoch, the view 'val' by default. Returns the model of the selected epoch.
        """
        training = self.phase_settings(settings)
        if val is None and classifies:
            val = self.views.get("val")
        model = self.make_model() if model is None else model
        records = PhaseRecords(self.folder / "checkpoints")
        done = records.take_over(phase, model, self.device)
        if done is not None:
            logger.info("phase '%s' is finished; epoch %d of it is used", phase, done["selected_epoch"])
        else:
            done = self._train_phase(view, objective.to(self.device), phase, model, training, classifies, arch, val)
            records.finish(phase, done)
        self.selected_epoch = done["selected_epoch"]
        seconds = self.timing.setdefault("phases", {})
        seconds[phase] = done["seconds"]
        self.timing.setdefault("data_wait", {})[phase] = done["data_wait"]
        self.timing["train_seconds"] = sum(seconds.values())
        self.timing["train_images_per_second"] = done["images"] / max(done["seconds"], 1e-9)
        return model

    def _train_phase(
        self,
        view: View,
        objective: Objective,
        phase: str,
        model: nn.Module,
        training: Any,
        classifies: bool,
        arch: str,
        val: View | None,
    ) -> dict[str, Any]:
        """Run a phase from its latest checkpoint to its end; the model gets the selected epoch's weights."""
        loader = self.train_loader(view, training)
        self.features = None if arch else self._feature_store(model, objective, training)
        if self.features is not None:
            loader, model = self.features.training(loader), HeadOnly(model)
        trained = nn.ModuleList([model, objective])  # an objective may have networks of its own
        optimizer = make_optimizer(
            trained,
            training.optimizer,
            lr=training.lr,
            weight_decay=training.weight_decay,
            momentum=training.momentum,
            nesterov=training.nesterov,
            decay_norm=training.decay_norm,
        )
        state = TrainState(
            model,
            objective,
            optimizer,
            Precision(training.precision, self.device),
            GroupMeter(view.spec.num_groups, view.spec.num_classes, self.device),
            make_average(model, training.ema),
        )
        keeper = PhaseKeeper(
            name=phase,
            state=state,
            folder=self.folder / "checkpoints",
            log=self.log,
            identity=self._identity(view, training.resolution, arch),
            evaluate=lambda model: None if val is None else self.evaluate_forms(model, val, [Form()])[0].metrics,
            rule="last" if val is None else training.selection,
            epochs=training.epochs,
            eval_epochs=training.eval_epochs,
            lead=headline(self),
            save_every=EPOCHS_OF_FEATURES_SAVED_AT_ONCE if self.features else 1,
            oracle=self._test if classifies and training.oracle else None,
        )
        if keeper.restore(self.device):
            logger.info("resuming phase '%s' at epoch %d, step %d", phase, state.epoch, state.step)
        forward = distributed.parallel(
            model, self.device, sync_bn=self.config.dist.sync_bn, average_gradients=not objective.averages_gradients
        )
        if training.compile:
            forward = torch.compile(forward)  # type: ignore[assignment]
        if training.cuda_graphs:
            forward = graphed(
                forward,
                phase,
                on_gpu=self.device.type == "cuda",
                processes=distributed.world_size(),
                compiled=training.compile,
                calls_once=objective.calls_once,
            )
        options = self._fit_options(training, len(loader), configured=not arch)
        fit(state, loader, options, forward=forward, after_epoch=keeper.after_epoch, save=keeper.save, stop=self.stop)
        return {
            "selected_epoch": keeper.select(self.device),
            "seconds": state.seconds,
            "images": state.step * loader.batch_size,
            "data_wait": state.data_wait,
        }

    def _test(self, model: nn.Module) -> Metrics:
        return self.evaluate(model, "test").metrics

    def _identity(self, view: View, resolution: int, arch: str = "") -> dict[str, Any]:
        """What every checkpoint carries: the configuration's hash and what rebuilds the model, the configured one
        unless `arch` says otherwise, and its inputs."""
        network = describe_network(self.config, view.spec)
        return {
            "config_hash": self.config.identity_hash(),
            "model": {**network, **({"arch": arch} if arch else {})},
            "inputs": describe_inputs(self.config, view.spec, resolution),
            "trained_on": describe_training(self.config),
        }

    def evaluate(self, model: nn.Module, split: str) -> Evaluation:
        """Measure a model on one of the run's views."""
        return self.evaluate_forms(model, self.views[split], [Form()])[0]

    def evaluate_forms(
        self, model: nn.Module, view: View, forms: Sequence[Form], triggers: Sequence[Trigger] = ()
    ) -> list[Evaluation]:
        """Measure a model on forms of a view's images (`loop.evaluate_forms`), or its head on their features."""
        loader = self.eval_loader(view, triggers)
        if self.features is not None and self.features.serves(model):
            model, loader = HeadOnly(self.features.network), self.features.evaluation(loader)
        model = MirrorAveraged(model) if self.config.training.tta else model
        precision, train = Precision(self.config.training.precision, self.device), self.views["train"]
        # Pseudo-groups of a view are not groups of the training rows: nothing is weighted by these then.
        same = view.spec.group_names == (train.true_groups or train).spec.group_names
        counts = train.real_counts() if same else None
        return evaluate_forms(model, loader, precision, forms, train_counts=counts, progress=self.progress)

    @property
    def selection_rule(self) -> str:
        return str(self.config.training.selection) if "val" in self.views else "last"


def headline(run: Run) -> str:
    """The accuracy that the log leads with, by training.granularity or the data set's own metric."""
    kind = run.config.training.granularity
    if kind == "auto":
        kind = "per_class" if run.views["train"].spec.metric == "mean_per_class" else "global"
    return "mean_class_accuracy" if kind == "per_class" else "accuracy"


@contextmanager
def open_run(config: Config) -> Iterator[Run | None]:
    """The run of a configuration, new or resumed; None when it is already finished."""
    device = distributed.pick_device(config.training.device)
    with ExitStack() as stack:
        stack.enter_context(distributed.process_group(config.dist.backend, device))
        check_transfer(config)
        views = prepare_views(config)
        check_selection(config, views)
        torch.use_deterministic_algorithms(config.training.deterministic, warn_only=True)
        folder = Path(distributed.from_main(str(claim_folder(config)) if distributed.is_main() else ""))
        if (folder / "results.json").exists():
            logger.info("%s is finished; its results are in %s", folder, folder / "results.json")
            yield None
            return
        if distributed.is_main():
            stack.enter_context(locked(folder))
            log_to_file(folder / "log.txt")
        processes = distributed.world_size()
        logger.info("run folder %s%s", folder, f" of {processes} processes" if processes > 1 else "")
        log = ResultLog(folder / "results.jsonl", _sinks(config, folder) if distributed.is_main() else [])
        stack.callback(log.close)
        stop = stack.enter_context(StopRequest().listening())
        yield Run(config, folder, device, views, log, stop)


def _sinks(config: Config, folder: Path) -> list[Sink]:
    sinks: list[Sink] = []
    wanted = config.logging.tensorboard and not config.training.disable_logging
    if wanted and importlib.util.find_spec("tensorboard"):
        sinks.append(TensorBoardSink(folder))
    if config.logging.wandb:
        sinks.append(WandbSink(config.logging.wandb, folder, config.nested()))
    return sinks
