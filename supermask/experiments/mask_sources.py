"""Where the mask of a run comes from: one function per `MaskSource.kind`.

A new source is a function from an `Execution`, whose weights are in place, to a mask, under
`register_mask_source`.
"""

from collections.abc import Callable

from supermask.experiments.execution import Execution
from supermask.mask import Mask, random_mask
from supermask.prune import magnitude, shuffle

Source = Callable[[Execution], Mask]
MASK_SOURCES: dict[str, Source] = {}


def mask_of(execution: Execution) -> Mask:
    """The mask that a run's specification asks for."""
    return MASK_SOURCES[execution.spec.mask.kind](execution)


def register_mask_source(kind: str) -> Callable[[Source], Source]:
    """Decorator: make a source known to runs under `kind`."""

    def register(source: Source) -> Source:
        MASK_SOURCES[kind] = source
        return source

    return register


@register_mask_source("none")
def none(execution: Execution) -> Mask:
    """No mask: a dense network."""
    return {}


@register_mask_source("random")
def random(execution: Execution) -> Mask:
    """As many weights of each layer as `keep` says, at random."""
    keep = execution.spec.mask.keep
    assert isinstance(keep, dict)
    return random_mask(execution.masked_shapes(), keep, execution.spec.seed)


@register_mask_source("same")
def same(execution: Execution) -> Mask:
    """The mask of the parent run."""
    return execution.parent_ticket().mask()


@register_mask_source("shuffle")
def shuffled(execution: Execution) -> Mask:
    """The mask of the parent run, shuffled within each layer."""
    return shuffle(execution.parent_ticket().mask(), execution.spec.seed)


@register_mask_source("magnitude")
def largest(execution: Execution) -> Mask:
    """The largest weights of the parent run among those that it kept."""
    keep, parent = execution.spec.mask.keep, execution.parent_ticket()
    assert keep is not None
    shapes = execution.masked_shapes()
    weights = {name: value for name, value in parent.weights().items() if name in shapes}
    return magnitude(weights, keep, parent.mask() or None)
