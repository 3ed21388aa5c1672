"""Folded networks against the unfolded network that repeats their weights."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import supermask as sm


def unfolded(folded: nn.Module, depth: int) -> nn.Module:
    """The plain ResNet whose repeat blocks are copies of the folded block, each with its own norms."""
    plain = sm.create_model(f"resnet-{depth}", affine=False, width=0.5)
    state, target = folded.state_dict(), plain.state_dict()
    for name in target:
        stages, stage, block, *rest = [*name.split("."), "", ""]
        if stages != "stages" or block == "0":
            target[name] = state[name]
        else:
            prefix, iteration = f"stages.{stage}.1", int(block) - 1
            layer, *what = [part for part in rest if part]
            middle = [layer] if layer.startswith("conv") else [layer, str(iteration)]
            target[name] = state[".".join([prefix, *middle, *what])]
    plain.load_state_dict(target)
    return plain


def images() -> Tensor:
    return torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("depth", [20, 32])
@pytest.mark.parametrize("training", [True, False])
def test_a_folded_network_is_the_unfolded_one_with_repeated_weights(depth, training):
    folded = sm.randomize_(sm.create_model(f"folded-resnet-{depth}", width=0.5), seed=0)
    folded.train()
    folded(images() + 1)  # so that the statistics of the iterations differ
    plain = unfolded(folded, depth)
    outputs = []
    for model in (folded, plain):
        model.train(training)
        outputs.append(model(images()))
        F.cross_entropy(outputs[-1], torch.arange(4)).backward()
    torch.testing.assert_close(outputs[0], outputs[1])
    blocks = (depth - 2) // 6
    for stage in range(3):
        for conv in ("conv1", "conv2"):
            shared = folded.get_parameter(f"stages.{stage}.1.{conv}.weight").grad
            copies = [plain.get_parameter(f"stages.{stage}.{b}.{conv}.weight").grad for b in range(1, blocks)]
            torch.testing.assert_close(shared, sum(copies), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("depth", [20, 56, 110])
def test_the_weights_do_not_grow_with_the_depth(depth):
    with torch.device("meta"):
        folded, plain = sm.create_model(f"folded-resnet-{depth}"), sm.create_model(f"resnet-{depth}")
    count = sum(p.numel() for name, p in folded.named_parameters() if name.endswith("weight"))
    blocks = (depth - 2) // 6
    repeat = sum(2 * 9 * channels**2 for channels in (16, 32, 64))
    weights = sum(p.numel() for p in plain.parameters() if p.dim() > 1)
    assert count == weights - (blocks - 2) * repeat
    norms = sum(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    assert norms == sum(isinstance(module, nn.BatchNorm2d) for module in plain.modules())


def test_edge_popup_runs_on_it_and_the_ticket_holds_shared_weights_once(tmp_path):
    model = sm.randomize_(sm.create_model("folded-resnet-32", width=0.25), seed=0, density=0.4)
    search = sm.EdgePopup(model, density=0.4, lr=0.1)
    first = {name: mask.clone() for name, mask in search.mask.items()}
    for _ in range(5):
        search.zero_grad()
        F.cross_entropy(model(images()), torch.arange(4)).backward()
        search.step()
    assert any((mask != first[name]).any() for name, mask in search.mask.items() if ".1.conv" in name)
    path = search.ticket().save(tmp_path / "folded.ticket")
    ticket = sm.Ticket.load(path)
    assert ticket.strong and len([name for name in ticket.masks if name.startswith("stages.0.1.")]) == 2
    again = sm.load(path).eval()
    assert torch.equal(again(images()), copy.deepcopy(model).eval()(images()))
