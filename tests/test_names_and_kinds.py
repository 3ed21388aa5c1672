"""Names without wrappers, and kinds of layers: which axes of a weight are inputs, with what fan-in."""

import copy
import warnings

import pytest
import torch
from einops.layers.torch import EinMix
from torch import Tensor, nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.optim.swa_utils import AveragedModel

import supermask as sm
from supermask.weights import kinds
from supermask.weights.names import aliases_of, buffers_of, canonical, parameters_of, unwrap
from supermask.weights.notices import FrozenNoiseWarning
from supermask.weights.roles import classify


@pytest.fixture(autouse=True)
def registry(monkeypatch):
    monkeypatch.setattr(kinds, "_KINDS", dict(kinds._KINDS))


def net() -> nn.Module:
    return nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 4))


def regional(model: nn.Module) -> nn.Module:
    model[0] = torch.compile(model[0], backend="eager")
    return model


def recompute(model: nn.Module) -> nn.Module:
    model[0] = checkpoint_wrapper(model[0])
    return model


class _FabricModule(nn.Module):
    """As Lightning's Fabric wraps: one module under two attributes."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self._forward_module = self._original_module = model

    def forward(self, x: Tensor) -> Tensor:
        return self._forward_module(x)


_FabricModule.__module__ = "lightning.fabric.wrappers"
WRAPPERS = {
    "compile": lambda m: torch.compile(m, backend="eager"),
    "compiled part": regional,
    "checkpointed part": recompute,
    "average": AveragedModel,
    "data parallel": nn.DataParallel,
    "fabric": _FabricModule,
    "several": lambda m: _FabricModule(nn.DataParallel(torch.compile(regional(m), backend="eager"))),
}


@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)
def test_wrappers_enter_no_name_draw_mask_or_ticket(wrap):
    plain, wrapped = sm.randomize_(net(), seed=1), sm.randomize_(wrap(net()), seed=1)
    assert list(parameters_of(wrapped)) == [name for name, _ in plain.named_parameters()]
    assert list(buffers_of(wrapped)) == [name for name, _ in plain.named_buffers()]
    for ours, theirs in zip(plain.parameters(), parameters_of(wrapped).values(), strict=True):
        assert torch.equal(ours, theirs)
    search = sm.EdgePopup(wrapped, density=0.5, lr=0.1)
    assert list(search.scores) == ["0.weight", "3.weight"]
    plain = search.ticket().apply(net())
    assert torch.equal(plain[0].weight, parameters_of(wrapped)["0.weight"])
    x = torch.randn(3, 8)
    assert torch.equal(plain.eval()(x), unwrap(wrapped).eval()(x))
    assert search.ticket().apply(wrap(net())) is not None
    optimizer = torch.optim.SGD(wrapped.parameters(), 0.1)
    sm.hold(optimizer, search.mask, wrapped).remove()


def test_a_module_of_ones_own_may_be_called_module():
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.module = nn.Linear(8, 4)

    model = Net()
    assert unwrap(model) is model and list(parameters_of(model)) == ["module.weight", "module.bias"]
    assert canonical("module._orig_mod.weight") == "module.weight"


def test_patterns_match_every_name_of_a_tied_weight():
    model = nn.ModuleDict({"embed": nn.Embedding(10, 8), "head": nn.Linear(8, 10, bias=False)})
    model["head"].weight = model["embed"].weight
    assert list(parameters_of(model)) == ["embed.weight"]
    assert list(aliases_of(model)) == ["embed.weight", "head.weight"]
    assert [i.role for i in classify(model)] == ["drawn"]
    assert [i.role for i in classify(model, include=["head.*"])] == ["masked"]
    tied = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False))
    tied[1].weight = tied[0].weight
    assert [i.role for i in classify(tied, exclude=["1.weight"])] == ["drawn"]
    mask = {"1.weight": torch.eye(4, dtype=torch.bool)}
    sm.hold(torch.optim.SGD(tied.parameters(), 0.1), mask, tied)
    assert torch.equal(tied[0].weight != 0, mask["1.weight"])


# Fan-in by an independent count: with weights and inputs of one, an output is the number of its products.


class Conv1D(nn.Module):
    """As in transformers' GPT-2: weight (in, out)."""

    def __init__(self, out: int, inputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(inputs, out))
        self.bias = nn.Parameter(torch.zeros(out))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight + self.bias


Conv1D.__module__ = "transformers.pytorch_utils"
LAYERS = {
    "linear": (lambda: nn.Linear(6, 4), (1, 6)),
    "conv1d of gpt-2": (lambda: Conv1D(4, 6), (1, 6)),
    "convolution": (lambda: nn.Conv2d(4, 6, 3, padding=1, groups=2), (1, 4, 9, 9)),
    "transposed": (lambda: nn.ConvTranspose2d(4, 6, 4, stride=2, padding=1, groups=2), (1, 4, 9, 9)),
    "einmix": (lambda: EinMix("t b i -> t b o", weight_shape="i o", bias_shape="o", i=6, o=4), (1, 1, 6)),
    "einmix of heads": (
        lambda: EinMix("t b (h i) -> t b (h o)", weight_shape="h i o", bias_shape="h o", h=3, i=2, o=5),
        (1, 1, 6),
    ),
    "einmix of rows": (lambda: EinMix("b h w c -> b o w c", weight_shape="h o", h=6, o=4), (1, 6, 3, 2)),
    "einmix of all": (
        lambda: EinMix("b h w c -> b (o p)", weight_shape="h w c o p", h=2, w=3, c=4, o=5, p=2),
        (1, 2, 3, 4),
    ),
}


@pytest.mark.parametrize(("make", "shape"), LAYERS.values(), ids=LAYERS)
def test_fans_are_the_number_of_products(make, shape):
    layer = make()
    (info,) = [i for i in classify(layer) if i.role == "masked"]
    assert info.name == "weight"
    assert all(i.role == "constant" and i.value == 0 for i in classify(layer) if i.name == "bias")
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.fill_(0.0)
        layer.weight.fill_(1.0)
    x = torch.ones(shape, requires_grad=True)
    out = layer(x)
    middle = tuple(size // 2 for size in out.shape)
    assert int(out[middle]) == info.fan_in
    out.sum().backward()
    assert int(x.grad[tuple(size // 2 for size in shape)]) == info.fan_out
    # The first input axis: half the inputs along it gives half the products.
    with torch.no_grad():
        layer.weight.narrow(info.inputs[0], 0, layer.weight.shape[info.inputs[0]] // 2).fill_(0.0)
        assert 0 < int(layer(torch.ones(shape)).sum()) < int(out.sum())


def test_an_elementwise_einmix_is_a_scale():
    (info,) = classify(EinMix("t b c -> t b c", weight_shape="c", c=5))
    assert info.role == "constant" and info.value == 1


def test_signed_constants_of_an_in_out_weight_have_its_fan_in():
    model = sm.randomize_(
        nn.Sequential(EinMix("b i -> b o", weight_shape="i o", i=64, o=128), Conv1D(8, 128))
    )
    assert model[0].weight.abs().unique().tolist() == [pytest.approx((2 / 64) ** 0.5)]
    assert model[1].weight.abs().unique().tolist() == [pytest.approx((2 / 128) ** 0.5)]


@pytest.mark.parametrize(
    "layer", [lambda: nn.Linear(8, 6), lambda: Conv1D(6, 8), lambda: nn.ConvTranspose1d(8, 6, 2)]
)
def test_n_of_m_masks_group_the_inputs(layer):
    model = sm.randomize_(layer())
    search = sm.EdgePopup(model, density=0.5, lr=0.1, distribution="2:4")
    axis = classify(model)[0].inputs[0]
    for _ in range(2):
        groups = search.mask["weight"].movedim(axis, -1).unflatten(-1, (2, 4)).sum(dim=-1)
        assert set(groups.unique().tolist()) == {2} and search.ticket().kept == search.keep
        model.weight.grad = torch.randn_like(model.weight)
        search.step()


class Experts(nn.Module):
    """Raw matrices, (expert, in, out)."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Parameter(torch.randn(3, 8, 16))
        self.down = nn.Parameter(torch.randn(3, 16, 8))
        self.pos_embed = nn.Parameter(torch.randn(5, 8))


def test_a_matrix_that_no_rule_knows_is_named_with_its_share():
    total = 3 * 8 * 16 * 2 + 40
    with pytest.warns(
        FrozenNoiseWarning, match=r"up \(3×8×16\), down \(3×16×8\) do:.*95\.05%.*100\.00%"
    ) as told:
        sm.randomize_(Experts())
    assert len(told) == 1 and told[0].filename == __file__
    assert round(100 * 768 / total, 2) == 95.05


def test_a_layer_kind_of_ones_own_is_masked_by_its_rule():
    sm.register_layer(Experts, weights=["up", "down"], inputs=[1], outputs=[2])
    model = sm.randomize_(Experts())
    infos = {info.name: info for info in classify(model)}
    assert (infos["up"].fan_in, infos["up"].fan_out) == (8, 16)
    assert infos["pos_embed"].role == "drawn"
    assert float(model.up.detach().abs().unique()) == pytest.approx(0.5)
    assert list(sm.EdgePopup(model, density=0.5, lr=0.1).scores) == ["up", "down"]


def test_a_rule_may_ask_the_layer_and_stands_for_subclasses():
    class Mixed(nn.Linear):
        groups = 2

    sm.register_layer(Mixed, rule=lambda layer, shape: sm.Fans((1,), shape[1] // layer.groups, shape[0]))
    assert classify(Mixed(8, 4))[0].fan_in == 4 and classify(nn.Linear(8, 4))[0].fan_in == 8
    assert classify(type("Further", (Mixed,), {})(8, 4))[0].fan_in == 4


def test_registrations_that_say_nothing_or_too_much_are_refused():
    for arguments in ({}, {"inputs": [1], "rule": lambda layer, shape: None}):
        with pytest.raises(ValueError, match="either inputs="):
            sm.register_layer(Experts, **arguments)
    sm.register_layer(Experts, weights=["up"], inputs=[5])
    with pytest.raises(ValueError, match=r"inputs \[5\].*no such axis"):
        classify(Experts())


def test_neuron_gates_are_of_outputs_in_every_layout():
    model = sm.randomize_(nn.Sequential(Conv1D(6, 8), nn.Linear(6, 3)))
    search = sm.SEARCHES["l0-gates"](model, density=0.5, lr=0.1, gates="neuron")
    assert search.scores["0.weight"].shape == (1, 6)


@pytest.mark.slow
def test_gpt2_is_masked_by_its_conv1d():
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    config = transformers.GPT2Config(n_layer=1, n_head=2, n_embd=32, vocab_size=50, n_positions=16)
    with warnings.catch_warnings():
        warnings.simplefilter("error", FrozenNoiseWarning)
        model = sm.randomize_(transformers.GPT2LMHeadModel(config))
    infos = {info.name: info for info in classify(model)}
    attention = infos["transformer.h.0.attn.c_attn.weight"]
    assert attention.role == "masked" and (attention.fan_in, attention.fan_out) == (32, 96)
    assert infos["transformer.wte.weight"].role == "drawn"  # tied to the head, which is masked by include=
    search = sm.EdgePopup(model, density=0.5, lr=0.1)
    model(torch.arange(8)[None], labels=torch.arange(8)[None]).loss.backward()
    search.step()
    assert torch.equal(search.ticket().apply(copy.deepcopy(model)).lm_head.weight, model.lm_head.weight)
