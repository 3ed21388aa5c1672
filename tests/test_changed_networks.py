"""Networks that are altered after `create_model`: their tickets do not claim to build them."""

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import supermask as sm
from supermask.models import binarize_activations, list_models
from supermask.models.structure import changes
from supermask.tickets.provenance import factory_of
from supermask.weights.notices import ChangedNetworkWarning


def network(**options) -> nn.Module:
    return sm.create_model("conv-2", in_channels=1, image_size=8, width=0.0625, batch_norm=True, **options)


def first(model: nn.Module, kind: type) -> nn.Module:
    return next(module for module in model.modules() if isinstance(module, kind))


def replace(model: nn.Module, kind: type, new: nn.Module) -> None:
    """Put a module in the place of the first of a kind."""
    for parent in model.modules():
        for name, child in parent.named_children():
            if isinstance(child, kind):
                setattr(parent, name, new)
                return


CHANGES = {
    "another activation": lambda m: replace(m, nn.ReLU, nn.GELU()),
    "no activation": lambda m: replace(m, nn.ReLU, nn.Identity()),
    "an option of an activation": lambda m: replace(m, nn.ReLU, nn.LeakyReLU(0.5)),
    "another pooling": lambda m: replace(m, nn.MaxPool2d, nn.AvgPool2d(2)),
    "padding mode": lambda m: setattr(first(m, nn.Conv2d), "padding_mode", "circular"),
    "epsilon": lambda m: setattr(first(m, nn.BatchNorm2d), "eps", 0.1),
    "no statistics": lambda m: setattr(first(m, nn.BatchNorm2d), "momentum", 0.9),
    "a module more": lambda m: m.add_module("softmax", nn.Softmax(1)),
    "a function": lambda m: setattr(m, "activation", F.gelu),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_changed_network_has_a_ticket_that_claims_no_factory(change, tmp_path):
    model = sm.randomize_(network(), seed=3)
    change(model)
    search = sm.EdgePopup(model, density=0.5, lr=0.1)
    with pytest.warns(ChangedNetworkWarning, match=r"changed after create_model: .* is .* and was .*apply"):
        path = search.ticket().save(tmp_path / "changed.ticket")
    with pytest.raises(sm.TicketError, match="built outside the library"):
        sm.load(path)
    twin = network()
    change(twin)
    images = torch.rand(4, 1, 8, 8)
    assert torch.equal(sm.Ticket.load(path).apply(twin).eval()(images), model.eval()(images))
    claimed = sm.Ticket.from_model(model, search.mask, factory=model.supermask_factory)
    assert claimed.factory == model.supermask_factory  # whoever says it is believed


def test_changed_dropout_and_strides_of_a_network_of_timm():
    model = sm.create_model("timm/resnet10t", num_classes=4, image_size=32, drop_rate=0.1)
    assert factory_of(model) == model.supermask_factory
    first(model, nn.Conv2d).stride = (1, 1)
    with pytest.warns(ChangedNetworkWarning, match=r"conv1\.0 is .*stride=\(1, 1\).* and was .*\(2, 2\)"):
        assert factory_of(model) is None
    model = sm.create_model("timm/resnet10t", num_classes=4, image_size=32, drop_rate=0.1)
    model.drop_rate = 0.5
    with pytest.warns(ChangedNetworkWarning, match="the network itself"):
        assert factory_of(model) is None


def test_what_changes_no_number_keeps_the_factory():
    model = network()
    for same in (model.train(), model.eval(), copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert factory_of(same) == model.supermask_factory
    model.to(memory_format=torch.channels_last).to(torch.bfloat16).requires_grad_(False)
    nn.SyncBatchNorm.convert_sync_batchnorm(model)
    search = sm.EdgePopup(sm.randomize_(network()), density=0.5, lr=0.1)
    for _ in range(2):
        search.zero_grad()
        search.model(torch.rand(4, 1, 8, 8)).square().sum().backward()
        search.step()
    assert factory_of(search.model) == model.supermask_factory and search.ticket().factory is not None


@pytest.mark.parametrize("name", list_models())
def test_training_leaves_the_structure_of_every_own_network(name):
    with torch.device("meta"):
        model = sm.create_model(name)
        model(torch.rand(2, 3, 32, 32)).sum().backward()
    assert changes(model) == []


@pytest.mark.parametrize(
    "name",
    [
        *("timm/vit_tiny_patch16_224", "timm/swin_tiny_patch4_window7_224", "timm/convnext_atto"),
        *("timm/efficientnet_b0", "torchvision/densenet121", "torchvision/swin_t"),
    ],
)
def test_a_forward_pass_leaves_the_structure_of_others(name):
    with torch.device("meta"):
        model = sm.create_model(name, image_size=224)
        model.train()(torch.rand(2, 3, 224, 224)).sum().backward()
        model.eval()(torch.rand(1, 3, 224, 224))
    assert changes(model) == []


def test_binary_activations_are_remembered_and_hide_no_other_change():
    model = binarize_activations(network())
    assert factory_of(model)["args"]["binary_activations"] is True
    assert changes(sm.create_model("conv-2", binary_activations=True)) == []
    model = network()
    first(model, nn.BatchNorm2d).eps = 0.1
    binarize_activations(model)
    with pytest.warns(ChangedNetworkWarning):
        assert factory_of(model) is None
