"""A search and a method of somebody else's, registered from outside the package."""

from collections.abc import Iterator

from supermask import EdgePopup, register_search
from supermask.experiments.compare.comparison import ComparisonBuilder
from supermask.experiments.compare.methods import register_method
from supermask.experiments.spec import MaskSource, RunSpec


@register_search("outside-search", label="search from outside", about="Somebody's own search.", colour="red")
class OutsideSearch(EdgePopup):
    """edge-popup under another name."""


@register_method(
    "outside-method",
    label="method from outside",
    group="trained",
    about="Somebody's own way to a trained ticket.",
    colour="teal",
    marker="*",
)
def outside_method(comparison: ComparisonBuilder) -> Iterator[RunSpec]:
    """A random mask, trained."""
    for density in comparison.densities:
        mask = MaskSource(kind="random", keep=comparison.counts(density))
        yield comparison.train("outside-method", mask=mask, density=density)
