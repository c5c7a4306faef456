"""A guess of the time that a run takes: measured steps and evaluations, times their number."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from torch import nn

from debeton.data.views.splits import evaluated
from debeton.system.log import logger
from debeton.system.wording import duration
from debeton.train.outline import Outline, PhaseOutline, PhaseStart
from debeton.train.planting import evaluation_triggers
from debeton.train.run import Run
from debeton.train.standing import Standing
from debeton.train.trial import Speed, begin_phase, measure_evaluation, measure_training, processes, rehearse


@dataclass
class TimeGuess:
    """The guess of a run's time, and what it is made of.

    networks: a text about each network.
    seconds: of each phase, by name.
    lines: what the guess says.
    """

    networks: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    lines: list[str] = field(default_factory=list)

    def of(self, phase: str) -> str:
        """Return the time of a phase in words; '?' where it was not measured."""
        return duration(self.seconds[phase]) if phase in self.seconds else "?"


def guess_times(
    run: Run,
    outline: Outline,
    method: Callable[[Run], object],
    *,
    classifies: bool = True,
    where: Standing | None = None,
) -> TimeGuess:
    """Measure a step of each phase and an evaluation, and return the guess.

    Phases with the same kind of start share a measurement, by row.

    outline, method, classifies: as of `dry_run.screen`.
    where: the standing of a run that would be resumed, for the time that is left.
    """
    guess, measured = TimeGuess(), dict[object, tuple[Speed, PhaseStart]]()
    steps: list[str] = []
    evaluation: float | None = None
    for number, phase in enumerate(outline):
        if phase.settings is None:
            continue
        key = (phase.start, phase.batch_size, phase.settings.precision, phase.settings.resolution)
        if key not in measured:
            start = _start_of(run, outline, number, method)
            guess.networks.append(_network_text(start, phase, run.config.model.arch))
            measured[key] = measure_training(run, start), start
            steps.append(_step_text(measured[key][0], phase.name))
        speed, start = measured[key]
        if evaluation is None and start.objective.classifies and classifies and evaluated(run.views):
            evaluation = measure_evaluation(run, start.model, run.views[evaluated(run.views)[0]])
        guess.seconds[phase.name] = phase_seconds(run, phase, speed, evaluation or 0.0)
    if not outline or all(phase.settings is None for phase in outline):
        model = run.network()
        guess.networks.append(describe_parameters(model, run.config.model.arch))
        if evaluated(run.views):
            evaluation = measure_evaluation(run, model, run.views[evaluated(run.views)[0]])
    final = final_seconds(run, evaluation or 0.0) if classifies else 0.0
    is_under_way = where is not None and where.has_begun and not where.is_finished
    left = "" if where is None or not is_under_way else _left_text(outline, guess.seconds, final, where)
    guess.lines = [left + _total_text(outline, guess.seconds, final, classifies), *steps]
    return guess


def _start_of(run: Run, outline: Outline, number: int, method: Callable[[Run], object]) -> PhaseStart:
    """Return how a phase begins: the first one as the method begins it, others as the outline says."""
    phase = outline[number]
    start = rehearse(run, method) if number == 0 and phase.start is None else None
    if start is not None and start.phase != phase.name:
        logger.warning(
            "method '%s' begins with phase '%s' and declares '%s', so the phases above are not known; declare them "
            "with register_method(phases=...)",
            run.config.training.method,
            start.phase,
            phase.name,
        )
    return start or begin_phase(run, phase, phase.view or run.views["train"])


def phase_seconds(run: Run, phase: PhaseOutline, speed: Speed, evaluation: float) -> float:
    """Return the seconds of a phase: its steps, and its evaluations.

    evaluation: seconds of one row.
    """
    training = phase.settings
    assert training is not None
    rows = len(run.views["val"]) if "val" in run.views and training.selection is not None else 0
    rows += len(run.views["test"]) if "test" in run.views and training.oracle else 0
    evaluations = -(-phase.epochs // training.eval_epochs)
    if speed.on_features:  # the body sees each image once, and with flips its mirror image
        images = phase.rows_of_epoch * (2 if "flip" in training.augment else 1) + rows
        return images * evaluation
    if phase.start is not None and not rows:
        evaluations = 0
    steps = phase.images / (speed.batch * processes())  # of the batch that was measured
    is_classifier = phase.start is None or evaluation > 0
    return steps * speed.step + (evaluations * rows * evaluation if is_classifier else 0.0)


def final_seconds(run: Run, evaluation: float) -> float:
    """Return the seconds of the final evaluation: of every measured split, and with every trigger."""
    triggers = len(evaluation_triggers(run.config))
    return sum(len(run.views[split]) for split in evaluated(run.views)) * (1 + triggers) * evaluation


def _left_text(outline: Outline, seconds: Mapping[str, float], final: float, where: Standing) -> str:
    """Return the beginning of the text: the time that a resumed run has left."""
    left = final
    for phase in outline:
        if phase.name in seconds and phase.name not in where.finished:
            done = where.epoch / max(phase.epochs, 1) if phase.name == where.phase else 0.0
            left += seconds[phase.name] * max(0.0, 1 - done)
    return f"{duration(left)} left of "


def _total_text(outline: Outline, seconds: Mapping[str, float], final: float, classifies: bool) -> str:
    least = "at least " if any(phase.at_least for phase in outline) else "about "
    text = f"{least}{duration(sum(seconds.values()) + final)} on this machine as it is now"
    text += f", {duration(final)} of it for the final evaluation" if classifies else ""
    unknown = [phase.name for phase in outline if phase.name not in seconds]
    return f"{text}; without phase {' and '.join(unknown)}" if unknown else text


def _step_text(speed: Speed, name: str) -> str:
    if speed.on_features:
        return f"{name}: trains on cached features; the time is that of computing them"
    part = "" if speed.rows == speed.batch else f", measured on {speed.rows}"
    decode = duration(speed.decode)
    return f"{name}: one step of {speed.batch} rows takes {duration(speed.step)} ({decode} to decode{part})"


def _network_text(start: PhaseStart, phase: PhaseOutline, arch: str) -> str:
    """Return the name and size of the network of a phase. arch: of the configured network."""
    return f"{phase.name}: {describe_parameters(start.model, start.arch or arch)}"


def describe_parameters(model: nn.Module, name: str) -> str:
    """Return the number of parameters of a network, and of those that are trained."""
    numbers = [(p.numel(), p.requires_grad) for p in model.parameters()]
    total, trained = sum(n for n, _ in numbers), sum(n for n, requires in numbers if requires)
    return f"{name}, {total:,} parameters, {'all' if trained == total else f'{trained:,}'} trained"
