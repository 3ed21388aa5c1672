"""What the rest of the library computes with: the operators of `supermask.ops.library` as functions.

They check their arguments, so that every backend refuses the same ones with the same words.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from supermask.ops.library import backends as backends
from supermask.ops.library import empty_masks
from supermask.ops.library import instruction_set as instruction_set
from supermask.ops.library import is_native as is_native
from supermask.ops.library import reference as reference
from supermask.ops.packed_references import round_to_int8

_NOT_FINITE = -(1 << 63)  # kNotFinite of hint.h

SCHEMES = ("sign", "uniform", "normal")
"""Unit distributions: +1 or -1 with equal odds; uniform on (-1, 1); standard normal."""


def _signed(key: int) -> int:
    """A 64-bit key as the int64 that an operator schema can carry."""
    return key - (1 << 64) if key >= 1 << 63 else key


def philox(key: int, start: int, count: int, device: torch.device | str = "cpu") -> Tensor:
    """Words `start` to `start + count` of the generator's stream under `key`.

    Returns:
        int64 tensor of shape (count,), each value in [0, 2^32).
    """
    words = torch.empty(count, dtype=torch.int64, device=device)
    torch.ops.supermask.fill_philox(words, _signed(key), start)
    return words


def fill_random(out: Tensor, key: int, scheme: str, scale: float = 1.0, start: int = 0) -> Tensor:
    """Fill contiguous `out` with elements `start`, `start + 1`, … of the stream under `key`.

    The value is the unit draw of `scheme` (see `SCHEMES`), in float32, times float32(`scale`), then cast
    to the dtype of `out`.
    """
    if scheme not in SCHEMES:
        raise ValueError(f"unknown scheme {scheme!r}; choose one of {', '.join(SCHEMES)}")
    if not out.is_floating_point():
        raise TypeError(f"out must be a tensor of floats, not {out.dtype}")
    if not out.is_contiguous():
        raise ValueError("out must be contiguous: elements are drawn in row-major order")
    torch.ops.supermask.fill_random(out, _signed(key), start, scheme, scale)
    return out


RANKINGS = ("magnitude", "raw")
"""What scores are ranked by: |score| or the score itself."""


def select(
    scores: Sequence[Tensor], keep: Sequence[int], cuts: Tensor | None = None, ranking: str = "magnitude"
) -> list[Tensor]:
    """Masks (bool) that keep exactly `keep[i]` entries of `scores[i]`: the first in rank.

    Ties go to the lower row-major index. Raises ValueError when a score is not finite; compiled CUDA kernels
    that are given `cuts` leave that to `not_finite`, because to raise it they would have to wait for the
    device. Their masks are exact all the same, infinities and NaNs being the largest.

    Args:
        scores: Tensors of floats, of any shapes.
        keep: How many entries of each to keep.
        cuts: What the previous call learnt about where the cut lies, from `new_cuts`; updated in place. It
            makes the call faster and changes no result.
        ranking: `magnitude` (the largest |score|) or `raw` (the largest score).
    """
    _check_counts(scores, keep)
    raw = _is_raw(ranking)
    try:
        if cuts is None and not raw:
            return torch.ops.supermask.select(scores, keep)
        masks = empty_masks(scores)
        if raw:
            known = new_cuts(scores) if cuts is None else cuts
            torch.ops.supermask.rank_into(masks, scores, keep, known, raw)
            if cuts is None:
                _raise_of(known)
        else:
            torch.ops.supermask.select_into(masks, scores, keep, cuts)
        return masks
    except RuntimeError as error:
        raise _as_value_error(error) from None


def select_global(
    scores: Sequence[Tensor],
    keep: int,
    cuts: Tensor | None = None,
    ranking: str = "magnitude",
    floor: bool = False,
) -> list[Tensor]:
    """Like `select`, with one count for all tensors ranked together; ties go to the earlier tensor.

    With `floor` every tensor keeps its first in rank, whatever the others are. `cuts` is of
    `new_cuts(scores, together=True)`.
    """
    _check_count(sum(score.numel() for score in scores), keep)
    if floor:
        _check_floor(scores, keep)
    raw = _is_raw(ranking)
    try:
        if cuts is None and not raw and not floor:
            return torch.ops.supermask.select_global(scores, keep)
        masks = empty_masks(scores)
        known = new_cuts(scores, together=True) if cuts is None else cuts
        torch.ops.supermask.rank_into(masks, scores, [keep], known, raw, floor)
        if cuts is None:
            _raise_of(known)
        return masks
    except RuntimeError as error:
        raise _as_value_error(error) from None


def select_n_of_m(
    scores: Sequence[Tensor], n: int, m: int, ranking: str = "magnitude", cuts: Tensor | None = None
) -> list[Tensor]:
    """Masks that keep the first n in rank of every m consecutive scores along the input dimension.

    The input dimension is the second: `in` of a linear weight (out, in), input channels of a convolution's
    (out, in, …), separately for every output and every kernel position. That is how sparse tensor cores
    and TensorRT ask for 2:4, whose reductions run over the channels innermost, and how NVIDIA's ASP prunes
    (Mishra et al., "Accelerating Sparse Deep Neural Networks", arXiv:2104.08378; Zhou et al., "Learning N:M
    Fine-grained Structured Sparse Neural Networks From Scratch", ICLR 2021, for any N:M). They choose by the
    magnitude of weights that are trained; ours are the scores of weights that are not.
    (A transposed convolution has its outputs there; leave it out with `exclude`.)
    The last r < m of a row keep ⌈n·r/m⌉: at least one, and n of m at most when filled up with zeros.
    Ties go to the lower index. Raises ValueError when a score is not finite.

    Args:
        scores: Tensors of floats of at least two dimensions.
        n: How many of a group to keep.
        m: Size of a group, at most 2048.
        ranking: As in `select`.
        cuts: Of `new_cuts`. Nothing is learnt from one call for the next, but with it a score that is not
            finite is reported as in `select`.
    """
    if not 1 <= n <= m <= MAX_GROUP:
        raise ValueError(f"n:m needs 1 <= n <= m <= {MAX_GROUP}, not {n}:{m}")
    for score in scores:
        if score.dim() < 2:
            raise ValueError(f"n:m needs an input dimension, the second; shape {tuple(score.shape)} has none")
    try:
        if cuts is None:
            return torch.ops.supermask.select_n_of_m(scores, n, m, _is_raw(ranking))
        masks = empty_masks(scores)
        torch.ops.supermask.select_n_of_m_into(masks, scores, n, m, _is_raw(ranking), cuts)
        return masks
    except RuntimeError as error:
        raise _as_value_error(error) from None


MAX_GROUP = 2048
"""Largest m of n:m: what one tile of the kernels holds."""


def new_cuts(scores: Sequence[Tensor], together: bool = False) -> Tensor:
    """An empty memory of cuts for `select` and `edge_popup_sgd`, on the scores' device.

    One row per tensor, or one for all that are ranked `together`. Its content is the backends' own
    business but for what `not_finite` reads, and any content gives the same masks.
    """
    return torch.zeros(1 if together else len(scores), 2, dtype=torch.int64, device=scores[0].device)


def not_finite(cuts: Tensor) -> list[int]:
    """Which rows of `cuts` have met a score that is not finite, in this selection or an earlier one.

    Only kernels that do not wait for their device report it so; the others raise. Reading it waits.
    """
    return torch.nonzero(cuts[:, 0] == _NOT_FINITE).flatten().tolist()


def straight_through(
    grads: Sequence[Tensor], weights: Sequence[Tensor], scores: Sequence[Tensor]
) -> list[Tensor]:
    """dL/ds = sign(s) · W · dL/dW_eff, the straight-through rule of edge-popup, in the scores' dtype.

    Scores and weights are float32 or float64, contiguous or not; gradients of any float type.
    """
    return torch.ops.supermask.straight_through(grads, weights, scores)


def write_masked(out: Sequence[Tensor], weights: Sequence[Tensor], masks: Sequence[Tensor]) -> None:
    """Write W ⊙ M into `out`, cast to its dtype and laid out in its memory format."""
    torch.ops.supermask.write_masked(out, weights, masks)
    # Autograd must see that the tensors changed, whoever wrote them.
    torch.autograd.graph.increment_version(out)


@dataclass(frozen=True)
class _SgdStep:
    """A search's whole step with `torch.optim.SGD` in one pass, bit for bit what the parts leave."""

    operator: str

    def __call__(
        self,
        out: Sequence[Tensor],
        scores: Sequence[Tensor],
        velocities: Sequence[Tensor],
        grads: Sequence[Tensor],
        weights: Sequence[Tensor],
        keep: Sequence[int],
        cuts: Tensor,
        *,
        lr: float | Tensor,
        momentum: float = 0.0,
        dampening: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        units: Tensor | None = None,
    ) -> list[Tensor]:
        """Move the scores by SGD, select, and write the masked weights.

        Gradients of the scores move `scores` and, with momentum, `velocities` (SGD's momentum buffers); the
        `keep[i]` largest |scores[i]| are selected, or the `keep[0]` largest of all, with the largest of every
        tensor among them, if it is the only count; and the weights under the masks are written into `out`.
        The rest are SGD's; a tensor `lr`, of one float on the scores' device, is read there when the step
        runs: a CUDA graph that holds the step follows it. `units` (float32, a factor for each gradient) serve
        on CPUs.

        Returns:
            The masks.

        Raises:
            ValueError: A score is no longer finite. `scores` have moved then. Compiled CUDA kernels write
                exact masks instead, and leave the error to `not_finite`.
        """
        if len(keep) == 1:
            _check_count(sum(score.numel() for score in scores), keep[0])
            _check_floor(scores, keep[0])
        else:
            _check_counts(scores, keep)
        masks = empty_masks(scores)
        number, rate = _number_or_tensor(lr)
        options = (number, momentum, dampening, weight_decay, nesterov, rate, units)
        operator = getattr(torch.ops.supermask, self.operator)
        try:
            operator(out, masks, scores, velocities, grads, weights, keep, cuts, *options)
        except RuntimeError as error:
            raise _as_value_error(error) from None
        finally:
            torch.autograd.graph.increment_version(out)
        return masks


edge_popup_sgd = _SgdStep("edge_popup_sgd")
"""The step of edge-popup: straight-through gradients, and W ⊙ M in `out`.

Where a score is not finite, `out` holds anything.
"""

signed_supermask_sgd = _SgdStep("signed_supermask_sgd")
"""The step of signed supermasks: dL/ds = W · dL/dW_eff, and sign(s) ⊙ W ⊙ M in `out`.

The sign of a score that is 0 is +1. Where a score is not finite, `out` is left as it was.
"""


def _number_or_tensor(lr: float | Tensor) -> tuple[float, Tensor | None]:
    """A learning rate as a number, or as the tensor that takes its place where reading it would wait."""
    if not isinstance(lr, Tensor):
        return lr, None
    if lr.numel() != 1 or not lr.is_floating_point():
        raise ValueError(f"lr must be a number or a tensor of one float, not {lr.dtype} of {tuple(lr.shape)}")
    return (float(lr), None) if lr.device.type == "cpu" else (0.0, lr.detach().to(torch.float32))


def packed_linear(
    operator: str, x: Tensor, layout: Sequence[Tensor], outputs: int, scale: float, bias: Tensor | None
) -> Tensor:
    """scale · x · Wᵀ + bias for packed W, by the operator for its layout (`layouts.LINEAR_LAYOUTS`).

    x has any leading dimensions; the result has its type, and sums are in float32.
    """
    call = getattr(torch.ops.supermask, operator).default
    differentiates = x.requires_grad or (bias is not None and bias.requires_grad)
    if torch.compiler.is_compiling() or (torch.is_grad_enabled() and differentiates):
        return call(x, *layout, outputs, scale, bias)
    # Gradients of operators are registered in Python: asking for none that way takes a small layer's time.
    with torch._C._AutoDispatchBelowAutograd():
        return call(x, *layout, outputs, scale, bias)


def as_int8(x: Tensor) -> Tensor:
    """x with each row rounded as by `linear_int8`, in the type of x; gradients pass as if it were not."""
    integers, scale = round_to_int8(x.detach())
    return x + ((integers * scale).to(x.dtype) - x.detach())


def check_ranking(ranking: str) -> str:
    """`ranking` itself, or ValueError unless it is one of `RANKINGS`."""
    if ranking not in RANKINGS:
        raise ValueError(f"ranking must be one of {', '.join(RANKINGS)}, not {ranking!r}")
    return ranking


def _is_raw(ranking: str) -> bool:
    return check_ranking(ranking) == "raw"


def _check_counts(scores: Sequence[Tensor], keep: Sequence[int]) -> None:
    if len(scores) != len(keep):
        raise ValueError(f"{len(scores)} score tensors but {len(keep)} counts to keep")
    for score, count in zip(scores, keep, strict=True):
        _check_count(score.numel(), count)


def _check_count(numel: int, count: int) -> None:
    if not 0 <= count <= numel:
        raise ValueError(f"keep must lie in [0, {numel}], the size of the scores, not {count}")


def _check_floor(scores: Sequence[Tensor], keep: int) -> None:
    filled = sum(score.numel() > 0 for score in scores)
    if 1 < len(scores) and keep < filled:
        raise ValueError(f"{keep} weights cannot keep one in each of {filled} layers; raise the density")


def _raise_of(cuts: Tensor) -> None:
    """Raise what a call without cuts of its own raises, unless a graph is being captured."""
    if cuts.is_cuda and torch.cuda.is_current_stream_capturing():
        return
    if not_finite(cuts):
        raise RuntimeError("scores are not finite")


def _as_value_error(error: RuntimeError) -> Exception:
    """The exception of the reference for a compiled kernel's complaint about values."""
    return ValueError("scores are not finite") if "scores are not finite" in str(error) else error
