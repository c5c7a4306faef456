"""A run: one configuration in one folder, made of phases, resumed by the same command.

A method (`methods/`) is a function of a Run. It asks for views, a model and phases; the Run knows folders,
checkpoints, devices and results.
"""

from __future__ import annotations

import importlib.util
import json
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from debeton import distributed
from debeton.checkpoint import save_checkpoint
from debeton.config import Config
from debeton.data.loader import Loader, LoaderOptions, make_loader
from debeton.data.splits import ViewOptions, evaluated, find_betons, open_views, with_normalisation
from debeton.data.view import View
from debeton.errors import UsageError
from debeton.files import write_text
from debeton.log import log_to_file, logger, show_progress
from debeton.loop import Evaluation, FitOptions, StopRequest, TrainState, evaluate, fit, make_average
from debeton.metrics import GroupMeter, Metrics
from debeton.models import architecture, make_model
from debeton.objective import Objective, Precision
from debeton.optim import SCHEDULES, ScheduleSpec, check_resolution_ramp, make_optimizer, ramped_resolution
from debeton.phase import PhaseKeeper
from debeton.results import ResultLog, Sink, TensorBoardSink, WandbSink, prediction_result, versions
from debeton.run_folder import claim_folder, experiment_name, locked
from debeton.seed import seed_everything

SPLITS = ("train", "val", "test", "target", "synthetic")


def prepare_views(config: Config) -> dict[str, View]:
    """The views that the configuration describes, normalised as it says."""
    data, training = config.data, config.training
    given = {split: getattr(data, f"{split}_path") for split in SPLITS}
    paths = find_betons(data.dataset, Path(training.data_root), given)
    asked = {field.name: getattr(data, field.name) for field in fields(ViewOptions) if hasattr(data, field.name)}
    synthetic = {"synthetic_mode": config.synthetic.mode, "per_cell": config.synthetic.per_cell}
    views = open_views(paths, ViewOptions(**asked, **synthetic))
    if training.supercloud:
        views["train"] = replace(views["train"], order="quasi_random")
    kind = config.model.normalisation
    if kind == "none":
        return with_normalisation(views, (0.0,) * 3, (1.0,) * 3)
    if kind == "source" or (kind == "auto" and config.model.pretrained):
        source = architecture(config.model.arch)
        return with_normalisation(views, source.mean, source.std)
    return views


@dataclass
class Run:
    """What a method works with.

    views: 'train' and, where there are any, 'val', 'test' and further 'test_...'. folder: of this run. device: of
    this process.
    """

    config: Config
    folder: Path
    device: torch.device
    views: dict[str, View]
    log: ResultLog
    stop: StopRequest
    timing: dict[str, float] = field(default_factory=dict)
    selected_epoch: int | None = None

    @property
    def progress(self) -> bool:
        return distributed.is_main() and show_progress(self.config.logging.progress)

    def make_model(self) -> nn.Module:
        """The configured network on the device; the seed alone decides its weights."""
        config = self.config
        seed_everything(config.training.seed)
        model = make_model(config.model.arch, self.views["train"].spec.num_classes, pretrained=config.model.pretrained)
        layout = torch.channels_last if config.training.channels_last else torch.contiguous_format
        return model.to(self.device).to(memory_format=layout)  # type: ignore[call-overload, no-any-return]

    def train_loader(self, view: View) -> Loader:
        """Shuffled or weighted batches with augmentation, as the view and the configuration say."""
        training = self.config.training
        if training.batch_size > len(view):
            raise UsageError(
                f"training.batch_size is {training.batch_size}, but the view '{view.name}' holds {len(view)} rows; "
                f"use at most {len(view)}"
            )
        tail = "drop" if training.drop_last else "share"
        options = replace(self._loader_options(), decoder=training.decoder_train, ops=training.augment)
        return make_loader(view, training.batch_size, seed=training.seed, tail=tail, options=options)  # type: ignore[arg-type]

    def eval_loader(self, view: View) -> Loader:
        """Every row once, in file order, without augmentation."""
        options = replace(self._loader_options(), decoder=self.config.training.decoder_val)
        batch_size = max(self.config.training.batch_size, distributed.world_size())
        return make_loader(replace(view, order="sequential"), batch_size, tail="keep", options=options)

    def _loader_options(self) -> LoaderOptions:
        config = self.config
        return LoaderOptions(
            resolution=config.resolution.val_res, channels_last=config.training.channels_last, device=self.device,
            num_workers=config.training.num_workers, batches_ahead=config.loader.batches_ahead,
            os_cache=config.loader.os_cache and not config.training.supercloud,
            rank=distributed.rank(), world=distributed.world_size(),
        )  # fmt: skip

    def _fit_options(self, steps_per_epoch: int) -> FitOptions:
        training, res = self.config.training, self.config.resolution
        ramp = {"min_res": res.min_res, "max_res": res.max_res, "start": res.start_ramp, "end": res.end_ramp}
        if res.prog_resizing:
            check_resolution_ramp(list(ramp.values()))
        spec = ScheduleSpec(
            epochs=training.epochs, steps_per_epoch=steps_per_epoch, lr_peak_epoch=training.lr_peak_epoch,
            step_size=training.step_size, milestones=tuple(training.lr_milestones), gamma=training.gamma,
            warmup_epochs=training.warmup_epochs,
        )  # fmt: skip
        schedule = SCHEDULES.get(training.lr_scheduler)
        return FitOptions(
            epochs=training.epochs,
            lr=lambda step: training.lr * schedule(step, spec),
            resolution=(lambda epoch: ramped_resolution(epoch, **ramp)) if res.prog_resizing else None,
            clip_grad=training.clip_grad,
            freeze_bn=self.config.model.bn_mode == "eval",
            log_every=training.log_every,
            progress=self.progress,
        )

    def fit(
        self, view: View, objective: Objective, *, phase: str = "train", model: nn.Module | None = None
    ) -> nn.Module:
        """Train through one phase, or resume it; returns the model of the selected epoch.

        model: where to start from; a fresh one by default.
        """
        training = self.config.training
        model = self.make_model() if model is None else model
        objective = objective.to(self.device)
        loader = self.train_loader(view)
        optimizer = make_optimizer(
            model, training.optimizer, lr=training.lr, weight_decay=training.weight_decay, momentum=training.momentum,
            nesterov=training.nesterov, decay_norm=training.decay_norm,
        )  # fmt: skip
        state = TrainState(
            model, objective, optimizer, Precision(training.precision, self.device),
            GroupMeter(view.spec.num_groups, view.spec.num_classes, self.device), make_average(model, training.ema),
        )  # fmt: skip
        keeper = PhaseKeeper(
            name=phase, state=state, folder=self.folder / "checkpoints", log=self.log, identity=self._identity(view),
            evaluate=self._validate, rule=self.selection_rule, epochs=training.epochs, eval_epochs=training.eval_epochs,
            lead=headline(self),
        )  # fmt: skip
        if keeper.restore(self.device):
            logger.info("resuming phase '%s' at epoch %d, step %d", phase, state.epoch, state.step)
        forward = distributed.parallel(model, self.device, sync_bn=self.config.dist.sync_bn)
        if training.compile:
            forward = torch.compile(forward)  # type: ignore[assignment]
        options = self._fit_options(len(loader))
        fit(state, loader, options, forward=forward, after_epoch=keeper.after_epoch, save=keeper.save, stop=self.stop)
        self.timing["train_seconds"] = state.seconds
        self.timing["train_images_per_second"] = state.step * training.batch_size / max(state.seconds, 1e-9)
        model, self.selected_epoch = keeper.selected(self.device)
        return model

    def _validate(self, model: nn.Module) -> Metrics | None:
        return self.evaluate(model, "val").metrics if "val" in self.views else None

    def _identity(self, view: View) -> dict[str, Any]:
        """What every checkpoint carries: the configuration's hash and what rebuilds the model."""
        spec = view.spec
        building = {"arch": self.config.model.arch, "num_classes": spec.num_classes}
        normalisation = {"mean": list(spec.mean), "std": list(spec.std)}
        return {"config_hash": self.config.identity_hash(), "model": {**building, **normalisation}}

    def evaluate(self, model: nn.Module, split: str) -> Evaluation:
        """Measure a model on one of the run's views."""
        precision = Precision(self.config.training.precision, self.device)
        counts = self.views["train"].real_counts()
        return evaluate(
            model, self.eval_loader(self.views[split]), precision, train_counts=counts, progress=self.progress
        )

    def finish(self, model: nn.Module) -> dict[str, Any]:
        """Evaluate the selected model on validation and every test, and write results.pt and results.json."""
        began = time.perf_counter()
        evaluations = {split: self.evaluate(model, split) for split in evaluated(self.views)}
        metrics = {split: found.metrics for split, found in evaluations.items()}
        self.timing["final_evaluation_seconds"] = time.perf_counter() - began
        config, train = self.config, self.views["train"]
        results = {
            "name": experiment_name(config),
            "dataset": config.data.dataset,
            "method": config.training.method,
            "seed": config.training.seed,
            "selection": self.selection_rule,
            "selected_epoch": self.selected_epoch,
            "config_hash": config.identity_hash(),
            "dataset_options": train.beton.sidecar["dataset_options"],
            "versions": versions(),
            "train_groups": train.counts_by_name(),
            **{split: metrics.get(split) for split in ("val", "test")},
            "other_tests": {split: found for split, found in metrics.items() if split not in ("val", "test")},
            "timing": self.timing,
        }
        if distributed.is_main():
            self._write_results(results, evaluations)
        distributed.barrier()
        return results

    def _write_results(self, results: dict[str, Any], evaluations: dict[str, Evaluation]) -> None:
        # Without a planted trigger an image as it is and its clean form are the same.
        split = "test" if "test" in evaluations else "val"
        content: dict[str, Any] = {"args": self.config.nested()}
        if split in evaluations:
            view, found = self.views[split], evaluations[split]
            standard = prediction_result(found.metrics, torch.from_numpy(view.label[view.rows]), found.predicted)
            content["results"] = {"results_standard": standard, "results_clean": standard}
        save_checkpoint(self.folder / "results.pt", content)
        # Last: this file says that the run is finished.
        write_text(self.folder / "results.json", json.dumps(results, indent=1))

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
        logger.info("run folder %s", folder)
        log = ResultLog(folder / "results.jsonl", _sinks(config, folder) if distributed.is_main() else [])
        stack.callback(log.close)
        stop = stack.enter_context(StopRequest().listening())
        yield Run(config, folder, device, views, log, stop)


def check_selection(config: Config, views: dict[str, View]) -> None:
    """Refuse to select by validation where there is none; say which groups it cannot see."""
    rule = config.training.selection
    if "val" not in views:
        if rule != "last":
            raise UsageError(
                f"training.selection is '{rule}', but there is no validation split; write one, hold some training rows "
                "out with --data.val_fraction 0.1, or keep the last epoch with --training.selection last"
            )
        return
    empty = [name for name, count in views["val"].counts_by_name().items() if count == 0]
    if empty and rule == "worst_group":
        logger.warning("warning: no validation row in %d groups (%s); the worst group is that of the others",
                       len(empty), "; ".join(empty[:5]) + ("; ..." if len(empty) > 5 else ""))  # fmt: skip


def _sinks(config: Config, folder: Path) -> list[Sink]:
    sinks: list[Sink] = []
    wanted = config.logging.tensorboard and not config.training.disable_logging
    if wanted and importlib.util.find_spec("tensorboard"):
        sinks.append(TensorBoardSink(folder))
    if config.logging.wandb:
        sinks.append(WandbSink(config.logging.wandb, folder, config.nested()))
    return sinks
