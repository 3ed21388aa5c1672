"""How weights follow from the seed: every way is found, nothing else is, and both directions agree."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from supermask.tickets.derivation import derive, generation_numbers, same_bits
from supermask.weights.init import Draw, Init, derive_key, multiply

SHAPE = (13, 11)


def draw_of(scheme: str) -> Draw:
    return Draw("layer.weight", SHAPE, True, scheme, 0.37)


def mask_of(seed: int, density: float) -> torch.Tensor:
    mask = torch.rand(SHAPE, generator=torch.Generator().manual_seed(seed)) < density
    mask[0, 0] = True
    return mask


schemes = st.sampled_from(["sign", "uniform", "normal"])
dtypes = st.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.float16])


@settings(max_examples=60, deadline=None)
@given(
    scheme=schemes,
    dtype=dtypes,
    seed=st.integers(0, 2**64 - 1),
    density=st.floats(0.02, 1),
    way=st.sampled_from(["plain", "factor", "root", "binary", "flipped", "redrawn"]),
)
def test_every_way_is_found_and_leads_back(scheme, dtype, seed, density, way):
    draw, mask = draw_of(scheme), mask_of(seed % 1000, density)
    drawn = draw.weight(seed, dtype)
    coin = torch.rand(SHAPE, generator=torch.Generator().manual_seed(seed % 999)) < 0.5
    ratio = mask.numel() / int(mask.sum())
    weight = {
        "plain": lambda: drawn,
        "factor": lambda: multiply(drawn, ratio),
        "root": lambda: multiply(drawn, math.sqrt(ratio)),
        "binary": lambda: torch.where(drawn < 0, -0.123, 0.123).to(dtype),
        "flipped": lambda: torch.where(coin, -drawn, drawn),
        "redrawn": lambda: torch.where(coin, draw.weight(seed, dtype, generation=2), drawn),
    }[way]()
    weight = (weight * mask).add(0.0)
    found = derive(weight, mask, draw, seed, generations=3)
    assert found is not None
    assert same_bits(found.weight(seed, dtype, mask), weight)
    if scheme == "sign" and way in ("factor", "root", "binary"):
        # A signed constant of another scale, which needs no second version of the format. A product in
        # float64 may be no float32, and a scale is one.
        assert found.plain or dtype == torch.float64
    if way == "flipped" and found.flips is not None:
        assert len(found.flips) == -(-int(mask.sum()) // 8)
    if way == "redrawn" and found.generations is not None:
        assert int(generation_numbers(found.generations, int(mask.sum())).max()) <= 3


@pytest.mark.parametrize("scheme", ["sign", "uniform", "normal"])
def test_trained_weights_are_not_taken_for_drawn_ones(scheme):
    draw, mask = draw_of(scheme), mask_of(0, 0.5)
    weight = draw.weight(1) * mask
    nudged = weight.clone()
    nudged[0, 0] = torch.nextafter(nudged[0, 0], torch.tensor(9.0))
    assert derive(weight, mask, draw, 1) is not None
    assert derive(nudged, mask, draw, 1, generations=2) is None
    assert derive(torch.where(mask, torch.rand(SHAPE), 0.0), mask, draw, 1, generations=2) is None
    assert derive(weight, mask, draw, 2) is None or scheme == "sign"
    # Without a mask there is no kept weight to tell anything of, so only the draw itself counts.
    assert derive(-draw.weight(1), None, draw, 1) is None
    assert derive(draw.weight(1), None, draw, 1) is not None


def test_magnitudes_of_one_signs_of_another_seed_cost_a_bit_each():
    draw, mask = draw_of("sign"), mask_of(0, 0.5)
    found = derive(draw.weight(2) * mask + 0.0, mask, draw, 1)
    assert found is not None and found.flips is not None and found.draw == draw


def test_a_generation_is_another_stream():
    draw = draw_of("normal")
    first, second = draw.weight(3, generation=1), draw.weight(3, generation=2)
    assert not torch.equal(first, second) and not torch.equal(first, draw.weight(3))
    assert derive_key("weight-1", 3, "layer.weight") != derive_key("weight", 3, "layer.weight")
    assert Init("kaiming_normal", 3, (draw,)).generations == 0


def test_the_magnitude_of_a_draw_is_that_of_its_weights():
    for draw in (
        draw_of("sign"),
        replace(draw_of("sign"), factor=1.7),
        replace(draw_of("normal"), binary=True, factor=0.3),
        Draw("b", SHAPE, False, "constant", -2.5),
    ):
        assert torch.equal(draw.weight(0).abs(), torch.full(SHAPE, draw.magnitude))
    assert draw_of("normal").magnitude is None and draw_of("uniform").magnitude is None
