"""Where the mask of a run comes from: one function per `MaskSource.kind`.

A new source is a function from a `RunContext`, whose weights are in place, to a mask, under
`register_mask_source`.
"""

import math
from collections.abc import Callable

from torch import Tensor

from supermask.experiments.execution.context import RunContext
from supermask.masks import Mask, keep_count, random_mask
from supermask.prune import (
    best,
    by_criterion,
    filter_layers,
    filter_mask,
    grasp,
    inverted,
    magnitude,
    shuffle,
    snip,
    synflow,
)

Source = Callable[[RunContext], Mask]
MASK_SOURCES: dict[str, Source] = {}


def mask_of(context: RunContext) -> Mask:
    """The mask that a run's specification asks for; of several ranks that of the main one holds."""
    mask = MASK_SOURCES[context.spec.mask.kind](context)
    context.environment.ranks.agree(mask)
    return mask


def register_mask_source(kind: str) -> Callable[[Source], Source]:
    """Decorator: make a source known to runs under `kind`."""

    def register(source: Source) -> Source:
        MASK_SOURCES[kind] = source
        return source

    return register


@register_mask_source("none")
def none(context: RunContext) -> Mask:
    """No mask: a dense network."""
    return {}


@register_mask_source("random")
def random(context: RunContext) -> Mask:
    """As many weights of each layer as `keep` says, at random."""
    source = context.spec.mask
    assert isinstance(source.keep, dict)
    shapes, axes = context.masked_shapes(), context.input_axes()
    return random_mask(shapes, source.keep, context.spec.seed, source.distribution, axes)


@register_mask_source("same")
def same(context: RunContext) -> Mask:
    """The mask of the parent run."""
    return context.parent().mask()


@register_mask_source("transferred")
def transferred(context: RunContext) -> Mask:
    """The mask of a run of another task; layers of another shape take a random one of its density."""
    theirs, mask = context.parent().mask(), {}
    for name, shape in context.masked_shapes().items():
        if name not in theirs:
            raise ValueError(
                f"the ticket has no mask of {name}; transfer between networks of one architecture"
            )
        mask[name] = theirs[name]
        if theirs[name].shape != shape:
            count = keep_count(math.prod(shape), int(theirs[name].sum()) / theirs[name].numel())
            mask |= random_mask({name: shape}, {name: count}, context.spec.seed)
    return mask


@register_mask_source("shuffle")
def shuffled(context: RunContext) -> Mask:
    """The mask of the parent run, shuffled within each layer."""
    return shuffle(context.parent().mask(), context.spec.seed)


@register_mask_source("magnitude")
def largest(context: RunContext) -> Mask:
    """The largest weights of the parent run among those that it kept."""
    keep = context.spec.mask.keep
    assert keep is not None
    return magnitude(final_weights(context), keep, context.parent().mask() or None)


def final_weights(context: RunContext) -> dict[str, Tensor]:
    """Name → the masked weights with which the parent run ended."""
    weights = context.parent_ticket().weights()
    return {name: weights[name] for name in context.masked_shapes()}


@register_mask_source("criterion")
def criterion(context: RunContext) -> Mask:
    """What another criterion than magnitude keeps of the parent run, whose draw this run's must be."""
    source = context.spec.mask
    assert source.keep is not None
    return by_criterion(
        source.criterion,
        context.starting_weights(),
        final_weights(context),
        source.keep,
        context.parent().mask() or None,
        alpha=source.alpha,
        seed=context.spec.seed,
    )


@register_mask_source("filters")
def filters(context: RunContext) -> Mask:
    """As many filters of each layer of the parent run as `keep` says, by their L1 norm."""
    keep = context.spec.mask.keep
    assert isinstance(keep, dict)
    return filter_mask(final_weights(context), filter_layers(context.model, context.batch(0)[0]), keep)


@register_mask_source("snip")
def sensitive(context: RunContext) -> Mask:
    """SNIP on the first batch."""
    return _by_saliency(context, snip)


@register_mask_source("snip-inverted")
def insensitive(context: RunContext) -> Mask:
    """SNIP's least sensitive weights."""
    return _by_saliency(context, snip, invert=True)


@register_mask_source("grasp")
def flowing(context: RunContext) -> Mask:
    """GraSP on the first batch."""
    return _by_saliency(context, grasp)


@register_mask_source("grasp-inverted")
def against_the_flow(context: RunContext) -> Mask:
    """What GraSP would remove first."""
    return _by_saliency(context, grasp, invert=True)


@register_mask_source("synflow")
def synaptic(context: RunContext) -> Mask:
    """SynFlow, which sees no data."""
    return _by_synflow(context)


@register_mask_source("synflow-inverted")
def asynaptic(context: RunContext) -> Mask:
    """The weights of least synaptic flow, round by round."""
    return _by_synflow(context, invert=True)


def _by_synflow(context: RunContext, invert: bool = False) -> Mask:
    keep = context.spec.mask.keep
    assert isinstance(keep, int)
    return synflow(context.model, tuple(context.batch(0)[0].shape[1:]), keep, invert=invert)


def _by_saliency(
    context: RunContext, saliency: Callable[..., dict[str, Tensor]], invert: bool = False
) -> Mask:
    assert context.spec.mask.keep is not None
    scores = saliency(context.model, *context.batch(0))
    return best(inverted(scores) if invert else scores, context.spec.mask.keep)
