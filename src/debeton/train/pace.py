"""The pace of a phase: seconds of an epoch, images per second, and the time that is left."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from debeton.system.wording import duration


@dataclass
class Pace:
    """The clock of a phase, from the moment that this process trains it.

    epochs: of the phase.
    images_per_step: rows of a step, over all processes.
    later_images: images that the later phases of the run train on with the same network, evaluations left out. None
        where their number or their network is another or not known yet.
    """

    epochs: int
    images_per_step: float = 0.0
    later_images: float | None = 0.0
    _epochs: list[float] = field(default_factory=list)
    _mark: float = field(default_factory=time.perf_counter)
    _done: tuple[int, float] = (0, 0.0)

    def begin(self, step: int, seconds: float) -> None:
        """Start the clock. step, seconds: of the state that training begins or resumes with."""
        self._mark, self._done = time.perf_counter(), (step, seconds)

    def after_epoch(self, epoch: int, step: int, seconds: float) -> str:
        """Return the pace of the epoch that ends now: '12 s  4512 img/s  left 3.5 min (run 8 min)'.

        epoch: finished epochs.
        step, seconds: steps and training time so far, by `TrainState`.
        """
        now = time.perf_counter()
        self._epochs.append(now - self._mark)
        images, trained = (step - self._done[0]) * self.images_per_step, seconds - self._done[1]
        self._mark, self._done = now, (step, seconds)
        parts = [duration(self._epochs[-1])]
        if images and trained > 0:
            parts.append(f"{images / trained:.0f} img/s")
        if epoch < self.epochs or self.later_images:
            parts.append(self._left(epoch, images))
        return "  ".join(part for part in parts if part)

    def _left(self, epoch: int, images: float) -> str:
        """Return the time left for the phase, and for the run if later phases are known."""
        usual = self._epochs[1:] or self._epochs  # the first epoch also compiles and opens files
        an_epoch = sum(usual) / len(usual)
        left = (self.epochs - epoch) * an_epoch
        text = f"left {duration(left)}" if epoch < self.epochs else ""
        if self.later_images and images:
            of_run = duration(left + self.later_images / images * an_epoch)
            text = f"{text} (run {of_run})" if text else f"left for the run {of_run}"
        return text
