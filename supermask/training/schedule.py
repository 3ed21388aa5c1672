"""Learning-rate schedules, as pure functions of the step number."""

import math
from dataclasses import dataclass

SCHEDULES = ("cosine", "linear", "constant", "multistep")


@dataclass(frozen=True)
class Schedule:
    """Learning-rate factor of each step, a pure function of the step number.

    Attributes:
        kind: `cosine` or `linear` (to zero after the last step), `constant`, or `multistep` (× `decay`
            at each milestone).
        steps: Length of the whole schedule.
        warmup: Steps of linear warm-up, from 1/warmup to 1.
        milestones: Steps at which `multistep` decays.
        decay: Factor of each decay.
    """

    kind: str
    steps: int
    warmup: int = 0
    milestones: tuple[int, ...] = ()
    decay: float = 0.1

    def __post_init__(self) -> None:
        if self.kind not in SCHEDULES:
            raise ValueError(f"schedule must be one of {', '.join(SCHEDULES)}, not {self.kind!r}")

    def __call__(self, step: int) -> float:
        if step < self.warmup:
            return (step + 1) / self.warmup
        if self.kind in ("cosine", "linear"):
            progress = min((step - self.warmup) / max(self.steps - self.warmup, 1), 1.0)
            return 0.5 * (1 + math.cos(math.pi * progress)) if self.kind == "cosine" else 1 - progress
        if self.kind == "multistep":
            return self.decay ** sum(step >= milestone for milestone in self.milestones)
        return 1.0
