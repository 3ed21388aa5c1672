"""Operators: one schema each, a reference in torch, and the place where compiled kernels plug in.

Everything the library computes on whole tensors of weights, scores or mask bits goes through
`torch.ops.supermask.*`. The references below are registered for every backend; a compiled library
overrides them for CPU and CUDA through PyTorch's dispatcher, so that no caller ever asks which device
it runs on. The wrappers at the end are what the rest of the library calls.

The generator is Philox4x32-10 (Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3", SC 2011).
Every output is a function of (key, element index) alone. Normal values come from the Box-Muller
transform, computed with float32 additions, multiplications, one exact square root and the polynomials
below: no call into a mathematics library decides a bit.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

SCHEMES = ("sign", "uniform", "normal")
"""Unit distributions: +1 or -1 with equal odds; uniform on (-1, 1); standard normal."""

_library = torch.library.Library("supermask", "DEF")
_library.define("philox(int key, int start, int count, Device device) -> Tensor")
_library.define("fill_random(Tensor(a!) out, int key, int start, str scheme, float scale) -> ()")
_library.define("select(Tensor[] scores, int[] keep) -> Tensor[]")
_library.define("select_global(Tensor[] scores, int keep) -> Tensor[]")
_library.define("straight_through(Tensor[] grads, Tensor[] weights, Tensor[] scores) -> Tensor[]")
_library.define("write_masked(Tensor(a!)[] out, Tensor[] weights, Tensor[] masks) -> ()")
_library.define("pack_mask(Tensor mask) -> Tensor")
_library.define("unpack_mask(Tensor packed, SymInt numel) -> Tensor")

_LOW = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_KEY_STEPS = (0x9E3779B9, 0xBB67AE85)
_CHUNK = 1 << 15  # Philox blocks drawn at a time: the int64 temporaries stay in cache

# Minimax fits, each rounded to float32, lowest order first. ln(1 + t) / t for t in [1/sqrt2 - 1, sqrt2 - 1]
# (error 2.6e-8); sin(pi/2 f) / f and cos(pi/2 f) in f^2 for |f| <= 1/2 (errors 5e-9 and 5e-11).
LOG_COEFFICIENTS = (
    1.0, -0.4999997913837433, 0.3333415985107422, -0.25002944469451904, 0.19958415627479553,
    -0.1654374599456787, 0.14917394518852234, -0.14482136070728302, 0.08959803730249405,
)  # fmt: skip
SIN_COEFFICIENTS = (
    1.5707963705062866,
    -0.6459634900093079,
    0.07968022674322128,
    -0.004602177068591118,
)
COS_COEFFICIENTS = (
    1.0, -1.2337005138397217, 0.25366920232772827, -0.02086007222533226, 0.0009036316769197583,
)  # fmt: skip
LN2 = 0.6931471824645996  # float32(ln 2)
SQRT2 = 1.4142135381698608  # float32(sqrt 2)


# --- generator ---------------------------------------------------------------------------------------


def _multiply(multiplier: int, value: Tensor | int) -> tuple[Tensor | int, Tensor | int]:
    """High and low half of a 32x32-bit product; an int64 that wraps still holds the right 64 bits."""
    product = value * multiplier
    return (product >> 32) & _LOW, product & _LOW


def _philox_blocks(key: int, first: int, count: int, device: torch.device) -> Tensor:
    """Words of `count` consecutive Philox blocks, shape (count, 4), as int64 in [0, 2^32)."""
    block = torch.arange(first, first + count, dtype=torch.int64, device=device)
    c0: Tensor | int = block & _LOW
    c1: Tensor | int = (block >> 32) & _LOW
    c2: Tensor | int = 0
    c3: Tensor | int = 0
    k0, k1 = key & _LOW, (key >> 32) & _LOW
    for _ in range(10):
        high0, low0 = _multiply(_MULTIPLIERS[0], c0)
        high1, low1 = _multiply(_MULTIPLIERS[1], c2)
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = (k0 + _KEY_STEPS[0]) & _LOW, (k1 + _KEY_STEPS[1]) & _LOW
    words = [torch.as_tensor(c, device=device).expand(count) for c in (c0, c1, c2, c3)]
    return torch.stack(words, dim=1)


def _philox(key: int, start: int, count: int, device: torch.device) -> Tensor:
    first, last = start // 4, -(-(start + count) // 4)
    return _philox_blocks(key, first, last - first, device).flatten()[start - 4 * first :][:count].clone()


def _polynomial(coefficients: Sequence[float], x: Tensor) -> Tensor:
    """Horner's rule in float32, every product and every sum rounded (no fused multiply-add)."""
    value = torch.full_like(x, coefficients[-1])
    for coefficient in coefficients[-2::-1]:
        value = value * x + coefficient
    return value


def _radius(word: Tensor) -> Tensor:
    """sqrt(-2 ln u) for u = (word | 1) / 2^32, from 32-bit words."""
    bits = (word | 1).float().view(torch.int32)
    exponent = (bits >> 23) - 127
    mantissa = ((bits & 0x7FFFFF) | 0x3F800000).view(torch.float32)
    above = mantissa > SQRT2
    mantissa = torch.where(above, mantissa * 0.5, mantissa)
    exponent = torch.where(above, exponent + 1, exponent)
    t = mantissa - 1.0
    log = (exponent - 32).float() * LN2 + t * _polynomial(LOG_COEFFICIENTS, t)
    # torch's float32 square root is not correctly rounded on CPU; the double one, rounded, is.
    return (log * -2.0).clamp(min=0.0).double().sqrt().float()


def _circle(word: Tensor) -> tuple[Tensor, Tensor]:
    """Cosine and sine of a uniform angle: the top two bits turn by quarters, the others within one."""
    quarter = word >> 30
    f = ((word & 0x3FFFFFFF) * 2 + 1 - (1 << 30)).float() * 2.0**-31
    z = f * f
    sine, cosine = f * _polynomial(SIN_COEFFICIENTS, z), _polynomial(COS_COEFFICIENTS, z)
    odd = (quarter & 1) == 1
    x, y = torch.where(odd, -sine, cosine), torch.where(odd, cosine, sine)
    return torch.where(quarter >= 2, -x, x), torch.where(quarter >= 2, -y, y)


def _unit_values(words: Tensor, scheme: str) -> Tensor:
    """Elements of Philox blocks `words` (count, 4), flat: 128 per block for signs, otherwise 4."""
    if scheme == "sign":
        shifts = torch.arange(32, device=words.device)
        return 1.0 - 2.0 * ((words.unsqueeze(-1) >> shifts) & 1).flatten().float()
    if scheme == "uniform":
        return ((words >> 8) * 2 + 1 - (1 << 24)).flatten().float() * 2.0**-24
    radius = _radius(words[:, 0::2])
    cosine, sine = _circle(words[:, 1::2])
    return torch.stack((radius * cosine, radius * sine), dim=-1).flatten()


def _fill_random(out: Tensor, key: int, start: int, scheme: str, scale: float) -> None:
    if scheme not in SCHEMES:
        raise ValueError(f"unknown scheme {scheme!r}; choose one of {', '.join(SCHEMES)}")
    if not out.is_contiguous():
        raise ValueError("out must be contiguous: elements are drawn in row-major order")
    per_block = 128 if scheme == "sign" else 4
    flat, factor = out.view(-1), torch.tensor(scale, dtype=torch.float32, device=out.device)
    done = 0
    while done < flat.numel():
        block, offset = divmod(start + done, per_block)
        take = min(flat.numel() - done, _CHUNK * per_block - offset)
        words = _philox_blocks(key, block, -(-(offset + take) // per_block), out.device)
        values = _unit_values(words, scheme)[offset : offset + take]
        flat[done : done + take] = values * factor
        done += take


# --- selection ---------------------------------------------------------------------------------------

_INTEGER = {2: torch.int16, 4: torch.int32, 8: torch.int64}


def _magnitude_keys(score: Tensor) -> Tensor:
    """|score| as integers in the same order, flat and row-major; denormals and zeros stay distinct."""
    flat = score.detach().contiguous().view(-1)
    integer = _INTEGER[flat.element_size()]
    return flat.view(integer) & torch.iinfo(integer).max  # the sign bit off


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
    if keys.numel() and int(keys.max()) >= _infinity_key(dtype):
        raise ValueError("scores are not finite")


def _make_select(threshold: Callable[[Tensor, int], Tensor]) -> tuple[Callable[..., Any], ...]:
    def select_keys(keys: Tensor, keep: int) -> Tensor:
        if not 0 <= keep <= len(keys):
            raise ValueError(f"keep must lie in [0, {len(keys)}], the size of the scores, not {keep}")
        if keep in (0, len(keys)):
            return torch.full((len(keys),), keep > 0, dtype=torch.bool, device=keys.device)
        return _cut(keys, keep, threshold(keys, keep))

    def select(scores: Sequence[Tensor], keep: Sequence[int]) -> list[Tensor]:
        if len(scores) != len(keep):
            raise ValueError(f"{len(scores)} score tensors but {len(keep)} counts to keep")
        masks = []
        for score, count in zip(scores, keep, strict=True):
            keys = _magnitude_keys(score)
            _check_finite(keys, score.dtype)
            masks.append(select_keys(keys, count).view(score.shape))
        return masks

    def select_global(scores: Sequence[Tensor], keep: int) -> list[Tensor]:
        keys = torch.cat([_magnitude_keys(score) for score in scores])
        _check_finite(keys, scores[0].dtype)
        parts = select_keys(keys, keep).split([score.numel() for score in scores])
        return [part.reshape(score.shape).clone() for part, score in zip(parts, scores, strict=True)]

    return select, select_global


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


# --- packing -----------------------------------------------------------------------------------------


def _bit_values(device: torch.device) -> Tensor:
    return torch.tensor([1, 2, 4, 8, 16, 32, 64, 128], dtype=torch.uint8, device=device)


def _pack_mask(mask: Tensor) -> Tensor:
    if mask.dtype != torch.bool:
        raise TypeError(f"mask must be a bool tensor, not {mask.dtype}")
    flat = mask.contiguous().view(-1).to(torch.uint8)
    flat = torch.nn.functional.pad(flat, (0, -len(flat) % 8))
    return (flat.view(-1, 8) * _bit_values(mask.device)).sum(dim=1, dtype=torch.uint8)


def _unpack_mask(packed: Tensor, numel: int) -> Tensor:
    if packed.dtype != torch.uint8 or packed.dim() != 1 or len(packed) != -(-numel // 8):
        raise ValueError(
            f"{numel} mask bits take {-(-numel // 8)} bytes in one dimension, "
            f"not {packed.dtype} of shape {tuple(packed.shape)}"
        )
    return (packed.unsqueeze(1) & _bit_values(packed.device)).flatten()[:numel] != 0


# --- registration ------------------------------------------------------------------------------------

_select, _select_global = _make_select(_topk_threshold)
_cpu_select, _cpu_select_global = _make_select(_partition_threshold)

_REFERENCES: dict[str, Callable[..., Any]] = {
    "philox": _philox,
    "fill_random": _fill_random,
    "select": _select,
    "select_global": _select_global,
    "straight_through": _straight_through,
    "write_masked": _write_masked,
    "pack_mask": _pack_mask,
    "unpack_mask": _unpack_mask,
}
for _name, _kernel in _REFERENCES.items():
    _library.impl(_name, _kernel, "CompositeExplicitAutograd")
_library.impl("select", _cpu_select, "CPU")
_library.impl("select_global", _cpu_select_global, "CPU")


@torch.library.register_fake("supermask::philox", lib=_library)
def _(key: int, start: int, count: int, device: torch.device) -> Tensor:
    return torch.empty(count, dtype=torch.int64, device=device)


@torch.library.register_fake("supermask::fill_random", lib=_library)
def _(out: Tensor, key: int, start: int, scheme: str, scale: float) -> None:
    return None


def _fake_masks(scores: Sequence[Tensor], keep: Sequence[int] | int) -> list[Tensor]:
    return [torch.empty(score.shape, dtype=torch.bool, device=score.device) for score in scores]


torch.library.register_fake("supermask::select", _fake_masks, lib=_library)
torch.library.register_fake("supermask::select_global", _fake_masks, lib=_library)


@torch.library.register_fake("supermask::straight_through", lib=_library)
def _(grads: Sequence[Tensor], weights: Sequence[Tensor], scores: Sequence[Tensor]) -> list[Tensor]:
    return [torch.empty(score.shape, dtype=score.dtype, device=score.device) for score in scores]


@torch.library.register_fake("supermask::write_masked", lib=_library)
def _(out: Sequence[Tensor], weights: Sequence[Tensor], masks: Sequence[Tensor]) -> None:
    return None


@torch.library.register_fake("supermask::pack_mask", lib=_library)
def _(mask: Tensor) -> Tensor:
    return torch.empty((mask.numel() + 7) // 8, dtype=torch.uint8, device=mask.device)


@torch.library.register_fake("supermask::unpack_mask", lib=_library)
def _(packed: Tensor, numel: int) -> Tensor:
    return torch.empty(numel, dtype=torch.bool, device=packed.device)


# --- what the library calls --------------------------------------------------------------------------


def _signed(key: int) -> int:
    """A 64-bit key as the int64 that an operator schema can carry."""
    return key - (1 << 64) if key >= 1 << 63 else key


def reference(name: str) -> Callable[..., Any]:
    """The torch reference of an operator, for tests of the kernels that override it."""
    return _REFERENCES[name]


def philox(key: int, start: int, count: int, device: torch.device | str = "cpu") -> Tensor:
    """Words `start` to `start + count` of the generator's stream under `key`.

    Returns:
        int64 tensor of shape (count,), each value in [0, 2^32).
    """
    return torch.ops.supermask.philox(_signed(key), start, count, torch.device(device))


def fill_random(out: Tensor, key: int, scheme: str, scale: float = 1.0, start: int = 0) -> Tensor:
    """Fill contiguous `out` with elements `start`, `start + 1`, … of the stream under `key`.

    The value is the unit draw of `scheme` (see `SCHEMES`), in float32, times float32(`scale`), then cast
    to the dtype of `out`.
    """
    torch.ops.supermask.fill_random(out, _signed(key), start, scheme, scale)
    return out


def select(scores: Sequence[Tensor], keep: Sequence[int]) -> list[Tensor]:
    """Masks (bool) that keep exactly `keep[i]` entries of `scores[i]`: the largest by |score|.

    Ties go to the lower row-major index. Raises ValueError when a score is not finite.
    """
    return torch.ops.supermask.select(scores, keep)


def select_global(scores: Sequence[Tensor], keep: int) -> list[Tensor]:
    """Like `select`, with one count for all tensors ranked together; ties go to the earlier tensor."""
    return torch.ops.supermask.select_global(scores, keep)


def straight_through(
    grads: Sequence[Tensor], weights: Sequence[Tensor], scores: Sequence[Tensor]
) -> list[Tensor]:
    """dL/ds = sign(s) · W · dL/dW_eff, the straight-through rule of edge-popup, in the scores' dtype."""
    return torch.ops.supermask.straight_through(grads, weights, scores)


def write_masked(out: Sequence[Tensor], weights: Sequence[Tensor], masks: Sequence[Tensor]) -> None:
    """Write W ⊙ M into `out`, cast to its dtype and laid out in its memory format."""
    torch.ops.supermask.write_masked(out, weights, masks)


def pack_mask(mask: Tensor) -> Tensor:
    """A bool mask of any shape as ceil(n / 8) uint8: row-major, least significant bit first."""
    return torch.ops.supermask.pack_mask(mask)


def unpack_mask(packed: Tensor, numel: int) -> Tensor:
    """The first `numel` bits of `packed` as a flat bool tensor."""
    return torch.ops.supermask.unpack_mask(packed, numel)
