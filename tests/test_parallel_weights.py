"""Several weights for each connection: their sums, a search over them, tickets, and single weights again."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import supermask as sm
from supermask.analysis.units import multiply_adds
from supermask.cli import main as supermask
from supermask.io import read_json
from supermask.models import create_model, merged, with_parallel_weights
from supermask.models.parallel import ParallelConv2d, ParallelLinear, bytes_beyond_one
from supermask.tickets.ticket import dense_bytes
from supermask.weights.roles import classify

SIZE = {"num_classes": 5, "image_size": 16, "in_channels": 3}


def layers() -> nn.ModuleList:
    return nn.ModuleList(
        [
            nn.Linear(7, 5),
            nn.Conv2d(4, 6, 3, padding=1, stride=2, bias=False),
            nn.Conv2d(4, 6, (3, 2), padding="same", groups=2, padding_mode="circular", dilation=2),
            nn.Conv1d(4, 6, 3, padding=1),
            nn.Conv3d(4, 6, 2),
        ]
    )


INPUTS = [(3, 7), (2, 4, 9, 8), (2, 4, 9, 8), (2, 4, 9), (2, 4, 3, 3, 3)]


@pytest.mark.parametrize("count", [2, 5])
def test_layers_compute_with_the_sum_of_their_weights(count):
    """Against torch's own layers, whose weight is the sum in NumPy; the gradient is that of every summand."""
    torch.manual_seed(0)
    plain = layers().double()
    model = with_parallel_weights(copy.deepcopy(plain), count)
    for single, layer, shape in zip(plain, model, INPUTS, strict=True):
        x = torch.randn(shape, dtype=torch.float64)
        torch.testing.assert_close(layer(x), single(x))  # as it was, before anything is drawn
        nn.init.normal_(layer.weights)
        parts = (
            layer.weights.detach().numpy().reshape(single.weight.shape[0], count, *single.weight.shape[1:])
        )
        single.weight.data.copy_(torch.from_numpy(np.add.reduce(parts, axis=1)))
        torch.testing.assert_close(layer(x), single(x))
        layer(x).square().sum().backward()
        single(x).square().sum().backward()
        grads = layer.weights.grad.unflatten(1, (count, -1))
        for k in range(count):
            torch.testing.assert_close(grads[:, k], single.weight.grad)
        if single.bias is not None:
            torch.testing.assert_close(layer.bias.grad, single.bias.grad)


def test_fans_count_every_summand():
    infos = {info.name: info for info in classify(with_parallel_weights(layers(), 3))}
    masked = {name: (info.fan_in, info.fan_out) for name, info in infos.items() if info.role == "masked"}
    assert masked == {
        "0.weights": (21, 5),
        "1.weights": (3 * 4 * 9, 6 * 9),
        "2.weights": (3 * 2 * 6, 6 * 6 // 2),
        "3.weights": (3 * 4 * 3, 6 * 3),
        "4.weights": (3 * 4 * 8, 6 * 8),
    }
    assert infos["1.weights"].inputs[0] == 1 and infos["0.bias"].role == "constant"


@pytest.mark.parametrize("name", ["lenet-300-100", "conv-2", "resnet-20", "airbench"])
def test_a_search_gives_connections_sums_and_its_ticket_builds_them_again(name, tmp_path):
    size = SIZE | {"image_size": 32, "width": 0.25}
    model, single = create_model(name, **size, parallel_weights=4), create_model(name, **size)
    sm.randomize_(model, seed=3, density=0.5)
    search = sm.EdgePopup(model, density=0.5)
    assert sum(w.numel() for w in search.weights.values()) == 4 * sum(
        info.tensor.numel() for info in classify(single) if info.role == "masked"
    )
    x, y = torch.randn(8, 3, 32, 32), torch.randint(5, (8,))
    losses = []
    for _ in range(8):
        search.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        search.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    ticket = search.ticket()
    assert ticket.strong and ticket.factory["args"]["parallel_weights"] == 4
    loaded = sm.load(ticket.save(tmp_path / "net.ticket"))
    model.eval(), loaded.eval()
    assert torch.equal(loaded(x), model(x))
    one = merged(loaded)
    assert [tuple(p.shape) for p in one.parameters()] == [tuple(p.shape) for p in single.parameters()]
    assert {type(m) for m in one.modules()} == {type(m) for m in single.modules()}
    torch.testing.assert_close(one.eval()(x), model(x), rtol=1e-3, atol=1e-4)
    first = next(m for m in model.modules() if isinstance(m, ParallelLinear | ParallelConv2d))
    values = (first.weight / search.weights[next(iter(search.weights))].abs().max()).detach()
    assert values.unique().numel() > 3  # more than 0 and two signs


def test_what_else_reads_the_weight_meets_the_sum():
    """Transformers hand the weights of their layers to functions."""
    torch.manual_seed(0)
    model = create_model(
        "timm/beit_base_patch16_224", **SIZE, depth=1, embed_dim=32, num_heads=2, patch_size=8
    )
    single = model.eval()
    parallel = with_parallel_weights(copy.deepcopy(single), 2)
    x = torch.randn(2, 3, 16, 16)
    torch.testing.assert_close(parallel(x), single(x))


def test_shared_weights_stay_single():
    first, second = nn.Linear(4, 4), nn.Linear(4, 4)
    second.weight = first.weight
    model = with_parallel_weights(nn.Sequential(first, second, nn.Linear(4, 2)), 2)
    assert [type(layer) for layer in model] == [nn.Linear, nn.Linear, ParallelLinear]
    same = nn.Linear(4, 4)
    twice = with_parallel_weights(nn.Sequential(same, nn.ReLU(), same), 2)
    assert twice[0] is twice[2] and type(twice[0]) is ParallelLinear
    single = merged(twice)
    assert single[0] is single[2] and type(single[0]) is nn.Linear


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")  # the old kind, of the same class
def test_computed_weights_stay_as_they_are():
    normed = torch.nn.utils.weight_norm(nn.Linear(4, 4))
    model = with_parallel_weights(nn.Sequential(normed, nn.Linear(4, 2)), 2)
    assert model[0] is normed and type(model[1]) is ParallelLinear
    with pytest.raises(ValueError, match="with a weight of its own"):
        with_parallel_weights(nn.Sequential(normed), 2)
    with pytest.raises(ValueError, match="has parallel weights already"):
        with_parallel_weights(model, 2)


def test_reset_parameters_draws_sums_as_torch_draws_weights():
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Linear(400, 300), nn.Conv2d(16, 64, 3))
    model = with_parallel_weights(copy.deepcopy(plain), 4)
    for layer in (*plain, *model):
        layer.reset_parameters()
    for single, layer in zip(plain, model, strict=True):
        usual, sums, each = (w.detach() for w in (single.weight, layer.weight, layer.weights))
        assert float(sums.std()) == pytest.approx(float(usual.std()), rel=0.03)
        assert float(each.std()) == pytest.approx(float(usual.std()) / 2, rel=0.03)
        assert float(layer.bias.detach().abs().max()) <= float(usual.abs().max()) * 1.001


def test_multiply_adds_are_those_of_the_sums():
    model = create_model("lenet-300-100", **SIZE | {"in_channels": 1, "image_size": 8}, parallel_weights=3)
    sm.randomize_(model, seed=0)
    mask = {name: torch.rand(p.shape) < 0.3 for name, p in model.named_parameters() if p.dim() == 2}
    single = merged(model)
    any_kept = sum(int(kept.unflatten(1, (3, -1)).any(dim=1).sum()) for kept in mask.values())
    assert multiply_adds(model, mask, (1, 8, 8)) == any_kept
    assert multiply_adds(model, {}, (1, 8, 8)) == sum(p.numel() for p in single.parameters() if p.dim() == 2)


def test_bytes_of_dense_weights_are_those_of_the_sums(tmp_path):
    model = create_model("conv-2", **SIZE, parallel_weights=3)
    tied = nn.Sequential(model, model)
    for network in (model, tied, merged(model)):
        assert dense_bytes(network) - bytes_beyond_one(network) == dense_bytes(merged(network))
    words = "compare --data digits --methods edge-popup --epochs 0.1 --seeds 0 --jobs 1"
    words += f" --model-args parallel_weights=3 --out {tmp_path}"
    assert supermask(words.split()) == 0
    rows = read_json(tmp_path / "results.json")["rows"]
    single = create_model("lenet-300-100", in_channels=1, image_size=8, num_classes=10)
    assert {row["dense_bytes"] for row in rows} == {dense_bytes(single)}


def test_a_layer_alone_is_merged_too():
    layer = with_parallel_weights(nn.Sequential(nn.Linear(3, 2)), 2)[0]
    plain = merged(layer)
    assert type(plain) is nn.Linear
    torch.testing.assert_close(plain.weight, layer.weight)
    assert type(layer) is ParallelLinear and "weight" not in dict(layer.named_parameters())


@pytest.mark.parametrize("count", [1, 0, -1, 2.0, True, 65, "4"])
def test_other_counts_are_refused(count):
    with pytest.raises(ValueError, match="takes 2 to 64 weights"):
        with_parallel_weights(nn.Sequential(nn.Linear(3, 2)), count)
    if type(count) is not int or count != 1:
        with pytest.raises(ValueError, match="takes 2 to 64 weights"):
            create_model("lenet-300-100", parallel_weights=count)


def test_a_network_without_such_layers_is_refused():
    with pytest.raises(ValueError, match="no linear layer or convolution with a weight of its own"):
        with_parallel_weights(nn.Linear(3, 2), 2)
