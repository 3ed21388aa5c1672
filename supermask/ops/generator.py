"""The generator in torch: Philox4x32-10, and uniform, normal and sign draws from its words.

Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3", SC 2011. Every output is a function of (key,
element index) alone. Normal values come from the Box-Muller transform, computed with float32 additions,
multiplications, one exact square root and the polynomials below: no call into a mathematics library decides
a bit.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

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


def fill_philox(out: Tensor, key: int, start: int) -> None:
    first, last = start // 4, -(-(start + out.numel()) // 4)
    words = _philox_blocks(key, first, last - first, out.device).flatten()
    out.view(-1).copy_(words[start - 4 * first :][: out.numel()])


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
    # Adding +0 makes +0 of the -0 that u = 1 gives.
    return (log * -2.0).clamp(min=0.0).add(0.0).double().sqrt().float()


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


def fill_random(out: Tensor, key: int, start: int, scheme: str, scale: float) -> None:
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
