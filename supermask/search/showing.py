"""What a search shows of itself."""

from typing import Any

from torch import nn
from torch.optim import Optimizer

from supermask.masks import summary


class Shown:
    """Five lines for a terminal, and a table of the layers for a notebook."""

    model: nn.Module
    base: Optimizer
    density: float
    distribution: str
    density_schedule: str
    seed: int
    param_groups: list[dict[str, Any]]
    state: Any
    masked_parameters: dict[str, nn.Parameter]
    steps: int

    def __repr__(self) -> str:
        return summary.as_text(*self._summary())

    def _repr_html_(self) -> str:
        return summary.as_html(*self._summary())

    def _summary(self) -> tuple[str, list[summary.LayerCount], list[str]]:
        group = self.param_groups[0]
        given = ((key, group.get(key)) for key in ("lr", "momentum", "weight_decay"))
        options = ", ".join(f"{key} {value:g}" for key, value in given if value)
        masks = {name: self.state[parameter]["mask"] for name, parameter in self.masked_parameters.items()}
        return (
            f"{type(self).__name__} of {type(self.model).__name__}, after "
            f"{self.steps} {'step' if self.steps == 1 else 'steps'}",
            summary.counts_of(masks),
            [
                f"asked for density {self.density:g}, {self.distribution}, {self.density_schedule}",
                f"scores moved by {type(self.base).__name__}: {options}; drawn from seed {self.seed}",
            ],
        )
