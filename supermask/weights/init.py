"""Weights from a seed: every entry of every parameter is a pure function of (seed, name, index).

The key of a parameter is the first 8 bytes, little-endian, of
SHA-256("supermask/1/<purpose>/<seed>/<qualified name>"); the counter is the row-major index. An entry can
be drawn alone, on any device, in any order, and a changed layer changes no other layer.
"""

import hashlib
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from supermask import ops
from supermask.checks import is_count, is_number
from supermask.weights.names import data_parallel, unwrap
from supermask.weights.notices import FrozenNoiseWarning, first_of, tell
from supermask.weights.roles import ParameterInfo, check_usable, classify, share_unmoved

GENERATOR = "philox4x32-10"
SQRT_2 = math.sqrt(2.0)

# name -> (unit distribution, scale from gain, fan-in and fan-out, default gain). Signed constant:
# Ramanujan et al. 2020, section 3.3, with the Kaiming gain for ReLU; the others: He et al. 2015 and
# Glorot and Bengio 2010. Glorot constant: the signed constant of Zhou et al. 2019, which is the sign of a
# Glorot normal weight times the standard deviation of its layer. ELUS: Koster et al. 2022, a signed constant
# for ELU networks. A uniform distribution on (-b, b) has standard deviation b / sqrt 3.
_SCHEMES: dict[str, tuple[str, Callable[[float, int, int], float], float]] = {
    "signed_constant": ("sign", lambda gain, i, o: gain / math.sqrt(i), SQRT_2),
    "glorot_constant": ("sign", lambda gain, i, o: gain * math.sqrt(2.0 / (i + o)), 1.0),
    "elus": ("sign", lambda gain, i, o: gain / math.sqrt(i), math.sqrt(3.0)),
    "kaiming_normal": ("normal", lambda gain, i, o: gain / math.sqrt(i), SQRT_2),
    "kaiming_uniform": ("uniform", lambda gain, i, o: gain * math.sqrt(3.0 / i), SQRT_2),
    "glorot_normal": ("normal", lambda gain, i, o: gain * math.sqrt(2.0 / (i + o)), 1.0),
    "glorot_uniform": ("uniform", lambda gain, i, o: gain * math.sqrt(6.0 / (i + o)), 1.0),
}
INITS = tuple(_SCHEMES)


@dataclass(frozen=True)
class Draw:
    """How one parameter follows from the seed.

    Attributes:
        name: Qualified name, which enters the key.
        shape: Shape of the parameter.
        masked: Whether a mask applies to it.
        scheme: `sign`, `uniform`, `normal` (see `ops.SCHEMES`) or `constant`.
        scale: Factor on the unit draw, rounded to float32 when drawn; the value itself for `constant`.
        binary: Whether only the sign of the draw counts: +1 for a draw of 0 or more, -1 below.
        factor: What the draw, or its sign, is multiplied by afterwards, rounded to float32.
        zero_row: Row that is zero whatever is drawn: the padding of an embedding.
    """

    name: str
    shape: tuple[int, ...]
    masked: bool
    scheme: str
    scale: float
    binary: bool = False
    factor: float = 1.0
    zero_row: int | None = None

    def weight(
        self,
        seed: int,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        generation: int = 0,
    ) -> Tensor:
        """The parameter as drawn, contiguous; a later `generation` is another draw of the same kind."""
        out = torch.empty(self.shape, dtype=dtype, device=device)
        if self.scheme == "constant":
            out.fill_(self.scale)
        else:
            purpose = f"weight-{generation}" if generation else "weight"
            ops.fill_random(out, derive_key(purpose, seed, self.name), self.scheme, self.scale)
        if self.binary:
            out = torch.where(out < 0, -1.0, 1.0).to(dtype)
        if self.factor != 1:
            out = multiply(out, self.factor)
        if self.zero_row is not None:
            out[self.zero_row] = 0
        return out

    @property
    def magnitude(self) -> float | None:
        """|value| of every weight where it is the same for all, as in a signed constant; otherwise None."""
        if self.zero_row is not None or (not self.binary and self.scheme not in ("sign", "constant")):
            return None
        one = torch.tensor(1.0 if self.binary else abs(self.scale))
        return float(multiply(one, abs(self.factor)))


@dataclass(frozen=True)
class Init:
    """The record `randomize_` leaves on a model: all that is needed to draw it again.

    Attributes:
        init: Name of the initialization.
        seed: Seed of every draw.
        draws: One per parameter.
        generations: The last generation that a weight may be of; more than 0 where a search drew some of
            them again.
        density: What `randomize_` was given to rescale for.
        fixed: Names of parameters that were left as the architecture has them.
        kept: Names of others that `randomize_` was told to keep.
    """

    init: str
    seed: int
    draws: tuple[Draw, ...]
    generations: int = 0
    density: float | Mapping[str, float] | None = None
    fixed: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()

    def named(self) -> dict[str, Draw]:
        return {draw.name: draw for draw in self.draws}


def multiply(weight: Tensor, factor: float | Tensor) -> Tensor:
    """`weight` times float32(`factor`): a product in float32 at least, rounded to the weight's dtype.

    A factor may come as a scalar tensor, so that nobody waits for a device.
    """
    wide = torch.promote_types(weight.dtype, torch.float32)
    rounded = torch.as_tensor(factor, device=weight.device).float().to(wide)
    return (weight.to(wide) * rounded).to(weight.dtype)


def derive_key(purpose: str, seed: int, name: str) -> int:
    """The 64-bit generator key of a parameter, for one purpose (`weight`, `score`, …)."""
    digest = hashlib.sha256(f"supermask/1/{purpose}/{check_seed(seed)}/{name}".encode()).digest()
    return int.from_bytes(digest[:8], "little")


def check_seed(seed: int) -> int:
    """`seed` itself, or ValueError unless it is an integer in [0, 2^64)."""
    if not isinstance(seed, int) or not is_count(seed) or seed >= 1 << 64:
        raise ValueError(f"seed must be an integer in [0, 2^64), not {seed!r}")
    return seed


def randomize_(
    model: nn.Module,
    init: str = "signed_constant",
    seed: int = 0,
    *,
    gain: float | None = None,
    density: float | Mapping[str, float] | None = None,
    include: Iterable[str] = (),
    exclude: Iterable[str] = (),
    keep: Iterable[str] = (),
    train_norms: bool = False,
) -> nn.Module:
    """Redraw `model` from `seed`, in place, and freeze all that a mask search does not touch.

    Masked weights are drawn by `init`; norms become 1 and 0, biases 0, layer scales 1; embeddings are
    drawn from N(0, 1) (their padding row is 0) and tokens from N(0, 0.02²). Unmasked parameters stop
    requiring gradients; masked ones require them, because the search reads them. Norm statistics are reset.

    What the architecture fixes is left as it is: parameters that require no gradient before the first call
    (unless none does), integers, and what `keep` names.

    Args:
        model: Any module. Wrap it in DDP after this call, not before.
        init: One of `INITS`.
        seed: Integer in [0, 2^64). The same seed gives the same bits on every device.
        gain: Factor of the initialization, above 0; None takes √2 (√3 for `elus`, 1 for the Glorot schemes).
        density: Rescale masked weights by 1/√density, the paper's √(1/k), so that the output variance
            of a masked layer is that of the whole one. A mapping gives the density of each masked weight.
        include: Patterns of parameter names to mask although the default would not.
        exclude: Patterns of parameter names to leave unmasked.
        keep: Patterns of parameters whose present values are part of the architecture, such as Mamba's
            `A_log`; they are frozen, and a ticket stores them.
        train_norms: Let the weights and biases of norms require gradients, for searches that train them.

    Returns:
        The model.

    Raises:
        TypeError: `model` is no module.
        ValueError: Unknown `init`, seed, gain or density out of range, a pattern without a match, a parameter
            that has no values or is no plain weight.

    Warns:
        FrozenNoiseWarning: Matrices that no rule knows are drawn like tokens, and no search moves them.
    """
    if init not in INITS:
        raise ValueError(f"unknown init {init!r}; choose one of {', '.join(INITS)}")
    check_seed(seed)
    if gain is not None and (not is_number(gain) or gain <= 0):
        raise ValueError(f"gain is a factor of the weights and must be a number above 0, not {gain!r}")
    if data_parallel(model):
        raise ValueError(
            "call randomize_ before wrapping the model or a part of it in DDP, which must see what is frozen"
        )
    infos = classify(model, include, exclude, keep, redraw=True)
    check_usable(infos)
    _tell_of_noise(infos)
    if isinstance(density, Mapping):
        _check_named(density, [info.name for info in infos if info.role == "masked"])
    drawn = [info for info in infos if info.role != "kept"]
    draws = tuple(_draw(info, init, gain, density) for info in drawn)
    fixed = tuple(info.name for info in infos if info.role == "kept" and info.reason != "kept")
    kept = tuple(info.name for info in infos if info.role == "kept" and info.reason == "kept")
    inner = unwrap(model)
    with torch.no_grad():
        for module in inner.modules():
            if callable(reset := getattr(module, "reset_running_stats", None)):
                reset()
        for info, draw in zip(drawn, draws, strict=True):
            info.tensor.copy_(draw.weight(seed, info.tensor.dtype, info.tensor.device))
    for info in infos:
        info.tensor.requires_grad_(info.role == "masked" or (train_norms and is_norm_parameter(info)))
    record = Init(init, seed, draws, density=density, fixed=fixed, kept=kept)
    inner.supermask_init = record  # type: ignore[assignment]
    return model


def _check_named(density: Mapping[str, float], masked: list[str]) -> None:
    """Refuse densities by name that leave a masked weight out, or name another parameter."""
    missing, strange = set(masked) - set(density), set(density) - set(masked)
    if missing or strange:
        wrong = f"has none for {min(missing)}" if missing else f"names {min(strange, key=str)!r}"
        raise ValueError(f"density {wrong}; give one number, or one for each of {', '.join(masked)}")


def _tell_of_noise(infos: list[ParameterInfo]) -> None:
    unknown = [info for info in infos if not info.known]
    if unknown:
        noise = sum(info.tensor.numel() for info in unknown)
        share = noise / sum(info.tensor.numel() for info in infos)
        names = [f"{info.name} ({'×'.join(map(str, info.tensor.shape))})" for info in unknown]
        tell(
            f"no rule says what {first_of(names)} do: they are drawn from N(0, 0.02²), {share:.2%} of all "
            f"weights, and stay so; no search moves {share_unmoved(infos):.2%} in all. Name the axes that "
            "are inputs by sm.register_layer(…), mask (out, in) weights by include=[…], or keep their values "
            "by keep=[…]",
            FrozenNoiseWarning,
        )


def is_norm_parameter(info: ParameterInfo) -> bool:
    """Whether `info` is the scale or shift of a normalization layer."""
    return info.role == "constant" and "Norm" in info.reason


def init_of(model: nn.Module) -> Init | None:
    """The record that `randomize_` left on `model`, or None."""
    record = getattr(unwrap(model), "supermask_init", None)
    return record if isinstance(record, Init) else None


def _draw(
    info: ParameterInfo, init: str, gain: float | None, density: float | Mapping[str, float] | None
) -> Draw:
    shape = tuple(info.tensor.shape)
    if info.role == "constant":
        return Draw(info.name, shape, False, "constant", info.value)
    if info.std:
        return Draw(info.name, shape, False, "normal", info.std, zero_row=info.zero_row)
    scheme, scale, default_gain = _SCHEMES[init]
    factor = 1.0
    if info.role == "masked" and density is not None:
        layer = density[info.name] if isinstance(density, Mapping) else density
        if not is_number(layer) or not 0 < layer <= 1:
            raise ValueError(f"density must lie in (0, 1], not {layer!r} (for {info.name})")
        factor = math.sqrt(1.0 / layer)
    base = scale(default_gain if gain is None else float(gain), info.fan_in, info.fan_out)
    masked = info.role == "masked"
    return Draw(info.name, shape, masked, scheme, base * factor, zero_row=info.zero_row)
