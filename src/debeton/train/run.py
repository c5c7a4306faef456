"""One run: a configuration in a folder, with its views, its device, its log and its finished phases.

A method (`methods/`) is a function of a Run, and a list of phases. `training.fit` trains through one phase,
`evaluation.evaluate` measures a model, and `Run.phase` keeps the books of every phase, whatever its work is.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import nn

from debeton.config import Config
from debeton.data.loader.loader import check_unchanged
from debeton.data.views.view import View
from debeton.nets.checkpoint import CHECKPOINT_FOLDER, copy_weights
from debeton.nets.describe import describe_network
from debeton.nets.models import place_network
from debeton.nets.transfer import check_transfer, configured_network, transferred
from debeton.nets.weight_fitting import load_run_weights
from debeton.system import distributed
from debeton.system.errors import DataError
from debeton.system.log import close_log_file, log_to_file, logger, show_progress
from debeton.system.seed import seed_everything
from debeton.train.divergence import REMEDY, check_phase_weights
from debeton.train.held_out import warn_of_results
from debeton.train.outline import Outline, PhaseStart, place_in
from debeton.train.phase import PhaseFiles, PhaseRecord
from debeton.train.processes import joined
from debeton.train.result_files import LOG_NAME, RESULTS_NAME, damaged_results, is_finished
from debeton.train.results import ResultLog, Sink, TensorBoardSink, WandbSink
from debeton.train.run_data import RunData, describe_data
from debeton.train.run_folder import claim_folder, find_folder, locked, other_folders, remove_if_empty
from debeton.train.run_views import check_selection, prepare_views, warn_of_views
from debeton.train.shared_phases import note_shared_phase, shared_phase
from debeton.train.stop import Preempted, StopRequest
from debeton.train.unfinished import note_unfinished


@dataclass(frozen=True)
class InitialWeights:
    """The weights that the networks of a run begin with, in place of new or published ones.

    weights: as `nn.Module.state_dict` gives them, head included.
    freeze_bn: keep the batch-norm statistics in training, whatever model.bn_mode says.
    """

    weights: Mapping[str, torch.Tensor]
    freeze_bn: bool = False


@dataclass(frozen=True)
class Run:
    """The run that a method works on.

    config: the resolved configuration.
    folder: the run folder.
    device: the device of this process.
    views: 'train'; if present, 'val', 'test', further 'test_...', 'target', 'first' and 'synthetic'.
    log: results.jsonl and its mirrors.
    stop: the request of a signal to stop.
    notes: plain values for results.json, by method.
    phases: the records of the finished phases, in their order.
    val_uses: uses of the validation split that a method has beside the selection of epochs (remarks.py).
    remarks: short texts on the results that every table repeats.
    start: the weights that networks begin with; None for those that the configuration asks for.
    sections: the sections of settings that the phases read (`phase_identity`); None: all sections.
    data: the hashes that name the beton of each view (`run_data.describe_data`).
    outline: the phases that the method is going to have; empty where nobody has asked for it.
    """

    config: Config
    folder: Path
    device: torch.device
    views: dict[str, View]
    log: ResultLog
    stop: StopRequest
    notes: dict[str, Any] = field(default_factory=dict)
    phases: dict[str, PhaseRecord] = field(default_factory=dict)
    val_uses: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    start: InitialWeights | None = None
    sections: tuple[str, ...] | None = None
    data: RunData = field(default_factory=dict)
    outline: Outline = ()

    @property
    def progress(self) -> bool:
        """True where this process shows progress bars."""
        return distributed.is_main() and show_progress(self.config.logging.progress)

    @property
    def checkpoints(self) -> Path:
        """The folder of the checkpoints."""
        return self.folder / CHECKPOINT_FOLDER

    @property
    def selection_rule(self) -> str:
        """training.selection, or 'last' without a validation split."""
        return str(self.config.training.selection) if "val" in self.views else "last"

    @property
    def selected_epoch(self) -> int | None:
        """The selected epoch of the last phase that had epochs; None before there is one."""
        epochs = [record.selected_epoch for record in self.phases.values() if record.selected_epoch is not None]
        return epochs[-1] if epochs else None

    @property
    def processes(self) -> tuple[int, ...]:
        """The numbers of processes that did the finished phases, in their sequence."""
        return joined(*(record.processes for record in self.phases.values()))

    def place_of(self, phase: str) -> str:
        """Return the place of a phase in the run, such as ' (2 of 3)'; empty where it is not known."""
        return place_in(self.outline, phase)

    def about_to_train(self, start: PhaseStart) -> None:
        """Do nothing: a phase begins as it stands. A rehearsal (trial.py) looks at it here, and leaves."""

    def announce(self, phase: str, text: str) -> None:
        """Log the beginning of a phase. text: what it does, in a few words."""
        logger.info("phase '%s'%s: %s", phase, self.place_of(phase), text)

    def beginning_with(self, start: InitialWeights) -> Run:
        """Return the same run, whose networks begin with these weights."""
        return replace(self, start=start)

    def fresh_network(self) -> nn.Module:
        """Return the configured network on the device. The seed alone decides its new weights."""
        config = self.config
        seed_everything(config.training.seed)
        num_classes = self.views["train"].spec.num_classes
        if config.model.transfer == "NONE":
            model = configured_network(config, num_classes)
        else:
            model = transferred(config, num_classes)
        return place_network(model, self.device, channels_last=config.training.channels_last)

    def network(self) -> nn.Module:
        """Return a network to train: with the weights of `start`, or those of model.checkpoint, or as new."""
        model, checkpoint = self.fresh_network(), self.config.model.checkpoint
        if self.start is not None:
            copy_weights(model, self.start.weights)
        elif checkpoint is not None and self.config.model.transfer == "NONE":
            expected = describe_network(self.config, self.views["train"].spec)
            load_run_weights(model, Path(checkpoint), expected, "model.checkpoint")
        return model

    def phase(
        self,
        name: str,
        model: nn.Module,
        work: Callable[[], PhaseRecord],
        identity: Callable[[], str] = lambda: "",
        *,
        shared: bool = False,
    ) -> PhaseRecord:
        """Take over a finished phase, or do its work and record it. The model then has the phase's weights.

        A phase that another run of the same experiment has finished is taken over if it has the same identity. So is
        a shared phase of any run in training.outdir.

        name: of the phase, unique in the run.
        model: receives the weights, in every process.
        work: does the phase and leaves its weights in checkpoint_best.pt. Not called when the phase is finished.
        identity: returns the phase's identity, called before the work; '' where no other run can take it over.
        shared: runs of other experiments may take the phase over.
        """
        if self.outline and not self.place_of(name):
            logger.warning(
                "warning: method '%s' trains phase '%s' and declares no such phase, so a dry run does not show it; "
                "declare it with register_method(phases=...)",
                self.config.training.method,
                name,
            )
        files = PhaseFiles(self.checkpoints)
        record, own = files.take_over(name, model, self.device), ""
        if record is None:
            own = identity()
            if self._adopt(files, name, own, shared):
                record = files.take_over(name, model, self.device)
        if record is None:
            done = work()
            self.check_data()
            check_phase_weights(model, name, f"nothing of the phase is kept; {REMEDY}")
            done = replace(done, identity=own, processes=done.processes or (distributed.world_size(),))
            files.finish(name, done)
            if shared and own and distributed.is_main():
                note_shared_phase(Path(self.config.training.outdir), own, self.folder)
            self.leave_if_asked()
            recorded = files.take_over(name, model, self.device)  # the main process's record and weights, in all
            assert recorded is not None
            record = replace(recorded, features=done.features)
        else:
            lines = self.log.read() if distributed.is_main() and record.selected_epoch else None
            distributed.raise_together("" if lines is None else files.lacking_lines(name, record, lines, self.log.path))
            self._say_finished(name, record)
            remedy = f"remove {self.folder} and train again with a lower --training.lr or with --training.clip_grad"
            check_phase_weights(model, name, remedy)
        self.phases[name] = record
        return record

    def _say_finished(self, name: str, record: PhaseRecord) -> None:
        if record.selected_epoch is None:
            logger.info("phase '%s'%s is finished; its weights are used", name, self.place_of(name))
        else:
            place, epoch = self.place_of(name), record.selected_epoch
            logger.info("phase '%s'%s is finished; epoch %d of it is used", name, place, epoch)

    def _adopt(self, files: PhaseFiles, name: str, identity: str, shared: bool) -> bool:
        """Take a finished phase of another run, with its lines of the log; return whether one is."""
        source = None
        if identity and distributed.is_main():
            outdir = Path(self.config.training.outdir)
            folders = other_folders(self.config, self.folder)
            source = files.find(name, identity, [*folders, *(shared_phase(outdir, identity) if shared else [])])
        lines = None if source is None else ResultLog(source / LOG_NAME).read_if_sound()
        if source is not None and lines is None:
            source = None
        elif source is not None and lines is not None:
            self.log.rewind(name, 0)
            for line in lines:
                if line["phase"] == name:
                    self.log.write(**line)
            files.adopt(name, source)
            logger.info("phase '%s' is the same as in %s, and is taken from there", name, source)
        return bool(distributed.from_main("" if source is None else str(source)))

    def check_data(self) -> None:
        """Raise DataError, in all processes, if a beton of the run changed. Call it before anything is written down."""
        betons = {id(view.beton): view.beton for view in self.views.values()}
        check_unchanged(betons.values(), joint=True)

    def leave_if_asked(self) -> None:
        """Raise Preempted in all processes if any was asked to stop. Call it where everything is on disk."""
        if signum := self.stop.agreed(0, 1, self.device):
            raise Preempted(signum)


@contextmanager
def open_run(config: Config) -> Iterator[Run | None]:
    """Open the run of a configuration, new or resumed. Yield None when it is finished already."""
    device = distributed.pick_device(config.training.device)
    with ExitStack() as stack:
        stack.enter_context(distributed.process_group(config.dist.backend, device))
        check_transfer(config)
        views = prepare_views(config)
        check_selection(config, views)
        torch.use_deterministic_algorithms(config.training.deterministic, warn_only=True)
        data = describe_data(views)
        folder, is_new = _claim(config, data, stack)
        if is_finished(folder):
            logger.info("%s is finished; its results are in %s", folder, folder / RESULTS_NAME)
            yield None
            return
        if damage := damaged_results(folder):
            logger.warning("warning: %s; the results are made anew", damage)
        if distributed.is_main():
            stack.enter_context(locked(folder))
            log_to_file(folder / "log.txt")
            stack.callback(close_log_file)
            if is_new:
                note_unfinished(config, folder)
            warn_of_views(config, views)
        processes = distributed.world_size()
        logger.info("run folder %s%s", folder, f" of {processes} processes" if processes > 1 else "")
        warn_of_results(config, views)
        log = ResultLog(folder / LOG_NAME, _sinks(config, folder) if distributed.is_main() else [])
        stack.callback(log.close)
        stop = stack.enter_context(StopRequest().listening())
        yield Run(config, folder, device, views, log, stop, data=data)


def _claim(config: Config, data: RunData, stack: ExitStack) -> tuple[Path, bool]:
    """Claim the run folder in the main process. Return it, in all, and whether this process has made it.

    DataError, in all processes, if it belongs to other data.

    stack: removes a new folder when it closes after an error, if no step was trained.
    """
    folder, problem, is_new = "", "", False
    if distributed.is_main():
        is_new = find_folder(config) is None
        try:
            claimed = claim_folder(config, data)
        except DataError as error:
            problem = str(error)
        else:
            folder = str(claimed)
            if is_new:
                stack.push(partial(_remove_if_nothing_was_trained, claimed))
    distributed.raise_together(problem)
    return Path(distributed.from_main(folder)), is_new


def _remove_if_nothing_was_trained(
    folder: Path, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
) -> None:
    if kind is not None and remove_if_empty(folder):
        logger.info("%s is removed: no step was trained", folder)


def _sinks(config: Config, folder: Path) -> list[Sink]:
    sinks: list[Sink] = []
    if config.logging.tensorboard and importlib.util.find_spec("tensorboard"):
        sinks.append(TensorBoardSink(folder))
    if config.logging.wandb is not None:
        sinks.append(WandbSink(config.logging.wandb, folder, config.nested()))
    return sinks
