"""Training steps from packed lists: the layout of lists from weights, and gradients against float64."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

import supermask as sm
from supermask import ops
from supermask.ops import layouts, references
from supermask.training import acceleration
from supermask.training.acceleration import accelerated
from supermask.training.loop import fit

needs_native = pytest.mark.skipif(
    not ops.is_native("lists_of_weights_into", torch.device("cpu"))
    or ops.instruction_set() not in acceleration.UP_TO_DENSITY,
    reason="no compiled library for this instruction set",
)
sizes = st.one_of(st.integers(1, 70), st.sampled_from([127, 128, 129, 192, 300]))
SIGMA = 0.1


def draw(outputs: int, inputs: int, density: float, seed: int = 0, scale: float = SIGMA) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    signs = torch.randint(0, 2, (outputs, inputs), generator=generator) * 2 - 1
    return scale * signs * (torch.rand(outputs, inputs, generator=generator) < density)


def into(outputs: int, inputs: int) -> tuple[Tensor, Tensor]:
    """Buffers that hold anything."""
    starts = torch.full((2 * -(-inputs // layouts.BLOCK) * outputs + 1,), -77, dtype=torch.int32)
    return starts, torch.full((outputs * inputs,), 99, dtype=torch.uint8)


@needs_native
@settings(max_examples=60, deadline=None)
@given(outputs=sizes, inputs=sizes, density=st.floats(0, 1), transposed=st.booleans(), seed=st.integers(0, 9))
def test_lists_are_those_of_the_signs(outputs, inputs, density, transposed, seed):
    weights = draw(outputs, inputs, density, seed)
    signs = weights.sign().to(torch.int8)
    expected = [layouts.lists_of_signs(matrix) for matrix in (signs, signs.t())[: 1 + transposed]]
    for lay_out in (torch.ops.supermask.lists_of_weights_into, references.KERNELS["lists_of_weights_into"]):
        held, turned = into(outputs, inputs), into(inputs, outputs) if transposed else (None, None)
        lay_out(*held, weights, SIGMA, *turned)
        for (starts, entries), (laid_out, listed) in zip((held, turned), expected, strict=False):
            assert torch.equal(starts, laid_out) and torch.equal(entries[: len(listed)], listed)
            assert (entries[len(listed) :] == 99).all(), "nothing is written beyond the last entry"


@needs_native
def test_lists_do_not_depend_on_threads():
    weights, threads, found = draw(1000, 900, 0.3), torch.get_num_threads(), []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            found.append(ops.lists_of_weights(weights, SIGMA, transposed=True))
    finally:
        torch.set_num_threads(threads)
    for other in found[1:]:
        for at in (0, 2):
            (starts, entries), (again, listed) = found[0][at : at + 2], other[at : at + 2]
            assert torch.equal(starts, again) and torch.equal(entries[: starts[-1]], listed[: starts[-1]])


@needs_native
def test_other_weights_are_found_out_wherever_they_stand():
    for place in ((0, 0), (69, 299), (64, 128), (3, 17)):
        for value in (0.2, float("nan"), float("inf"), 1e-45):
            weights = draw(70, 300, 0.3)
            weights[place] = value
            assert ops.lists_of_weights(weights, SIGMA) is None
            assert ops.lists_of_weights(weights, SIGMA, transposed=True) is None
    weights = draw(70, 300, 0.3)
    weights[0, 0] = -0.0
    assert ops.lists_of_weights(weights, SIGMA) is not None


@needs_native
def test_wrong_arguments_raise_and_name_themselves():
    weights, (starts, entries) = draw(5, 9, 0.5), into(5, 9)
    lay_out = torch.ops.supermask.lists_of_weights_into
    for words, arguments in (
        ("weights must be a contiguous float32", (starts, entries, weights.double())),
        ("weights must be a contiguous float32", (starts, entries, weights.t())),
        ("weights must be a contiguous float32", (starts, entries, weights[0])),
        ("starts must", (starts[1:], entries, weights)),
        ("starts must", (starts.long(), entries, weights)),
        ("entries must", (starts, entries[1:], weights)),
    ):
        with pytest.raises(RuntimeError, match=words):
            lay_out(*arguments, SIGMA, None, None)
    turned = into(9, 5)
    for words, wrong in (
        ("starts must", (starts, turned[1])),
        ("entries must", (turned[0], entries[1:])),
        ("both starts and entries", (turned[0], None)),
    ):
        with pytest.raises(RuntimeError, match=words):
            lay_out(starts, entries, weights, SIGMA, *wrong)
    for rest in ((None, None), turned):
        torch.library.opcheck(lay_out, (starts, entries, weights, SIGMA, *rest))


@needs_native
def test_lists_stay_as_they_are_where_weights_are_refused():
    weights = draw(70, 300, 0.3)
    lists = ops.lists_of_weights(weights, SIGMA, transposed=True)
    before = [part.clone() for part in lists]
    weights[5, 5] = 0.7
    assert ops.lists_of_weights(weights, SIGMA, transposed=True, into=lists) is None
    assert all(torch.equal(part, same) for part, same in zip(lists, before, strict=True))


# --- gradients of weights ------------------------------------------------------------------------------


def sparse(rows: int, columns: int, density: float, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    kept = torch.rand(rows, columns, generator=generator) < density
    return torch.randn(rows, columns, generator=generator) * kept


@needs_native
@settings(max_examples=60, deadline=None)
@given(
    samples=st.integers(0, 300), outputs=sizes, inputs=sizes, density=st.floats(0, 1), seed=st.integers(0, 9)
)
def test_gradients_of_weights_are_those_of_float64(samples, outputs, inputs, density, seed):
    grad, x = sparse(samples, outputs, density, seed), sparse(samples, inputs, 1.0, seed + 10)
    exact = grad.double().t() @ x.double()
    for compute in (torch.ops.supermask.weight_gradient, references.KERNELS["weight_gradient"]):
        assert torch.allclose(compute(grad, x).double(), exact, rtol=0, atol=1e-4)


@needs_native
def test_gradients_of_weights_of_integers_are_exact_whatever_the_threads():
    generator, threads = torch.Generator().manual_seed(0), torch.get_num_threads()
    grad, x = (torch.randint(-4, 5, (300, n), generator=generator).float() for n in (520, 333))
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            assert torch.equal(ops.weight_gradient(grad, x), grad.t() @ x)
    finally:
        torch.set_num_threads(threads)


@needs_native
def test_only_zeros_are_left_out_of_gradients():
    grad, x = sparse(130, 70, 0.5, 0), sparse(130, 90, 1.0, 1)
    grad[0, 1], grad[129, 3], grad[:, 5] = float("nan"), float("inf"), 0.0
    x[7] = float("inf")
    found = ops.weight_gradient(grad, x)
    assert found[1].isnan().all() and not found[3].isfinite().any()
    assert (found[5] == 0).all() and found[8].isfinite().all() == (grad[7, 8] == 0)


@needs_native
def test_matrices_that_give_no_gradient_raise_and_name_themselves():
    grad, x = torch.zeros(4, 3), torch.zeros(4, 5)
    for words, arguments in (
        ("grad must be a contiguous float32", (grad.double(), x)),
        ("grad must be a contiguous float32", (grad.t(), x)),
        ("x must be a contiguous float32", (grad, x[0])),
        ("one row for each sample, but have 4 and 3", (grad, x[:3])),
    ):
        with pytest.raises(RuntimeError, match=words):
            ops.weight_gradient(*arguments)
    torch.library.opcheck(torch.ops.supermask.weight_gradient, (grad, x))


@needs_native
@pytest.mark.parametrize("shape", [(70,), (2, 40)])
def test_layers_of_any_weights_leave_out_zeros_of_gradients(shape, monkeypatch):
    calls, asked = used(monkeypatch), []

    def measured(candidates):
        asked.append({name: call() for name, call in candidates.items()})
        return "zeros"

    monkeypatch.setattr(acceleration, "fastest", measured)
    layer, x = nn.Linear(600, 520), torch.randn(*shape, 600, requires_grad=True)
    with accelerated(layer):
        y = layer(x).relu()
        y.sum().backward()  # a gradient that is expanded from one number
    assert calls == [] and [set(each) for each in asked] == [{"zeros", "dense"}]
    assert torch.equal(layer.weight.grad, asked[0]["zeros"])
    exact, plain = x.detach().double().requires_grad_(), nn.Linear(600, 520).double()
    plain.load_state_dict(layer.state_dict())
    (plain(exact) * (y > 0)).sum().backward()
    assert torch.allclose(x.grad.double(), exact.grad, atol=1e-4)
    assert torch.allclose(layer.weight.grad.double(), plain.weight.grad, atol=1e-3)
    assert torch.allclose(layer.bias.grad.double(), plain.bias.grad, atol=1e-3)


def test_zeros_are_asked_for_again_after_as_many_products_as_said(monkeypatch):
    monkeypatch.setattr(acceleration, "PRODUCTS_TO_WAIT", 3)
    monkeypatch.setattr(ops, "weight_gradient", lambda grad, x: grad.t() @ x)
    answers = iter(["dense", "zeros", "dense"])
    asked = []
    monkeypatch.setattr(acceleration, "fastest", lambda _: asked.append(1) or next(answers))
    choice, grad, x = acceleration.WeightGradient(), torch.ones(64, 3), torch.ones(64, 2)
    skipped = []
    for _ in range(9):
        skipped.append(choice.may_skip(64))
        if skipped[-1]:
            assert torch.equal(acceleration._weight_gradient(choice, grad, x), grad.t() @ x)
    assert skipped == [True, False, False, True, True, True, True, False, False] and len(asked) == 3


def test_measurements_are_taken_once_by_each():
    found, measurements = iter(range(9)), acceleration.Measurements()

    def of(like: str, taker: str) -> int:
        return measurements.of(like, taker, lambda: next(found))

    assert [of("a", "first"), of("a", "second"), of("b", "first")] == [0, 0, 1]
    assert [of("a", "second"), of("a", "first"), of("a", "third"), of("b", "third")] == [2, 2, 2, 1]


# --- layers ------------------------------------------------------------------------------------------


def make_layer(weights: Tensor, bias: bool = True) -> nn.Linear:
    layer = nn.Linear(weights.shape[1], weights.shape[0], bias=bias)
    with torch.no_grad():
        layer.weight.copy_(weights)
    return layer


def used(monkeypatch) -> list[bool]:
    """Collects whether each transposed or plain product came from lists, which always are faster."""
    calls: list[bool] = []
    monkeypatch.setattr(
        acceleration, "fastest", lambda candidates: "lists" if "lists" in candidates else "dense"
    )
    multiply = acceleration._Lists.multiply

    def counted(self, x, weight, bias, transposed):
        calls.append(transposed)
        return multiply(self, x, weight, bias, transposed)

    monkeypatch.setattr(acceleration._Lists, "multiply", counted)
    return calls


def assert_as_in_float64(layer: nn.Linear, shape: tuple[int, ...]) -> None:
    """Result and gradients of an accelerated layer against the dense ones in float64."""
    x = torch.randn(*shape, layer.in_features, requires_grad=True)
    target = torch.randn(*shape, layer.out_features)
    with accelerated(nn.Sequential(layer)):
        y = layer(x)
        (y * target).sum().backward()
    exact, weight = x.detach().double().requires_grad_(), layer.weight.detach().double().requires_grad_()
    expected = F.linear(exact, weight, None if layer.bias is None else layer.bias.detach().double())
    (expected * target.double()).sum().backward()
    assert torch.allclose(y.double(), expected, atol=1e-4)
    assert torch.allclose(x.grad.double(), exact.grad, atol=1e-4)
    assert torch.allclose(layer.weight.grad.double(), weight.grad, atol=1e-3)
    if layer.bias is not None:
        assert torch.allclose(layer.bias.grad, target.reshape(-1, layer.out_features).sum(0), atol=1e-4)


@needs_native
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(70,), (2, 40)])
def test_results_and_gradients_are_those_of_float64(bias, shape, monkeypatch):
    calls, layer = used(monkeypatch), make_layer(draw(520, 600, 0.3), bias)
    assert_as_in_float64(layer, shape)
    assert calls == [False, True]


@needs_native
def test_dense_products_serve_where_they_are_measured_to_be_faster(monkeypatch):
    """And are asked again only after a while; an evaluation is another case than a step."""
    calls, asked = used(monkeypatch), []

    def measured(candidates):
        for candidate in candidates.values():
            candidate()
        calls.clear()
        asked.append(sorted(candidates))
        return "dense" if len(asked) < 3 else "lists"

    monkeypatch.setattr(acceleration, "fastest", measured)
    monkeypatch.setattr(acceleration, "PRODUCTS_TO_WAIT", 3)
    layer, x = make_layer(draw(520, 600, 0.3)), torch.randn(70, 600)
    with accelerated(layer):
        layer(x)
        layer(x.clone().requires_grad_())
        assert len(asked) == 2 and calls == []
        for _ in range(3):
            assert torch.equal(layer(x), F.linear(x, layer.weight, layer.bias))
        assert len(asked) == 2 and calls == []
        layer(x)
    assert asked == [["dense", "lists"]] * 3 and calls == [False]


@needs_native
def test_layers_that_a_search_does_not_mask_are_left_alone(monkeypatch):
    calls, x = used(monkeypatch), torch.randn(70, 600)
    model = nn.Sequential(nn.Linear(600, 520), nn.Linear(520, 512))
    sm.randomize_(model, "signed_constant", seed=1)
    search = sm.EdgePopup(model[:1], density=0.3, lr=0.1)
    with torch.no_grad():
        model[1].weight.copy_(draw(512, 520, 0.3))
    with sm.accelerated(model, search):
        assert "forward" in vars(model[0]) and "forward" not in vars(model[1])
        model(x)
    assert calls == [False]


@needs_native
def test_an_evaluation_between_forward_and_backward_changes_nothing(monkeypatch):
    calls, layer = used(monkeypatch), make_layer(draw(520, 600, 0.3))
    x = torch.randn(70, 600, requires_grad=True)
    with accelerated(layer):
        with torch.no_grad():
            layer(x)
        y = layer(x)
        with torch.no_grad():
            layer(x)
        y.sum().backward()
    assert calls == [False, False, False, True]
    assert torch.allclose(x.grad, layer.weight.detach().sum(0).expand_as(x), atol=1e-4)


@needs_native
def test_lists_follow_the_weights_and_a_stale_backward_is_refused(monkeypatch):
    calls, layer = used(monkeypatch), make_layer(draw(520, 600, 0.3))
    x = torch.randn(70, 600, requires_grad=True)
    with accelerated(layer):
        for seed, scale in ((1, SIGMA), (2, SIGMA), (3, 0.3)):
            y = layer(x)
            with torch.no_grad():
                layer.weight.copy_(draw(520, 600, 0.2, seed, scale))
            with pytest.raises(RuntimeError, match="modified by an inplace operation"):
                y.sum().backward()
            assert torch.allclose(layer(x), F.linear(x, layer.weight, layer.bias), atol=1e-4)
    assert calls == [False, False] * 3
    assert "forward" not in vars(layer)


@needs_native
def test_whatever_does_not_qualify_computes_as_ever(monkeypatch):
    calls, x = used(monkeypatch), torch.randn(70, 600)
    dense, normal = draw(520, 600, 0.8), torch.randn(520, 600) * (draw(520, 600, 0.3) != 0)
    for weights in (dense, normal, torch.zeros(520, 600), draw(40, 600, 0.3)):
        layer = make_layer(weights)
        with accelerated(layer):
            assert torch.equal(layer(x), F.linear(x, layer.weight, layer.bias))
    layer = make_layer(draw(520, 600, 0.3))
    with accelerated(layer):
        layer(x[:3])
        with torch.autocast("cpu", torch.bfloat16):
            assert layer(x).dtype == torch.bfloat16
        with pytest.raises(RuntimeError):
            layer(x[:, :-1])
        layer.double()(x.double())
    assert calls == []


@needs_native
@pytest.mark.parametrize("density", [0.1, 0.3])
def test_an_accelerated_search_learns_what_the_dense_one_does(density, monkeypatch):
    calls, losses = used(monkeypatch), {}
    x, labels = torch.randn(128, 600), torch.randint(0, 10, (128,))
    for accelerate in (False, True):
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Linear(600, 520), nn.ReLU(), nn.Linear(520, 512), nn.ReLU(), nn.Linear(512, 10)
        )
        sm.randomize_(model, "signed_constant", seed=1)
        search = sm.EdgePopup(model, density=density, lr=0.1)
        history = fit(
            model,
            search,
            lambda _: (x, labels),
            steps=6,
            accelerate=accelerate,
            evaluation=dict,
            evaluate_every=1,
        ).history
        losses[accelerate] = torch.tensor([entry["train_loss"] for entry in history])
    assert calls.count(False) == 12 and calls.count(True) == 6, "the first layer's inputs need no gradient"
    assert torch.allclose(losses[True], losses[False], rtol=1e-3)
    assert losses[True][-1] < losses[True][0]
