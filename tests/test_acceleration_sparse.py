"""Layers whose weights are sparse but of many magnitudes: products that leave out zeros, and training."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

import supermask as sm
from supermask import ops
from supermask.ops import references
from supermask.training import acceleration
from supermask.training.acceleration import accelerated
from supermask.training.loop import fit

from .test_acceleration import assert_as_in_float64, make_layer

needs_native = pytest.mark.skipif(
    not ops.is_native("sparse_linear", torch.device("cpu")), reason="no compiled library"
)
needs_lists = pytest.mark.skipif(
    not ops.is_native("sparse_linear", torch.device("cpu"))
    or ops.instruction_set() not in acceleration.UP_TO_DENSITY,
    reason="no compiled library for this instruction set",
)
sizes = st.one_of(st.integers(1, 70), st.sampled_from([127, 128, 129, 192, 300]))


def sparse(rows: int, columns: int, density: float, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    kept = torch.rand(rows, columns, generator=generator) < density
    return torch.randn(rows, columns, generator=generator) * kept


def integers(rows: int, columns: int, seed: int) -> Tensor:
    """Values whose sums are exact in any order, half of them 0."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.randint(-4, 5, (rows, columns), generator=generator)
    return (values * torch.randint(0, 2, (rows, columns), generator=generator)).float()


# --- the operator --------------------------------------------------------------------------------------


@needs_native
@settings(max_examples=80, deadline=None)
@given(
    inputs=st.integers(0, 300),
    features=sizes,
    outputs=sizes,
    density=st.floats(0, 1),
    transposed=st.booleans(),
    bias=st.booleans(),
    seed=st.integers(0, 9),
)
def test_products_are_those_of_float64(inputs, features, outputs, density, transposed, bias, seed):
    x, weights = sparse(inputs, features, 1.0, seed), sparse(outputs, features, density, seed + 10)
    shift = torch.randn(outputs) if bias else None
    exact = F.linear(x.double(), weights.double(), shift.double() if bias else None)
    stored = weights.t().contiguous() if transposed else weights
    for compute in (torch.ops.supermask.sparse_linear, references.KERNELS["sparse_linear"]):
        found = compute(x, stored, transposed, shift)
        assert found.shape == exact.shape and found.is_contiguous()
        assert torch.allclose(found.double(), exact, rtol=0, atol=1e-4)


@needs_native
@pytest.mark.parametrize(
    "shape", [(1, 1, 1), (64, 128, 64), (65, 129, 63), (300, 520, 333), (17, 4, 3), (128, 0, 5)]
)
@pytest.mark.parametrize("transposed", [False, True])
def test_products_of_integers_have_the_bits_of_dense_ones_whatever_the_threads(shape, transposed):
    inputs, features, outputs = shape
    x, weights, bias = (
        integers(inputs, features, 0),
        integers(outputs, features, 1),
        integers(1, outputs, 2)[0],
    )
    expected, stored = F.linear(x, weights, bias), weights.t().contiguous() if transposed else weights
    threads = torch.get_num_threads()
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            torch.full((inputs, outputs), torch.nan)  # memory that the result may be given
            assert torch.equal(ops.sparse_linear(x, stored, transposed, bias), expected)
            assert torch.equal(ops.sparse_linear(x, stored, transposed), expected - bias)
    finally:
        torch.set_num_threads(threads)


@needs_native
@pytest.mark.parametrize("transposed", [False, True])
def test_only_zeros_are_left_out(transposed):
    x, weights = torch.randn(70, 140), sparse(90, 140, 0.5, 1)
    weights[1, 0], weights[3, 129], weights[5], weights[6] = float("nan"), float("inf"), 0.0, -0.0
    x[7] = float("inf")
    found = ops.sparse_linear(x, weights.t().contiguous() if transposed else weights, transposed)
    assert found[:, 1].isnan().all() and not found[:, 3].isfinite().any()
    assert (found[:, 5] == 0).all() and (found[:, 6] == 0).all()
    others = found[torch.arange(70) != 7][:, [0, 2, 4, *range(7, 90)]]
    assert others.isfinite().all()


@needs_native
def test_inputs_may_have_any_shape_and_strides():
    x, weights = torch.randn(4, 30, 7).transpose(1, 2), sparse(20, 30, 0.4, 0)
    assert torch.allclose(ops.sparse_linear(x, weights), F.linear(x, weights), atol=1e-5)
    assert torch.allclose(ops.sparse_linear(x[0, 0], weights), F.linear(x[0, 0], weights), atol=1e-5)


@needs_native
def test_wrong_matrices_raise_and_name_themselves():
    x, weights, bias = torch.randn(4, 5), torch.randn(3, 5), torch.zeros(3)
    compute = torch.ops.supermask.sparse_linear
    for words, arguments in (
        ("x must be a contiguous float32", (x.double(), weights, False, None)),
        ("x must be a contiguous float32", (x[0], weights, False, None)),
        ("weights must be a contiguous float32", (x, weights.t(), True, None)),
        ("weights must be a contiguous float32", (x, weights.half(), False, None)),
        ("as many inputs as x has columns, 5, but have 3", (x, weights, True, None)),
        ("bias must be a contiguous float32 tensor of 3", (x, weights, False, torch.zeros(4))),
        ("bias must be a contiguous float32 tensor of 3", (x, weights, False, bias.double())),
    ):
        with pytest.raises(RuntimeError, match=words):
            compute(*arguments)
    for arguments in ((x, weights, False, bias), (x, weights.t().contiguous(), True, None)):
        torch.library.opcheck(compute, arguments)


# --- layers --------------------------------------------------------------------------------------------


def used(monkeypatch) -> list[bool]:
    """Collects whether each transposed or plain product left out zeros, which always is faster."""
    calls: list[bool] = []
    monkeypatch.setattr(acceleration, "fastest", lambda candidates: next(name for name in candidates))
    multiply = acceleration._Zeros.multiply

    def counted(self, x, weight, bias, transposed):
        calls.append(transposed)
        return multiply(self, x, weight, bias, transposed)

    monkeypatch.setattr(acceleration._Zeros, "multiply", counted)
    return calls


@needs_lists
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(70,), (2, 40)])
def test_results_and_gradients_are_those_of_float64(bias, shape, monkeypatch):
    calls, layer = used(monkeypatch), make_layer(sparse(520, 601, 0.3, 0), bias)
    assert_as_in_float64(layer, shape)
    assert calls == [False, True]


@needs_lists
def test_a_layer_follows_its_weights_from_one_kind_to_another(monkeypatch):
    """Dense, sparse, of one magnitude, sparse again: what serves changes, what it computes does not."""
    calls, names = used(monkeypatch), []
    monkeypatch.setattr(acceleration, "PRODUCTS_OF_DENSE", 2)
    monkeypatch.setattr(acceleration, "PRODUCTS_TO_WAIT", 2)
    measured = acceleration._Weights._measured

    def noted(self, *arguments):
        found = measured(self, *arguments)
        names.append(found[0])
        return found

    monkeypatch.setattr(acceleration._Weights, "_measured", noted)
    kept = sparse(520, 600, 0.3, 0)
    layer, x = make_layer(torch.randn(520, 600)), torch.randn(70, 600, requires_grad=True)
    with accelerated(layer):
        for weights in (layer.weight.detach().clone(), kept, kept.sign() * 0.1, kept, torch.randn(520, 600)):
            with torch.no_grad():
                layer.weight.copy_(weights)
            for _ in range(3):
                assert torch.allclose(layer(x), F.linear(x, layer.weight, layer.bias), atol=1e-4)
    assert list(dict.fromkeys(names)) == ["dense", "zeros", "lists"] and names[-1] == "dense"
    assert calls and not any(calls)


@needs_lists
def test_a_dense_layer_is_counted_once_in_many_products(monkeypatch):
    calls, counted = used(monkeypatch), []
    count = Tensor.count_nonzero
    monkeypatch.setattr(Tensor, "count_nonzero", lambda self: counted.append(1) or count(self))
    layer, x = make_layer(torch.randn(520, 600)), torch.randn(70, 600)
    with accelerated(layer), torch.no_grad():
        for _ in range(acceleration.PRODUCTS_OF_DENSE + 2):
            layer(x)
    assert calls == [] and len(counted) == 2


@needs_lists
def test_a_case_that_is_measured_between_forward_and_backward_changes_nothing(monkeypatch):
    """An evaluation lays out its own lists while it measures; the backward pass still finds the transpose."""

    def all_run(candidates):
        for candidate in candidates.values():
            candidate()
        return next(name for name in candidates)

    monkeypatch.setattr(acceleration, "fastest", all_run)
    for weights in (sparse(520, 600, 0.3, 0), sparse(520, 600, 0.3, 0).sign() * 0.1):
        layer, x = make_layer(weights), torch.randn(70, 600, requires_grad=True)
        with accelerated(layer):
            y = layer(x)
            with torch.no_grad():
                layer(x)
            y.sum().backward()
        assert torch.allclose(x.grad, weights.sum(0).expand_as(x), atol=1e-4)


@needs_lists
def test_wrapped_layers_and_hooks_are_left_as_they_were(monkeypatch):
    calls, seen = used(monkeypatch), []
    layer, x = make_layer(sparse(520, 600, 0.3, 0)), torch.randn(70, 600)
    handle = layer.register_forward_hook(lambda *_: seen.append(1))
    with accelerated(layer):
        layer(x)
    layer(x)
    handle.remove()
    assert len(seen) == 2 and calls == [False] and "forward" not in vars(layer)


@needs_lists
@pytest.mark.parametrize("density", [0.1, 0.3])
def test_accelerated_training_of_a_ticket_learns_what_the_dense_one_does(density, monkeypatch):
    calls, found = used(monkeypatch), {}
    generator = torch.Generator().manual_seed(3)
    centres = torch.randn(10, 600, generator=generator)
    labels = torch.randint(0, 10, (256,), generator=generator)
    images = centres[labels] + torch.randn(256, 600, generator=generator)
    for accelerate in (False, True):
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Linear(600, 520), nn.ReLU(), nn.Linear(520, 512), nn.ReLU(), nn.Linear(512, 10)
        )
        mask = {
            name: torch.rand(p.shape, generator=torch.Generator().manual_seed(p.numel())) < density
            for name, p in model.named_parameters()
            if p.dim() == 2 and len(p) > 10
        }
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        held = sm.hold(optimizer, mask, model)
        fit(model, optimizer, lambda _: (images[:128], labels[:128]), steps=30, accelerate=accelerate)
        held.remove()
        assert all((dict(model.named_parameters())[name][~kept] == 0).all() for name, kept in mask.items())
        with torch.no_grad():
            found[accelerate] = float((model(images).argmax(1) == labels).float().mean())
    assert calls.count(False) == 60 and calls.count(True) == 30, "the first layer's inputs need no gradient"
    assert found[True] > 0.5 and abs(found[True] - found[False]) < 0.03, found


# --- what a hold clears in every step --------------------------------------------------------------------


@needs_native
@pytest.mark.parametrize("shape", [(0,), (1,), (2049,), (37, 61), (5, 7, 3, 3)])
@pytest.mark.parametrize("laid_out", [torch.contiguous_format, torch.channels_last])
def test_clearing_leaves_the_bits_that_masked_fill_leaves(shape, laid_out):
    if laid_out == torch.channels_last and len(shape) != 4:
        pytest.skip("no format of other than four dimensions")
    generator = torch.Generator().manual_seed(0)
    values, where = torch.randn(shape, generator=generator), torch.rand(shape, generator=generator) < 0.6
    values[values > 1] = torch.tensor([float("nan"), float("inf"), -0.0]).repeat(values.numel())[
        : int((values > 1).sum())
    ]
    for flags in (where, where.contiguous(memory_format=laid_out)):
        expected = values.masked_fill(where, 0.0)
        found = values.clone(memory_format=laid_out)
        before = found._version
        ops.clear_where(found, flags)
        assert torch.equal(found.contiguous().view(torch.int32), expected.view(torch.int32))
        assert found._version > before and found.stride() == values.clone(memory_format=laid_out).stride()


@needs_native
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_clearing_takes_other_types_and_strides_as_they_come(dtype):
    values, where = torch.randn(20, 30).to(dtype).t(), torch.rand(30, 20) < 0.5
    expected = values.masked_fill(where, 0.0)
    ops.clear_where(values, where)
    assert torch.equal(values, expected)


@needs_native
def test_clearing_what_does_not_fit_raises_and_names_it():
    clear, values, where = (
        torch.ops.supermask.clear_where,
        torch.randn(4, 5),
        torch.zeros(4, 5, dtype=torch.bool),
    )
    for words, arguments in (
        ("values must be a contiguous float32", (values.double(), where)),
        ("values must be a contiguous float32", (values.t(), where)),
        ("where must be a contiguous bool tensor of 20", (values, where[1:])),
        ("where must be a contiguous bool tensor of 20", (values, where.int())),
    ):
        with pytest.raises(RuntimeError, match=words):
            clear(*arguments)
    torch.library.opcheck(clear, (values, where))


@needs_native
def test_clearing_is_recorded_where_a_graph_is():
    values, where = torch.randn(4, 5, requires_grad=True), torch.rand(4, 5) < 0.5
    doubled = values * 2
    ops.clear_where(doubled, where)
    doubled.sum().backward()
    assert torch.equal(values.grad, 2.0 * ~where)


@needs_lists
@pytest.mark.parametrize("kind", ["zeros", "lists"])
def test_gradients_are_of_the_weights_that_the_forward_pass_met(kind, monkeypatch):
    """Whoever puts another weight into the layer (functional_call, spectral_norm, an assignment) means it."""
    used(monkeypatch)
    first, second = (sparse(300, 256, 0.2, seed) for seed in (0, 1))
    if kind == "lists":
        first, second = first.sign() * 0.1, second.sign() * 0.1
    layer, target = make_layer(first), torch.randn(70, 300)
    x = torch.randn(70, 256, requires_grad=True)
    with accelerated(nn.Sequential(layer)):
        y = torch.func.functional_call(layer, {"weight": second}, (x,))
        z = layer(x)
        layer.weight = nn.Parameter(torch.randn(300, 256))
        for found, weights in ((y, second), (z, first)):
            (gradient,) = torch.autograd.grad((found * target).sum(), x)
            assert torch.allclose(gradient, target @ weights, atol=1e-3)


@needs_lists
def test_a_forward_of_somebodys_own_stays(monkeypatch):
    used(monkeypatch)
    model = nn.Sequential(make_layer(sparse(300, 256, 0.2, 0)), nn.Conv2d(16, 16, 3))
    for layer in model:
        layer.forward = lambda x: x + 100
    with accelerated(model):
        assert all(layer(torch.zeros(1)) == 100 for layer in model)
    assert all(layer(torch.zeros(1)) == 100 for layer in model)


@needs_lists
def test_contexts_may_be_nested(monkeypatch):
    calls, layer = used(monkeypatch), make_layer(sparse(300, 256, 0.2, 0))
    with accelerated(nn.Sequential(layer)):
        with accelerated(nn.Sequential(layer)):
            layer(torch.randn(70, 256))
        layer(torch.randn(70, 256))
    assert calls == [False, False] and "forward" not in vars(layer)


@needs_lists
@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")  # torch's own, in jvp
def test_transforms_of_torch_func_compute_as_ever(monkeypatch):
    used(monkeypatch)
    weights, x = sparse(300, 256, 0.2, 0), torch.randn(70, 256)
    layer, conv = make_layer(weights), nn.Conv2d(16, 16, 3, padding=1)
    images = torch.randn(8, 16, 9, 9)
    for module, inputs in ((layer, x), (conv, images)):
        parameters = {name: p.detach() for name, p in module.named_parameters()}

        def loss(values, module=module, inputs=inputs):
            return torch.func.functional_call(module, values, (inputs,)).square().sum()

        expected = torch.func.grad(loss)(parameters)
        with accelerated(nn.Sequential(module)):
            found = torch.func.grad(loss)(parameters)
            stacked = {name: torch.stack([p, p]) for name, p in parameters.items()}
            assert torch.allclose(torch.func.vmap(loss)(stacked), loss(parameters).expand(2), rtol=1e-3)
            _, slope = torch.func.jvp(loss, (parameters,), (parameters,))
        assert all(torch.equal(found[name], expected[name]) for name in expected)
        assert torch.isfinite(slope)
