"""Weights from a seed: published scales, kept variance, independence of layers, what is frozen."""

import math

import pytest
import timm
import torch
from torch import nn

import supermask as sm
from supermask.weights.init import derive_key, init_of
from supermask.weights.roles import classify, decision_table


def test_signed_constant_has_the_published_sigma():
    # Ramanujan et al., section 3.3: sigma = sqrt(2 / (C_in k_h k_w)), both signs equally often.
    model = nn.Sequential(nn.Conv2d(16, 64, 3, groups=2), nn.Linear(300, 100))
    sm.randomize_(model, "signed_constant", seed=1)
    for weight, fan_in in ((model[0].weight, 8 * 9), (model[1].weight, 300)):
        assert torch.equal(weight.abs(), torch.full_like(weight, math.sqrt(2 / fan_in)))
        assert abs(weight.sign().mean()) < 4 / math.sqrt(weight.numel())


@pytest.mark.parametrize(
    ("init", "expected"),
    [
        ("kaiming_normal", math.sqrt(2 / 400)),
        ("kaiming_uniform", math.sqrt(2 / 400)),
        ("glorot_constant", math.sqrt(2 / 700)),
        ("elus", math.sqrt(3 / 400)),
        ("glorot_normal", math.sqrt(2 / 700)),
        ("glorot_uniform", math.sqrt(2 / 700)),
    ],
)
def test_schemes_have_their_standard_deviation(init, expected):
    model = sm.randomize_(nn.Linear(400, 300), init, seed=3)
    assert abs(model.weight.std().item() / expected - 1) < 0.01
    assert abs(model.weight.mean().item()) < 4 * expected / math.sqrt(400 * 300)


@pytest.mark.parametrize("density", [0.1, 0.3, 0.7])
@pytest.mark.parametrize("init", ["signed_constant", "kaiming_normal"])
def test_the_rescale_keeps_the_output_variance(density, init):
    # A linear layer under a random mask: E[y^2] of He-initialized weights is 2 E[x^2]; the rescaled
    # subnetwork must have the same. Scaling by sqrt(1 / (1 - k)) instead would give 0.11, 0.41, 2.46.
    model = sm.randomize_(nn.Linear(2000, 400, bias=False), init, seed=0, density=density)
    search = sm.EdgePopup(model, density=density, lr=0.1)
    x = torch.randn(200, 2000, generator=torch.Generator().manual_seed(0))
    relative = model(x).var().item() / 2
    assert abs(relative - 1) < 0.05
    assert abs(search.mask["weight"].float().mean().item() - density) < 1e-6


def test_density_per_layer_rescales_each_by_its_own():
    model = nn.Sequential(nn.Linear(8, 8, bias=False), nn.Linear(8, 8, bias=False))
    sm.randomize_(model, density={"0.weight": 0.25, "1.weight": 1.0})
    assert model[0].weight.abs().max() == 2 * model[1].weight.abs().max()


def test_a_changed_layer_changes_no_other_layer():
    a = nn.ModuleDict({"first": nn.Linear(5, 7), "second": nn.Linear(7, 3)})
    b = nn.ModuleDict({"first": nn.Linear(5, 900), "second": nn.Linear(7, 3)})
    sm.randomize_(a, "kaiming_normal", seed=5)
    sm.randomize_(b, "kaiming_normal", seed=5)
    assert torch.equal(a["second"].weight, b["second"].weight)
    assert torch.equal(a["first"].weight.flatten(), b["first"].weight.flatten()[:35])


def test_seeds_and_names_give_different_keys():
    keys = {derive_key("weight", seed, name) for seed in range(20) for name in ("a", "b", "c")}
    keys |= {derive_key("score", seed, "a") for seed in range(20)}
    assert len(keys) == 80


def test_same_seed_same_bits_whatever_torch_did_before(small_net):
    sm.randomize_(small_net, seed=7)
    first = {name: p.clone() for name, p in small_net.named_parameters()}
    torch.manual_seed(123)
    nn.init.normal_(small_net.conv.weight)
    sm.randomize_(small_net, seed=7)
    assert all(torch.equal(first[name], p) for name, p in small_net.named_parameters())


def test_channels_last_and_half_precision_hold_the_same_weights(small_net):
    sm.randomize_(small_net, "kaiming_normal", seed=2)
    plain = small_net.conv.weight.clone()
    small_net.to(memory_format=torch.channels_last)
    sm.randomize_(small_net, "kaiming_normal", seed=2)
    assert torch.equal(small_net.conv.weight, plain)
    sm.randomize_(small_net.bfloat16(), "kaiming_normal", seed=2)
    assert torch.equal(small_net.conv.weight, plain.bfloat16())


def test_what_is_frozen_and_at_which_value(small_net):
    small_net.norm.running_mean.fill_(3.0)
    sm.randomize_(small_net)
    assert small_net.norm.weight.tolist() == [1.0] * 6 and small_net.norm.bias.tolist() == [0.0] * 6
    assert not small_net.conv.bias.any() and not small_net.norm.running_mean.any()
    training = {name for name, p in small_net.named_parameters() if p.requires_grad}
    assert training == {"conv.weight", "hidden.weight", "output.weight"}
    sm.randomize_(small_net, train_norms=True)
    assert small_net.norm.weight.requires_grad and not small_net.conv.bias.requires_grad


def test_a_vit_is_decided_parameter_by_parameter():
    model = timm.create_model("vit_tiny_patch16_224", img_size=32, init_values=1e-5)
    roles = {info.name: (info.role, info.value, info.std) for info in classify(model)}
    assert roles["patch_embed.proj.weight"][0] == roles["blocks.0.attn.qkv.weight"][0] == "masked"
    assert roles["cls_token"] == ("drawn", 0.0, 0.02) and roles["pos_embed"] == ("drawn", 0.0, 0.02)
    assert roles["blocks.3.ls1.gamma"] == roles["norm.weight"] == ("constant", 1.0, 0.0)
    assert roles["blocks.3.attn.qkv.bias"] == ("constant", 0.0, 0.0)
    assert "masked   " in decision_table(classify(model))


def test_recurrent_attention_transposed_and_embedding_layers():
    model = nn.ModuleDict(
        {
            "lstm": nn.LSTM(4, 6),
            "cell": nn.GRUCell(4, 6),
            "attention": nn.MultiheadAttention(8, 2, kdim=4),
            "up": nn.ConvTranspose2d(8, 4, 4, stride=2, groups=2),
            "words": nn.Embedding(11, 3),
            "prelu": nn.PReLU(),
        }
    )
    infos = {info.name: info for info in classify(model)}
    drawn = {name for name, info in infos.items() if info.role == "drawn"}
    masked = {name for name, info in infos.items() if info.role == "masked"}
    assert masked == {
        "lstm.weight_ih_l0",
        "lstm.weight_hh_l0",
        "cell.weight_ih",
        "cell.weight_hh",
        "attention.q_proj_weight",
        "attention.k_proj_weight",
        "attention.v_proj_weight",
        "attention.out_proj.weight",
        "up.weight",
    }
    assert drawn == {"words.weight"} and infos["words.weight"].std == 1.0
    assert infos["lstm.weight_hh_l0"].fan_in == 6 and infos["attention.k_proj_weight"].fan_in == 4
    # Four of sixteen kernel positions of each of the group's four input channels reach one output.
    assert infos["up.weight"].fan_in == 16
    assert infos["prelu.weight"].role == "constant" and infos["prelu.weight"].value == 0.25


def test_include_and_exclude():
    model = nn.Sequential(nn.Embedding(4, 4), nn.Linear(4, 4), nn.Linear(4, 4))
    roles = {i.name: i.role for i in classify(model, include=["0.*"], exclude=["2.w*"])}
    assert roles["0.weight"] == roles["1.weight"] == "masked" and roles["2.weight"] == "drawn"
    with pytest.raises(ValueError, match=r"'head\.\*' matches no parameter"):
        classify(model, include=["head.*"])
    with pytest.raises(ValueError, match=r"1\.bias, a vector"):
        classify(model, include=["1.bias"])
    with pytest.raises(ValueError, match="list of patterns"):
        classify(model, exclude="2.weight")


def test_tied_weights_are_one_parameter():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[1].weight = model[0].weight
    assert [info.name for info in classify(model) if info.role == "masked"] == ["0.weight"]


def test_bad_arguments_are_refused(small_net):
    with pytest.raises(ValueError, match="'he'"):
        sm.randomize_(small_net, "he")
    for seed in (-1, 2**64, 1.5, True):
        with pytest.raises(ValueError, match="seed"):
            sm.randomize_(small_net, seed=seed)
    with pytest.raises(ValueError, match=r"density must lie in \(0, 1\], not 0"):
        sm.randomize_(small_net, density=0)
    with pytest.raises(ValueError, match="no maskable weight"):
        sm.EdgePopup(nn.BatchNorm1d(3), density=0.5, lr=0.1)


def test_the_record_says_what_was_drawn(small_net):
    assert init_of(small_net) is None
    sm.randomize_(small_net, seed=4, density=0.5)
    record = init_of(small_net)
    assert record is not None and record.seed == 4 and record.init == "signed_constant"
    draw = record.named()["hidden.weight"]
    assert draw.scheme == "sign" and draw.scale == math.sqrt(2) / math.sqrt(96) * math.sqrt(2)
