"""Where the mask of a run comes from: one function per `MaskSource.kind`.

A new source is a function from an `Execution`, whose weights are in place, to a mask, under
`register_mask_source`.
"""

import math
from collections.abc import Callable

from torch import Tensor

from supermask.experiments.execution.context import Execution
from supermask.masks import Mask, keep_count, random_mask
from supermask.prune import (
    best,
    by_criterion,
    filter_layers,
    filter_mask,
    grasp,
    magnitude,
    shuffle,
    snip,
    synflow,
)

Source = Callable[[Execution], Mask]
MASK_SOURCES: dict[str, Source] = {}


def mask_of(execution: Execution) -> Mask:
    """The mask that a run's specification asks for; of several ranks that of the main one holds."""
    mask = MASK_SOURCES[execution.spec.mask.kind](execution)
    execution.environment.ranks.agree(mask)
    return mask


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
    source = execution.spec.mask
    assert isinstance(source.keep, dict)
    shapes, axes = execution.masked_shapes(), execution.input_axes()
    return random_mask(shapes, source.keep, execution.spec.seed, source.distribution, axes)


@register_mask_source("same")
def same(execution: Execution) -> Mask:
    """The mask of the parent run."""
    return execution.parent().mask()


@register_mask_source("transferred")
def transferred(execution: Execution) -> Mask:
    """The mask of a run of another task; layers of another shape take a random one of its density."""
    theirs, mask = execution.parent().mask(), {}
    for name, shape in execution.masked_shapes().items():
        if name not in theirs:
            raise ValueError(
                f"the ticket has no mask of {name}; transfer between networks of one architecture"
            )
        mask[name] = theirs[name]
        if theirs[name].shape != shape:
            count = keep_count(math.prod(shape), int(theirs[name].sum()) / theirs[name].numel())
            mask |= random_mask({name: shape}, {name: count}, execution.spec.seed)
    return mask


@register_mask_source("shuffle")
def shuffled(execution: Execution) -> Mask:
    """The mask of the parent run, shuffled within each layer."""
    return shuffle(execution.parent().mask(), execution.spec.seed)


@register_mask_source("magnitude")
def largest(execution: Execution) -> Mask:
    """The largest weights of the parent run among those that it kept."""
    keep = execution.spec.mask.keep
    assert keep is not None
    return magnitude(final_weights(execution), keep, execution.parent().mask() or None)


def final_weights(execution: Execution) -> dict[str, Tensor]:
    """Name → the masked weights with which the parent run ended."""
    weights = execution.parent_ticket().weights()
    return {name: weights[name] for name in execution.masked_shapes()}


@register_mask_source("criterion")
def criterion(execution: Execution) -> Mask:
    """What another criterion than magnitude keeps of the parent run, whose draw this run's must be."""
    source = execution.spec.mask
    assert source.keep is not None
    return by_criterion(
        source.criterion,
        execution.starting_weights(),
        final_weights(execution),
        source.keep,
        execution.parent().mask() or None,
        alpha=source.alpha,
        seed=execution.spec.seed,
    )


@register_mask_source("filters")
def filters(execution: Execution) -> Mask:
    """As many filters of each layer of the parent run as `keep` says, by their L1 norm."""
    keep = execution.spec.mask.keep
    assert isinstance(keep, dict)
    return filter_mask(final_weights(execution), filter_layers(execution.model, execution.batch(0)[0]), keep)


@register_mask_source("snip")
def sensitive(execution: Execution) -> Mask:
    """SNIP on the first batch."""
    return _by_saliency(execution, snip)


@register_mask_source("grasp")
def flowing(execution: Execution) -> Mask:
    """GraSP on the first batch."""
    return _by_saliency(execution, grasp)


@register_mask_source("synflow")
def synaptic(execution: Execution) -> Mask:
    """SynFlow, which sees no data."""
    keep = execution.spec.mask.keep
    assert isinstance(keep, int)
    return synflow(execution.model, tuple(execution.batch(0)[0].shape[1:]), keep)


def _by_saliency(execution: Execution, saliency: Callable[..., dict[str, Tensor]]) -> Mask:
    assert execution.spec.mask.keep is not None
    return best(saliency(execution.model, *execution.batch(0)), execution.spec.mask.keep)
