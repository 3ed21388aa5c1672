"""Partially frozen random networks: Otsuka et al., "Partially Frozen Random Networks Contain Compact
Strong Lottery Tickets" (TMLR 2025, arXiv:2402.14029).

A random pattern T over each layer's weights settles some of the mask before the search: a weight is pruned
(T = −1), locked in (T = +1) or searched (T = 0). The searched ones follow edge-popup; the density counts
all weights, as in the authors' code, where frozen scores stand at ±∞ in the ranking. The pattern follows
from the seed, so that only the searched bits of a mask carry information. How many weights of a layer are
pruned and locked follows the layer ratios of `layout`: ERK or EPL (edges per layer), as in the paper, or
the same everywhere.

Sources. Freezing by pruning and locking, and the layer ratios, from the paper; how frozen weights count in
the ranking from the authors' code (`slt_within_frozen_network`), which ranks the whole network.

Deviations. Counts are exact, with at most one weight moved between pattern and search where rounding asks
for it; frozen scores get no gradient (the ranking never reads them); the search may be layerwise; by
default half of what could be settled is, where the paper tries ratios. The pattern is a permutation from
our generator. Their optional scale by each layer's density is `--rescale`, or `randomize_(density=…)`.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from supermask import masks
from supermask.checks import is_number
from supermask.search.construction import non_default_allocation
from supermask.search.edge_popup import EdgePopup
from supermask.search.registry import register_search

LAYOUTS = ("uniform", "erk", "epl")


@register_search(
    "frozen",
    label="partially frozen",
    about="edge-popup where a random part of the mask follows from the seed, and only the rest is searched.",
    colour="brown",
    marker="X",
)
class Frozen(EdgePopup):
    """Edge-popup on the weights that a random pattern leaves open; see `Search` for the other arguments.

    Args:
        pruned: Fraction of all weights that is pruned before the search; at most 1 − density. None for
            half of that.
        locked: Fraction of all weights that is locked in; at most `density`. None for half of that.
        layout: `uniform`, `erk` or `epl`: how the frozen weights spread over layers. None for
            `distribution`, or `epl` where that is `global`.

    Raises:
        ValueError: A fraction out of range, or a layer whose pattern leaves no room for its density.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        density: float,
        distribution: str = "uniform",
        pruned: float | None = None,
        locked: float | None = None,
        layout: str | None = None,
        **options: Any,
    ) -> None:
        masks.check_density(density)
        self.pruned = (1.0 - density) / 2 if pruned is None else pruned
        self.locked = density / 2 if locked is None else locked
        settled = ((self.pruned, 1 - density), (self.locked, density))
        if not all(is_number(share) and 0 <= share <= most for share, most in settled):
            raise ValueError(
                f"at density {density}, pruned must lie in [0, {1 - density:g}] and locked in "
                f"[0, {density:g}], not {self.pruned!r} and {self.locked!r}"
            )
        if layout not in (None, *LAYOUTS):
            raise ValueError(f"layout must be one of {', '.join(LAYOUTS)}, not {layout!r}")
        self.layout = layout or ("epl" if distribution == "global" else distribution)
        super().__init__(model, density=density, distribution=distribution, **options)

    def check_allocation(self, distribution: str, density_schedule: str) -> None:
        """The pattern fixes counts once and for all, and leaves no whole groups."""
        if masks.group_of(distribution) or density_schedule != "constant" or self.ranking != "magnitude":
            raw = [] if self.ranking == "magnitude" else [f"ranking={self.ranking!r}"]
            asked = " and ".join(filter(None, [non_default_allocation(distribution, density_schedule), *raw]))
            raise ValueError(
                f"the random pattern of a partially frozen search leaves no room for {asked}; use uniform, "
                "global, erk or epl with a constant density and magnitudes"
            )

    @property
    def pattern(self) -> dict[str, Tensor]:
        """Parameter name → int8 pattern T: −1 pruned, +1 locked in, 0 searched."""
        return {name: self.state[p]["pattern"] for name, p in self.masked_parameters.items()}

    def score_gradients(
        self, grads: list[Tensor], weights: list[Tensor], scores: list[Tensor]
    ) -> list[Tensor]:
        open_ = [self.state[p]["pattern"] == 0 for p in self.masked_parameters.values() if p.grad is not None]
        gradients = super().score_gradients(grads, weights, scores)
        return [gradient * o for gradient, o in zip(gradients, open_, strict=True)]

    def select(self) -> masks.Mask:
        """All locked weights, no pruned one, and the largest |s| of the others up to the density."""
        masks.check_finite(self.scores)
        top = torch.stack([score.abs().max() for score in self.scores.values()]).max() * 2 + 1
        ranked = {
            name: score.abs()
            .clamp(min=torch.finfo(score.dtype).tiny)  # above the pruned ones, also at 0
            .masked_fill(self.pattern[name] < 0, 0.0)
            .masked_fill(self.pattern[name] > 0, 1.0)
            .mul(torch.where(self.pattern[name] > 0, top, 1.0))
            for name, score in self.scores.items()
        }
        return masks.select(ranked, self.keep, self.threshold_hints)

    def identity(self) -> dict[str, Any]:
        frozen = {"pruned": self.pruned, "locked": self.locked, "layout": self.layout}
        return {**super().identity(), "seed": self.seed, **frozen}

    def check_layers(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Refuse layers whose pattern leaves no room for their density."""
        self._pattern_counts(shapes)

    def prepare(self) -> None:
        """Draw the patterns."""
        shapes = {name: tuple(p.shape) for name, p in self.masked_parameters.items()}
        for name, (least, most) in self._pattern_counts(shapes).items():
            parameter = self.masked_parameters[name]
            order = masks.permutation(parameter.numel(), self.seed, f"frozen/{name}")
            flat = torch.zeros(parameter.numel(), dtype=torch.int8)
            flat[order[:least]] = 1
            flat[order[most:]] = -1
            self.state[parameter]["pattern"] = flat.view(parameter.shape).to(parameter.device)

    def _pattern_counts(self, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, int]]:
        """Name → weights that are locked, and that are not pruned; moved by what rounding asks for."""
        open_or_locked = masks.allocate(shapes, 1.0 - self.pruned, self.layout)
        locked = masks.allocate(shapes, self.locked, self.layout) if self.locked else {}
        each = self.distribution != "global"
        keep = masks.allocate(shapes, self.density, self.distribution) if each else {}
        counts = {}
        for name, most in open_or_locked.items():
            least = min(locked.get(name, 0), most)
            counts[name] = self._fit(name, least, most, keep[name]) if each else (least, most)
        return counts

    def _fit(self, name: str, least: int, most: int, keep: int) -> tuple[int, int]:
        slack = 1
        if least > keep + slack or most < keep - slack:
            raise ValueError(
                f"{name} keeps {keep} weights, but the layout {self.layout!r} locks {least} and prunes all "
                f"but {most}; lower pruned or locked, or use the layout {self.distribution!r}"
            )
        return min(least, keep), max(most, keep)
