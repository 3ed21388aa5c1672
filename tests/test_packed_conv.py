"""Convolutions that compute from packed masks, against torch's in float64."""

import itertools
import os
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

import supermask as sm
from supermask import ops
from supermask.models import create_model
from supermask.ops import layouts
from supermask.packed import PackedConv1d, PackedConv2d, pack, tuning
from supermask.packed.tuning import fastest
from tests.limited import limits

LISTS = "lists" if ops.instruction_set() in ("avx2", "avx512") else "dense"
"""What a sparse convolution is computed with: without vector instructions the dense product is faster."""
needs_native = pytest.mark.skipif(
    not ops.is_native("conv_from_lists", torch.device("cpu")),
    reason="no compiled library; `make setup` builds it",
)
native = torch.ops.supermask


def draw_signs(*shape: int, density: float = 0.3, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    signs = torch.randint(0, 2, shape, generator=generator) * 2 - 1
    return (signs * (torch.rand(shape, generator=generator) < density)).to(torch.int8)


def draw_weights(*shape: int, density: float = 0.3, seed: int = 0) -> Tensor:
    """Small integers and halves, whose sums are exact in any order, and zeros."""
    generator = torch.Generator().manual_seed(seed)
    return (
        torch.randint(1, 9, shape, generator=generator) / 2 * draw_signs(*shape, density=density, seed=seed)
    )


def draw_integers(*shape: int, seed: int = 0) -> Tensor:
    """Floats whose sums are exact in any order."""
    return torch.randint(-9, 10, shape, generator=torch.Generator().manual_seed(seed)).float()


def listed(layer: PackedConv1d | PackedConv2d) -> PackedConv1d | PackedConv2d:
    """The layer, computing from its lists whatever it would choose."""
    layer.kernel = lambda x: "lists"  # type: ignore[method-assign]
    return layer


@st.composite
def convolutions(draw):
    """Arguments of a convolution of any geometry, and the size of its input."""
    each = st.tuples(st.integers(1, 4), st.integers(1, 4))
    kernel, stride, dilation = draw(each), draw(each), draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    padding = draw(st.tuples(st.integers(0, 3), st.integers(0, 3)))
    reach = [
        step * (size - 1) + 1 - 2 * margin
        for step, size, margin in zip(dilation, kernel, padding, strict=True)
    ]
    size = [max(least, 1) + draw(st.integers(0, 36)) for least in reach]
    groups = draw(st.integers(1, 3))
    channels = groups * draw(st.one_of(st.integers(1, 6), st.sampled_from([33, 64])))
    outputs = groups * draw(st.one_of(st.integers(1, 6), st.sampled_from([16, 17])))
    arguments = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    return outputs, channels, kernel, size, arguments


@needs_native
@settings(max_examples=120, deadline=None)
@given(
    convolution=convolutions(),
    images=st.sampled_from([0, 1, 2, 5]),
    density=st.sampled_from([0.0, 0.1, 0.5, 1.0]),
    bias=st.booleans(),
    seed=st.integers(0, 9),
)
def test_any_geometry_is_exact_on_integers(convolution, images, density, bias, seed):
    outputs, channels, kernel, size, arguments = convolution
    signs = draw_signs(outputs, channels // arguments["groups"], *kernel, density=density, seed=seed)
    x, b = draw_integers(images, channels, *size, seed=seed), draw_integers(outputs) if bias else None
    layer = PackedConv2d(signs, 0.5, b, **arguments)
    expected = F.conv2d(x.double(), signs.double() * 0.5, None if b is None else b.double(), **arguments)
    assert torch.equal(listed(layer)(x).double(), expected)
    one_dimensional = {name: v[1] if isinstance(v, tuple) else v for name, v in arguments.items()}
    flat = PackedConv1d(signs[:, :, 0], 0.5, b, **one_dimensional)
    expected = F.conv1d(x[:, :, 0], signs[:, :, 0].float() * 0.5, b, **one_dimensional)
    assert torch.equal(listed(flat)(x[:, :, 0]), expected)
    lists = layouts.lists_of_signs(signs.flatten(1))
    margins = [size for size in arguments["padding"] for _ in range(2)]
    geometry = (kernel, arguments["stride"], margins, arguments["dilation"], arguments["groups"])
    reference = ops.reference("conv_from_lists")(x, *lists, outputs, *geometry, 0.5, b)
    assert torch.equal(reference, listed(layer)(x))


@needs_native
@settings(max_examples=80, deadline=None)
@given(
    convolution=convolutions(),
    images=st.sampled_from([0, 1, 2, 5]),
    density=st.sampled_from([0.0, 0.1, 0.5, 1.0]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    bias=st.booleans(),
    seed=st.integers(0, 9),
)
def test_any_weights_in_any_geometry_are_exact_on_integers(convolution, images, density, dtype, bias, seed):
    outputs, channels, kernel, size, arguments = convolution
    weights = draw_weights(outputs, channels // arguments["groups"], *kernel, density=density, seed=seed)
    x, b = draw_integers(images, channels, *size, seed=seed), draw_integers(outputs) if bias else None
    layer = PackedConv2d(weights.to(dtype), None, b, **arguments)
    expected = F.conv2d(x.double(), weights.double(), None if b is None else b.double(), **arguments)
    assert torch.equal(listed(layer)(x).double(), expected)
    one_dimensional = {name: v[1] if isinstance(v, tuple) else v for name, v in arguments.items()}
    flat = PackedConv1d(weights[:, :, 0], None, b, **one_dimensional)
    assert torch.equal(listed(flat)(x[:, :, 0]), F.conv1d(x[:, :, 0], weights[:, :, 0], b, **one_dimensional))
    lists = layouts.lists_of_weights(weights.to(dtype).flatten(1))
    assert torch.equal(layouts.weights_of_lists(*lists, outputs, weights[0].numel()), weights.flatten(1))
    margins = [size for size in arguments["padding"] for _ in range(2)]
    geometry = (kernel, arguments["stride"], margins, arguments["dilation"], arguments["groups"])
    reference = ops.reference("conv_from_values")(x, *lists, outputs, *geometry, b)
    assert torch.equal(reference, listed(layer)(x))


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("mode", ["zeros", "reflect", "replicate", "circular"])
@pytest.mark.parametrize("padding", [0, (1, 2), "same", "valid"])
@pytest.mark.parametrize("scheme", ["sign", "normal"])
def test_types_and_paddings(dtype, mode, padding, scheme):
    dense = nn.Conv2d(6, 32, (2, 3), padding=padding, dilation=(1, 2), padding_mode=mode, dtype=dtype)
    signs = draw_signs(*dense.weight.shape, density=0.1)
    with torch.no_grad():
        dense.weight.copy_(signs * 0.25 if scheme == "sign" else torch.randn(signs.shape) * signs)
    packed = PackedConv2d.of(dense, sm.weights.init.Draw("weight", tuple(signs.shape), True, scheme, 0.25))
    assert packed is not None
    x = torch.randn(3, 6, 9, 11).to(dtype)
    result, expected = packed(x), dense.double()(x.double())
    tolerance = {torch.float32: 1e-5, torch.float64: 1e-12}.get(dtype, 0.02)
    assert result.dtype == dtype and result.shape == expected.shape
    assert torch.allclose(result.double(), expected, atol=tolerance, rtol=tolerance)
    assert torch.equal(packed(x[0]), result[0]) or torch.allclose(packed(x[0]), result[0], atol=tolerance)


@pytest.mark.parametrize("scale", [0.5, None])
def test_the_memory_format_of_the_input_is_kept(scale):
    weights = draw_signs(32, 8, 3, 3) if scale else draw_weights(32, 8, 3, 3)
    layer, x = PackedConv2d(weights, scale, padding=1), torch.randn(2, 8, 9, 9)
    y = layer(x.contiguous(memory_format=torch.channels_last))
    assert y.is_contiguous(memory_format=torch.channels_last) and torch.equal(y, layer(x))
    strided = torch.randn(2, 16, 9, 18)[:, ::2, :, ::2]
    assert torch.equal(layer(strided), layer(strided.contiguous()))


def test_gradients_reach_input_and_bias():
    layer, x = PackedConv2d(draw_signs(16, 4, 3, 3), 0.5, torch.randn(16)), torch.randn(2, 4, 8, 8)
    layer.bias.requires_grad_()
    weight, dense = draw_signs(16, 4, 3, 3) * 0.5, x.clone().requires_grad_()
    bias = layer.bias.detach().clone().requires_grad_()
    F.conv2d(dense, weight, bias).square().sum().backward()
    layer(x.requires_grad_()).square().sum().backward()
    assert torch.allclose(x.grad, dense.grad, atol=1e-4) and torch.allclose(
        layer.bias.grad, bias.grad, rtol=1e-5
    )


@pytest.mark.parametrize(("init", "density"), [("signed_constant", 0.3), ("kaiming_normal", 0.05)])
def test_a_packed_network_computes_what_its_ticket_does(init, density):
    model = create_model("resnet-20", width=2).eval()
    sm.randomize_(model, init=init, seed=3)
    ticket = sm.EdgePopup(model, density=density, lr=0.1).ticket()
    x = torch.randn(2, 3, 32, 32)
    packed, tuned = pack(model, ticket), pack(model, ticket, example=x)
    assert sum(isinstance(m, PackedConv2d) for m in packed.modules()) == 21
    with torch.no_grad():
        expected = model(x)
        assert torch.allclose(packed(x), expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))
        assert torch.allclose(tuned(x), expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))
    assert not tuned.training
    pack(model, ticket).load_state_dict(packed.state_dict())


@needs_native
def test_tuning_takes_the_faster_kernel(monkeypatch):
    layer, x = PackedConv2d(draw_signs(32, 8, 3, 3), 0.5), torch.randn(2, 8, 9, 9)
    for chosen in ("lists", "dense"):
        monkeypatch.setattr(
            tuning,
            "medians",
            lambda names, *_, c=chosen, **__: {name: float(name != c) + 1 for name in names},
        )
        sm.packed.tune(layer, x)
        assert layer.kernels[torch.float32] == chosen
        assert (layer._dense is None) == (chosen == "lists"), "weights that nothing uses are freed"


def test_the_fastest_has_the_smallest_median():
    assert fastest({"slow": lambda: time.sleep(2e-3), "fast": lambda: None}) == "fast"


@pytest.mark.parametrize(("plain", "expected"), [(1.04, "dense"), (1.06, "prepacked")])
def test_prepacked_weights_must_be_surely_faster_than_plain_ones(plain, expected, monkeypatch):
    times = {"lists": 2.0, "dense": plain, "prepacked": 1.0}
    monkeypatch.setattr(tuning, "medians", lambda *_, **__: times)
    table: dict[int, str] = {}
    choice = tuning.Choice.measured(table, 0, list(times), lambda: None)
    assert choice.dense == table[0] == expected and choice.packed == "lists"


@pytest.mark.parametrize(
    ("alone", "whole", "expected"),
    [
        (
            (2.0, 1.05, 0.5),
            (1.0, 0.9, 1.0),
            ["lists", "dense", "dense"],
        ),  # doubtful gains are none in the whole
        ((2.0, 1.05, 0.5), (1.0, 1.0, 1.0), ["lists", "lists", "dense"]),  # as fast, from fewer bytes
        ((2.0, 1.05, 0.5), (1.1, 1.1, 1.0), ["dense", "dense", "dense"]),
        ((0.9, 0.8, 0.5), (9.0, 9.0, 9.0), ["dense", "dense", "dense"]),
    ],
)
def test_a_network_decides_between_what_its_layers_found(alone, whole, expected, monkeypatch):
    """In the order: every gain, clear gains only, dense weights everywhere."""
    table: dict[int, str] = {}
    choices = [tuning.Choice(table, i, "lists", "dense", gain) for i, gain in enumerate(alone)]
    ran = []

    def times(candidates, *_, **__):
        for call in candidates.values():
            call()
        return dict(zip(candidates, whole, strict=True))

    monkeypatch.setattr(tuning, "medians", times)
    for choice in choices:
        table[choice.key] = choice.for_gain(1.0)
    tuning._settle(choices, lambda: ran.append([table[i] for i in range(3)]))
    assert [table[i] for i in range(3)] == expected
    assert not ran or ran == [["lists", "lists", "dense"], ["lists", "dense", "dense"], ["dense"] * 3]


@pytest.mark.parametrize(("plain", "expected"), [(0.9, ["dense", "dense"]), (1.0, ["prepacked", "dense"])])
def test_a_network_may_take_plain_weights_everywhere(plain, expected, monkeypatch):
    table: dict[int, str] = {}
    choices = [tuning.Choice(table, i, "lists", dense, 0.5) for i, dense in enumerate(["prepacked", "dense"])]
    monkeypatch.setattr(tuning, "medians", lambda them, *_, **__: dict(zip(them, (1.0, plain), strict=True)))
    tuning._settle(choices, lambda: None)
    assert [table[i] for i in range(2)] == expected


@pytest.mark.parametrize("scheme", ["signs", "values"])
def test_no_channels_give_the_bias(scheme):
    bias = torch.randn(16)
    weights = torch.zeros(16, 0, 3, 3, dtype=torch.int8 if scheme == "signs" else torch.float32)
    layer = PackedConv2d(weights, 1.0 if scheme == "signs" else None, bias, padding=1)
    found = layer(torch.zeros(2, 0, 20, 20))
    assert torch.equal(found, bias.view(1, 16, 1, 1).expand(2, 16, 20, 20))


@pytest.mark.parametrize(
    "layer",
    [nn.Conv2d(32, 32, 3, groups=32), nn.Conv2d(4, 4, 3), nn.ConvTranspose2d(32, 32, 3)],
    ids=["depthwise", "few outputs", "transposed"],
)
def test_what_lists_would_slow_down_stays_dense(layer):
    model = sm.randomize_(nn.Sequential(layer))
    ticket = sm.EdgePopup(model, density=0.5, lr=0.1).ticket()
    assert type(pack(model, ticket)[0]) is type(layer)


def test_weights_of_many_values_stay_dense():
    layer = nn.Conv2d(32, 32, 3)
    model = sm.randomize_(nn.Sequential(layer), init="kaiming_normal")
    ticket = sm.EdgePopup(model, density=0.7, lr=0.1).ticket()
    assert type(pack(model, ticket)[0]) is nn.Conv2d


@needs_native
def test_values_of_a_type_without_a_kernel_are_computed_densely():
    layer, x = PackedConv2d(draw_weights(32, 8, 3, 3, density=0.1)), torch.randn(2, 8, 9, 9)
    assert layer.kernel(x) == LISTS
    for dtype in (torch.float16, torch.float64):
        assert layer.to(dtype).kernel(x) == "dense"
        assert torch.allclose(layer(x.to(dtype)), F.conv2d(x.to(dtype), layer.weight(x.to(dtype))))


def test_few_positions_are_computed_densely():
    layer = PackedConv2d(draw_signs(32, 8, 1, 1), 0.5)
    assert layer.kernel(torch.randn(1, 8, 1, 1)) == "dense"
    assert layer.kernel(torch.randn(8, 1, 1)) == "dense"
    assert layer.kernel(torch.randn(2, 8, 2, 2)) == LISTS


def test_wrong_layers_and_inputs_raise_and_name_themselves():
    signs = draw_signs(32, 8, 3, 3)
    with pytest.raises(ValueError, match="without a scale, weights must be floats"):
        PackedConv2d(signs)
    with pytest.raises(ValueError, match="with a scale, weights must be int8"):
        PackedConv2d(signs.float(), 1.0)
    with pytest.raises(ValueError, match="but lie between -3 and 3"):
        PackedConv2d(signs * 3, 1.0)
    with pytest.raises(ValueError, match="weights must have 3 dimensions"):
        PackedConv1d(signs, 1.0)
    with pytest.raises(ValueError, match="groups must divide the 32 outputs, but is 3"):
        PackedConv2d(signs, 1.0, groups=3)
    for shape in [(1, 7, 9, 9), (8, 9), (1, 1, 8, 9, 9)]:
        with pytest.raises(ValueError, match="x must have 8 channels"):
            PackedConv2d(signs, 1.0)(torch.randn(shape))


def arguments(signs: Tensor, **changes):
    """Those of the operator for a 3x3 convolution with padding 1 of 2 images of 6x7, some of them changed."""
    pack = layouts.lists_of_weights if signs.is_floating_point() else layouts.lists_of_signs
    values = {
        "x": torch.randn(2, signs.shape[1], 6, 7),
        **dict(zip(("starts", "entries", "values"), pack(signs.flatten(1)), strict=False)),
        "outputs": len(signs),
        "kernel": [3, 3],
        "stride": [1, 1],
        "padding": [1, 1, 1, 1],
        "dilation": [1, 1],
        "groups": 1,
        "scale": 0.5,
        "bias": torch.randn(len(signs)),
    }
    if signs.is_floating_point():
        del values["scale"]
    return {**values, **changes}


@needs_native
@pytest.mark.parametrize(
    ("named", "changes"),
    [
        ("x", {"x": torch.randn(2, 8, 6, 7).double()}),
        ("x", {"x": torch.randn(2, 8, 6)}),
        ("x", {"x": torch.randn(2, 8, 6, 14)[..., ::2]}),
        ("starts", {"x": torch.randn(2, 15, 6, 7)}),
        ("starts", {"outputs": 7}),
        ("outputs", {"outputs": -1}),
        ("groups", {"groups": 0}),
        ("groups", {"groups": 3}),
        ("outputs", {"groups": 8, "outputs": 9}),
        ("kernel", {"kernel": [3]}),
        ("kernel", {"kernel": [3, 0]}),
        ("kernel", {"x": torch.randn(2, 8, 6, 0)}),
        ("kernel", {"dilation": [9, 1]}),
        ("stride", {"stride": [0, 1]}),
        ("padding", {"padding": [1, 1]}),
        ("padding", {"padding": [1, 1, 1, -1]}),
        ("dilation", {"dilation": [1, 0]}),
        ("bias", {"bias": torch.randn(6)}),
        ("bias", {"bias": torch.randn(5).double()}),
        ("entries", {"entries": torch.zeros(3, dtype=torch.int32)}),
        ("starts do not fit", {"entries": torch.zeros(3, dtype=torch.uint8)}),
    ],
)
def test_wrong_arguments_raise_and_name_themselves(named, changes):
    with pytest.raises(RuntimeError, match=named):
        native.conv_from_lists(*arguments(draw_signs(5, 8, 3, 3), **changes).values())


@needs_native
@pytest.mark.parametrize(
    ("named", "change"),
    [
        ("values", lambda values: values.double()),
        ("values", lambda values: values[1:]),
        ("values", lambda values: torch.stack([values, values], dim=1)[:, 0]),
    ],
)
def test_wrong_values_raise_and_name_themselves(named, change):
    weights = draw_weights(5, 8, 3, 3)
    values = arguments(weights)
    with pytest.raises(RuntimeError, match=named):
        native.conv_from_values(*{**values, "values": change(values["values"])}.values())


@needs_native
def test_damaged_lists_read_no_strange_memory():
    values = arguments(draw_signs(5, 8, 3, 3))
    with pytest.raises(RuntimeError, match="starts do not fit entries"):
        native.conv_from_lists(*{**values, "starts": values["starts"].flip(0)}.values())
    beyond = {**values, "entries": torch.full_like(values["entries"], 255)}
    assert native.conv_from_lists(*beyond.values()).isfinite().all()
    values = arguments(draw_weights(5, 8, 3, 3))
    with pytest.raises(RuntimeError, match="starts do not fit entries"):
        native.conv_from_values(*{**values, "starts": values["starts"].flip(0)}.values())
    beyond = {**values, "entries": torch.full_like(values["entries"], 255)}
    assert native.conv_from_values(*beyond.values()).isfinite().all()


@needs_native
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_operator_passes_opcheck(dtype):
    values = arguments(draw_signs(5, 8, 3, 3), stride=[2, 1], padding=[1, 2, 0, 1])
    values["x"] = values["x"].to(dtype)
    torch.library.opcheck(native.conv_from_lists.default, tuple(values.values()))
    values = arguments(draw_weights(5, 8, 3, 3), stride=[2, 1], padding=[1, 2, 0, 1])
    values |= {"x": values["x"].to(dtype), "values": values["values"].to(dtype)}
    torch.library.opcheck(native.conv_from_values.default, tuple(values.values()))


@needs_native
@pytest.mark.parametrize("scale", [0.5, None])
def test_layers_compile_and_export(scale):
    weights = draw_signs(32, 8, 3, 3) if scale else draw_weights(32, 8, 3, 3)
    layer = PackedConv2d(weights, scale, torch.randn(32), padding=1).eval()
    x = torch.randn(2, 8, 9, 9)
    expected = layer(x)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(x), expected)
    compiled(x.clone().requires_grad_()).sum().backward()
    batch = torch.export.Dim("batch")
    exported = torch.export.export(layer, (x,), dynamic_shapes=({0: batch},))
    assert any(layer.operator in str(node.target) for node in exported.graph.nodes) == (LISTS == "lists")
    more = torch.randn(5, 8, 9, 9)
    assert torch.equal(exported.module()(more), layer(more))


@needs_native
@pytest.mark.parametrize("scale", [0.1, None])
def test_results_depend_neither_on_threads_nor_on_the_rest_of_the_batch(scale):
    signs = draw_signs(70, 40, 3, 3)
    layer = listed(PackedConv2d(signs if scale else signs * torch.randn(signs.shape), scale))
    x = torch.randn(3, 40, 11, 11)  # 363 positions: five tiles of 64, and one of 43
    one = layer(x)
    torch.set_num_threads(2)
    try:
        assert torch.equal(layer(x), one)
    finally:
        torch.set_num_threads(1)
    assert torch.equal(torch.cat([layer(image) for image in x.split(1)]), one)


@needs_native
@pytest.mark.own_isa
@pytest.mark.parametrize("capability", limits())
def test_every_instruction_set_is_exact(capability):
    code = (
        "import torch; from supermask.packed import PackedConv2d; torch.manual_seed(0)\n"
        "for width in (4, 7, 8, 16, 33):\n"
        "    signs = torch.randint(-1, 2, (20, 33, 3, 3), dtype=torch.int8)\n"
        "    x = torch.randint(-9, 10, (2, 33, 5, width)).float()\n"
        "    layer = PackedConv2d(signs, 1.0, padding=1, stride=(1, 2)); layer.kernel = lambda x: 'lists'\n"
        "    y = torch.nn.functional.conv2d(x, signs.float(), padding=1, stride=(1, 2))\n"
        "    assert torch.equal(layer(x), y), width\n"
        "    for dtype in (torch.float32, torch.bfloat16):\n"
        "        layer = PackedConv2d(signs.to(dtype), None, padding=1, stride=(1, 2))\n"
        "        layer.kernel = lambda x: 'lists'\n"
        "        assert torch.equal(layer(x), y), width\n"
    )
    environment = {**os.environ, "ATEN_CPU_CAPABILITY": capability}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)


@pytest.mark.parametrize(("length", "turns"), [(1.0, 8), (1e-6, 51), (1e-3, 11)])
def test_the_smallest_median_wins_after_as_many_turns_as_time_allows(length, turns, monkeypatch):
    now, taken = [0.0], {"lists": 0, "dense": 0}
    monkeypatch.setattr(tuning, "time", SimpleNamespace(perf_counter=lambda: now[0]))

    def taking(name, *seconds):
        durations = itertools.cycle(seconds)

        def call():
            taken[name] += 1
            now[0] += length * next(durations)

        return call

    assert fastest({"lists": taking("lists", 0.5, 3.0, 0.4), "dense": taking("dense", 0.6)}) == "lists"
    assert taken["lists"] == taken["dense"] and abs(taken["lists"] - turns) <= 2
