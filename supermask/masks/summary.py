"""Masks for people: a few lines for a terminal, a table with bars for a notebook."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape

from torch import Tensor


@dataclass(frozen=True)
class LayerCount:
    """How much of a layer is kept.

    Attributes:
        name: Of the parameter.
        shape: Its shape.
        kept: Weights that are kept, of `numel`.
        numel: Weights in all.
    """

    name: str
    shape: tuple[int, ...]
    kept: int
    numel: int

    @property
    def density(self) -> float:
        return self.kept / max(self.numel, 1)


def as_text(title: str, layers: Sequence[LayerCount], facts: Iterable[str]) -> str:
    """A title, the density as a whole, the extremes of the layers, and a line for each fact."""
    lines = [title, f"  {_whole(layers)}"]
    if layers:
        most, least = (extreme(layers, key=lambda layer: layer.density) for extreme in (max, min))
        lines.append(
            f"  densest {most.name} ({most.density:.4g}), sparsest {least.name} ({least.density:.4g})"
        )
    return "\n".join([*lines, *(f"  {fact}" for fact in facts)])


def as_html(title: str, layers: Sequence[LayerCount], facts: Iterable[str]) -> str:
    """The same with a table of all layers, self-contained and without scripts."""
    rows = "".join(
        f"<tr><td style='text-align:left'>{escape(layer.name)}</td>"
        f"<td>{escape('×'.join(map(str, layer.shape)))}</td><td>{layer.kept:,}</td>"
        f"<td>{layer.density:.4g}</td><td style='text-align:left'>"
        f"<meter min='0' max='1' value='{layer.density:.6f}'></meter></td></tr>"
        for layer in layers
    )
    head = "".join(f"<th>{title}</th>" for title in ("layer", "shape", "kept", "density", ""))
    said = "".join(f"<br>{escape(fact)}" for fact in (_whole(layers), *facts))
    return f"<p><b>{escape(title)}</b>{said}</p><table><tr>{head}</tr>{rows}</table>"


def _whole(layers: Sequence[LayerCount]) -> str:
    kept, numel = (sum(getattr(layer, key) for layer in layers) for key in ("kept", "numel"))
    if not layers:
        return "no mask"
    count = "1 layer" if len(layers) == 1 else f"{len(layers)} layers"
    return f"density {kept / max(numel, 1):.4g}: {kept:,} of {numel:,} weights in {count}"


def counts_of(mask: Mapping[str, Tensor]) -> list[LayerCount]:
    """The counts of a mask: name → bool tensor."""
    return [LayerCount(name, tuple(kept.shape), int(kept.sum()), kept.numel()) for name, kept in mask.items()]
