"""Reference kernels in torch: what every compiled kernel must reproduce bit for bit.

They serve on any device for which no compiled kernel is registered; `supermask.ops.library` declares the
operators and says what each one means.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from supermask.ops import mask_code, packed_references
from supermask.ops.generator import fill_philox, fill_random
from supermask.ops.layouts import (
    LINEAR_LAYOUTS,
    signs_of_codes,
)

# --- selection ---------------------------------------------------------------------------------------

_INTEGER = {2: torch.int16, 4: torch.int32, 8: torch.int64}


def _magnitude_keys(score: Tensor) -> Tensor:
    """|score| as integers in the same order, flat and row-major; denormals and zeros stay distinct."""
    flat = score.detach().contiguous().view(-1)
    integer = _INTEGER[flat.element_size()]
    return flat.view(integer) & torch.iinfo(integer).max  # the sign bit off


def _raw_keys(score: Tensor) -> Tensor:
    """The score itself as signed integers in the same order; zeros of both signs are equal."""
    keys = _magnitude_keys(score)
    return torch.where(score.detach().contiguous().view(-1).signbit(), -keys, keys)


def _infinity_key(dtype: torch.dtype) -> int:
    return int(torch.tensor(torch.inf, dtype=dtype).view(_INTEGER[dtype.itemsize]))


def _cut(keys: Tensor, keep: int, kth_largest: Tensor) -> Tensor:
    """Mask of the `keep` largest keys, ties to the lower index."""
    mask = keys >= kth_largest
    surplus = int(torch.count_nonzero(mask)) - keep
    if surplus:
        ties = torch.nonzero(keys == kth_largest).flatten()
        mask[ties[len(ties) - surplus :]] = False
    return mask


def _topk_threshold(keys: Tensor, keep: int) -> Tensor:
    return keys.topk(keep, sorted=False).values.min()


def _partition_threshold(keys: Tensor, keep: int) -> Tensor:
    """The same value as `_topk_threshold`; NumPy's partition is 2 to 3 times faster on a CPU."""
    position = len(keys) - keep
    return torch.from_numpy(np.partition(keys.numpy(), position)[position : position + 1])


def _check_finite(keys: Tensor, dtype: torch.dtype) -> None:
    if keys.numel() and int(keys.abs().max()) >= _infinity_key(dtype):
        raise ValueError("scores are not finite")


def _make_select(
    threshold: Callable[[Tensor, int], Tensor], keys_of: Callable[[Tensor], Tensor] = _magnitude_keys
) -> tuple[Callable[..., Any], ...]:
    def select_keys(keys: Tensor, keep: int) -> Tensor:
        if keep in (0, len(keys)):
            return torch.full((len(keys),), keep > 0, dtype=torch.bool, device=keys.device)
        return _cut(keys, keep, threshold(keys, keep))

    def select(scores: Sequence[Tensor], keep: Sequence[int]) -> list[Tensor]:
        masks = []
        for score, count in zip(scores, keep, strict=True):
            keys = keys_of(score)
            _check_finite(keys, score.dtype)
            masks.append(select_keys(keys, count).view(score.shape))
        return masks

    def select_global(scores: Sequence[Tensor], keep: int) -> list[Tensor]:
        # Keys of different widths do not compare; values cast to the widest type do.
        widest = functools.reduce(torch.promote_types, [score.dtype for score in scores])
        keys = torch.cat([keys_of(score.to(widest)) for score in scores])
        _check_finite(keys, widest)
        parts = select_keys(keys, keep).split([score.numel() for score in scores])
        return [part.reshape(score.shape).clone() for part, score in zip(parts, scores, strict=True)]

    return select, select_global


def _select_n_of_m(scores: Sequence[Tensor], n: int, m: int, raw: bool) -> list[Tensor]:
    masks = []
    for score in scores:
        keys = (_raw_keys if raw else _magnitude_keys)(score)
        _check_finite(keys, score.dtype)
        groups = keys.view(score.shape).split(m, dim=1) if score.numel() else ()
        masks.append(
            torch.cat([_first_in_rank(group, -(-n * group.shape[1] // m)) for group in groups], dim=1)
            if groups
            else torch.zeros_like(score, dtype=torch.bool)
        )
    return masks


def _select_n_of_m_into(
    masks: Sequence[Tensor], scores: Sequence[Tensor], n: int, m: int, raw: bool, cuts: Tensor
) -> None:
    for mask, selected in zip(masks, _select_n_of_m(scores, n, m, raw), strict=True):
        mask.copy_(selected)


def _first_in_rank(keys: Tensor, keep: int) -> Tensor:
    """Mask of the `keep` largest keys along dimension 1, ties to the lower index."""
    order = keys.argsort(dim=1, descending=True, stable=True)
    return torch.zeros_like(keys, dtype=torch.bool).scatter_(1, order.narrow(1, 0, keep), True)


# --- the step ----------------------------------------------------------------------------------------


def _straight_through(
    grads: Sequence[Tensor], weights: Sequence[Tensor], scores: Sequence[Tensor]
) -> list[Tensor]:
    # sign() is -1, 0 or +1, so the order of the products changes no bit.
    return [g.to(s.dtype).contiguous() * w * s.sign() for g, w, s in zip(grads, weights, scores, strict=True)]


def _write_masked(out: Sequence[Tensor], weights: Sequence[Tensor], masks: Sequence[Tensor]) -> None:
    # Adding +0 turns the -0 of a negative weight times 0 into +0: pruned weights have one bit pattern.
    for target, weight, mask in zip(out, weights, masks, strict=True):
        target.copy_((weight * mask).add_(0.0))


def _clear_where(values: Tensor, where: Tensor) -> None:
    values.masked_fill_(where, 0.0)


def _sgd(
    score: Tensor,
    grad: Tensor,
    velocity: Tensor | None,
    lr: float,
    momentum: float,
    dampening: float,
    weight_decay: float,
    nesterov: bool,
) -> None:
    """torch.optim.SGD's update of one tensor, after its first step: the same calls, hence the same bits."""
    if weight_decay != 0:
        grad = grad.add(score, alpha=weight_decay)
    if velocity is not None:
        velocity.mul_(momentum).add_(grad, alpha=1 - dampening)
        grad = grad.add(velocity, alpha=momentum) if nesterov else velocity
    score.add_(grad, alpha=-lr)


def _make_sgd_step(
    gradients_of: Callable[..., list[Tensor]], weights_of: Callable[[Tensor, Tensor], Tensor]
) -> Callable[..., None]:
    """A fused step, from the gradients of its scores and the weights that its mask leaves of W and scores."""

    def step(
        out: Sequence[Tensor],
        masks: Sequence[Tensor],
        scores: Sequence[Tensor],
        velocities: Sequence[Tensor],
        grads: Sequence[Tensor],
        weights: Sequence[Tensor],
        keep: Sequence[int],
        cuts: Tensor,
        lr: float,
        momentum: float,
        dampening: float,
        weight_decay: float,
        nesterov: bool,
        rate: Tensor | None = None,
        units: Tensor | None = None,
    ) -> None:
        lr = lr if rate is None else float(rate)
        if units is not None:
            grads = in_units(grads, units)
        for i, gradient in enumerate(gradients_of(grads, weights, scores)):
            velocity = velocities[i] if momentum != 0 else None
            _sgd(scores[i], gradient, velocity, lr, momentum, dampening, weight_decay, nesterov)
        _rank_into(masks, scores, keep, cuts, raw=False, floor=True)
        _write_masked(out, list(map(weights_of, weights, scores)), masks)

    return step


def in_units(grads: Sequence[Tensor], units: Tensor) -> list[Tensor]:
    """Each gradient times its factor, in float32 or what is wider."""
    wide = [grad.to(torch.promote_types(grad.dtype, torch.float32)) for grad in grads]
    return [grad * unit for grad, unit in zip(wide, units.unbind(), strict=True)]


SMALLEST_SIZE = 1e-18
"""A layer is not divided by less: its square is still a float that is not denormal."""


def _units_of_layers(grads: Sequence[Tensor], sizes: Sequence[Tensor], decay: float) -> Tensor:
    # A norm in the dtype of a bfloat16 gradient would have eight bits.
    dtype = functools.reduce(torch.promote_types, (grad.dtype for grad in grads), torch.float32)
    units = []
    for grad, norm, known in zip(grads, torch._foreach_norm(list(grads), dtype=dtype), sizes, strict=True):
        score_size, weight_size, square, count = known.unbind()
        mean_square = (norm.float() * weight_size).square() / max(grad.numel(), 1)
        square.mul_(decay).add_(mean_square, alpha=1 - decay)
        count.mul_(decay).add_(1 - decay)
        units.append(score_size / (square / count).sqrt_().clamp_(min=SMALLEST_SIZE))
    return torch.stack(units)


def _signed_gradients(
    grads: Sequence[Tensor], weights: Sequence[Tensor], scores: Sequence[Tensor]
) -> list[Tensor]:
    return [g.to(s.dtype).contiguous() * w for g, w, s in zip(grads, weights, scores, strict=True)]


_edge_popup_sgd = _make_sgd_step(_straight_through, lambda weight, score: weight)
_signed_supermask_sgd = _make_sgd_step(
    _signed_gradients, lambda weight, score: torch.where(score < 0, -weight, weight)
)


# --- all of them -------------------------------------------------------------------------------------

_select, _select_global = _make_select(_topk_threshold)
_cpu_select, _cpu_select_global = _make_select(_partition_threshold)
_raw_select, _raw_select_global = _make_select(_topk_threshold, _raw_keys)


def _select_into(
    masks: Sequence[Tensor], scores: Sequence[Tensor], keep: Sequence[int], cuts: Tensor
) -> None:
    select = _cpu_select if cuts.device.type == "cpu" else _select
    for mask, selected in zip(masks, select(scores, keep), strict=True):
        mask.copy_(selected)


def _rank_into(
    masks: Sequence[Tensor],
    scores: Sequence[Tensor],
    keep: Sequence[int],
    cuts: Tensor,
    raw: bool,
    floor: bool = False,
) -> None:
    together = len(keep) == 1 != len(scores)
    if not (raw or together):
        return _select_into(masks, scores, keep, cuts)
    if raw:
        selected = _raw_select_global(scores, keep[0]) if together else _raw_select(scores, keep)
    else:
        # Through the dispatcher: a device may have a kernel for this one and none for ours.
        selected = torch.ops.supermask.select_global(scores, keep[0])
    if floor and together and not all(mask.any() for mask in selected if mask.numel()):
        selected = _lifted_select_global(scores, keep[0], raw)
    for mask, of in zip(masks, selected, strict=True):
        mask.copy_(of)


def _lifted_select_global(scores: Sequence[Tensor], keep: int, raw: bool) -> list[Tensor]:
    """A ranking of all tensors in which the best score of each stands above all others."""
    filled = [score for score in scores if score.numel()]
    if keep < len(filled):
        raise ValueError(f"{keep} weights cannot keep one in each of {len(filled)} layers")
    one_each, together = (_raw_select, _raw_select_global) if raw else (_select, _select_global)
    best = one_each(scores, [min(1, score.numel()) for score in scores])
    top = max(float(score.abs().max()) for score in filled) * 2 + 1
    return together([score.masked_fill(m, top) for score, m in zip(scores, best, strict=True)], keep)


KERNELS: dict[str, Callable[..., Any]] = {
    "fill_philox": fill_philox,
    "fill_random": fill_random,
    "select": _select,
    "select_into": _select_into,
    "select_global": _select_global,
    "rank_into": _rank_into,
    "select_n_of_m": _select_n_of_m,
    "select_n_of_m_into": _select_n_of_m_into,
    "straight_through": _straight_through,
    "write_masked": _write_masked,
    "clear_where": _clear_where,
    "units_of_layers": _units_of_layers,
    "edge_popup_sgd": _edge_popup_sgd,
    "signed_supermask_sgd": _signed_supermask_sgd,
    **{name: packed_references.packed_linear(weights_of) for name, weights_of in LINEAR_LAYOUTS.items()},
    "linear_int8": packed_references.linear_int8,
    "conv_from_lists": packed_references.conv_from_lists,
    "conv_from_values": packed_references.conv_from_values,
    "linear_from_codes": packed_references.packed_linear(signs_of_codes),
    "linear_from_codes_wgmma": packed_references.packed_linear(signs_of_codes),
    "lists_of_weights_into": packed_references.lists_of_weights_into,
    "weight_gradient": packed_references.weight_gradient,
    "sparse_linear": packed_references.sparse_linear,
    "sparse_conv": packed_references.sparse_conv,
    "sparse_conv_input_gradient": packed_references.sparse_conv_input_gradient,
    "conv_weight_gradient": packed_references.conv_weight_gradient,
    "decode_codes": packed_references.decode_codes,
    "pack_mask": mask_code.pack,
    "unpack_mask": mask_code.unpack,
    "encode_mask": mask_code.encode,
    "decode_mask": mask_code.decode,
}
"""Operator name → reference."""

CPU_KERNELS: dict[str, Callable[..., Any]] = {"select": _cpu_select, "select_global": _cpu_select_global}
"""Faster equivalents for the CPU, for want of compiled kernels."""
