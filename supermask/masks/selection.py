"""Masks from scores: the largest of each layer, of all layers together, or of every group."""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from supermask import ops
from supermask.checks import check_mapping

Mask = dict[str, Tensor]


class NonFiniteScoreError(ValueError):
    """A score is NaN or infinite; the message names the parameter."""


def select(
    scores: Mapping[str, Tensor],
    keep: Mapping[str, int] | int,
    cuts: Tensor | None = None,
    ranking: str = "magnitude",
) -> Mask:
    """The mask of the largest |score|: `keep[name]` of each layer, or `keep` of all ranked together.

    Ties go to the lower index. In a global ranking every layer keeps at least its best weight. `cuts`
    (from `ops.new_cuts`) makes repeated selections faster and changes none; `ranking` is as in
    `ops.select`.

    Raises:
        NonFiniteScoreError: A score is NaN or infinite.
        ValueError: A count is not in [0, size], or a layer has none.
    """
    check_counts(scores, keep)
    names, tensors = list(scores), list(scores.values())
    try:
        if isinstance(keep, int):
            masks = ops.select_global(tensors, keep, cuts, ranking, floor=True)
        else:
            masks = ops.select(tensors, [keep[name] for name in names], cuts, ranking)
    except ValueError:
        check_finite(scores)
        raise
    return dict(zip(names, masks, strict=True))


def select_n_of_m(
    scores: Mapping[str, Tensor],
    n: int,
    m: int,
    ranking: str = "magnitude",
    cuts: Tensor | None = None,
    inputs: Mapping[str, int] | None = None,
) -> Mask:
    """The mask of the n first in rank of every m inputs; see `ops.select_n_of_m`.

    Args:
        scores: Name → scores of a layer, two dimensions or more.
        n: How many of a group stay.
        m: Size of a group.
        ranking: What scores are ranked by.
        cuts: From `ops.new_cuts`; they report scores that are not finite.
        inputs: Name → axis of the inputs, where it is not 1, as in (in, out) weights.

    Raises:
        NonFiniteScoreError: A score is NaN or infinite.
    """
    axes = [(inputs or {}).get(name, 1) for name in scores]
    turned = [_moved(score, axis, 1) for score, axis in zip(scores.values(), axes, strict=True)]
    try:
        found = ops.select_n_of_m(turned, n, m, ranking, cuts)
        return {name: _moved(mask, 1, axis) for name, mask, axis in zip(scores, found, axes, strict=True)}
    except ValueError:
        check_finite(scores)
        raise


def _moved(tensor: Tensor, source: int, target: int) -> Tensor:
    return tensor if source == target else tensor.movedim(source, target).contiguous()


def check_counts(names: Iterable[str], keep: Mapping[str, int] | int) -> None:
    """Refuse counts that are neither one number for all layers together nor one for each of `names`.

    Raises:
        ValueError: They are something else; the message names a layer without one.
    """
    if isinstance(keep, int):
        return
    missing = [name for name in names if name not in check_mapping(keep, "keep is a count for each layer")]
    if missing:
        raise ValueError(
            f"keep has no count for {missing[0]}; give one for each layer, or one number for all together"
        )


def check_masks(mask: Mapping[str, Tensor], parameters: Mapping[str, Tensor]) -> None:
    """Refuse what is no mask of some of `parameters`.

    Raises:
        TypeError: It is no mapping.
        ValueError: It names another parameter, or a tensor in it is not bool or of another shape.
    """
    what = "a mask maps parameter names to bool tensors, as search.mask and ticket.mask() do"
    for name, kept in check_mapping(mask, what).items():
        if name not in parameters:
            raise ValueError(f"the mask names {name}, which is no parameter of the model")
        check_mask(name, kept, parameters[name])


def check_mask(name: str, kept: Tensor, parameter: Tensor) -> None:
    """A ValueError unless `kept` is a bool mask of the shape of `parameter`, whose name is `name`."""
    if not isinstance(kept, Tensor):
        raise ValueError(f"the mask of {name} must be a bool tensor, not a {type(kept).__name__}")
    if kept.dtype != torch.bool or kept.shape != parameter.shape:
        raise ValueError(
            f"the mask of {name} is {kept.dtype} of shape {tuple(kept.shape)}; it must be bool of shape "
            f"{tuple(parameter.shape)}"
        )


def check_finite(scores: Mapping[str, Tensor]) -> None:
    """Raise NonFiniteScoreError for the first layer with a NaN or infinite score."""
    for name, score in scores.items():
        if not torch.isfinite(score).all():
            raise _not_finite(name) from None


def check_cuts(scores: Mapping[str, Tensor], cuts: Tensor) -> None:
    """Raise NonFiniteScoreError if `ops.not_finite` reports a score of a selection with `cuts`."""
    if ops.not_finite(cuts):
        check_finite(scores)
        raise NonFiniteScoreError("the scores have not been finite; go on from an earlier state")


def _not_finite(name: str) -> NonFiniteScoreError:
    return NonFiniteScoreError(
        f"the scores of {name} are not finite; the search diverged or its loss did. "
        "Lower lr, clip the gradients, or check the data"
    )


def at_least_one(mask: Tensor, score: Tensor) -> Tensor:
    """`mask` itself, in which the entry of the largest score is set where there would be none.

    Nothing waits for the device to tell whether the mask was empty.
    """
    flat = mask.view(-1)
    best = score.reshape(-1).argmax()
    flat[best] = flat[best] | ~flat.any()
    return mask
