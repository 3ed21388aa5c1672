"""Convolutions that a CPU must not train in channels_last (oneDNN issue 6035)."""

import os
import subprocess
import sys

import pytest
import torch
from torch import nn

import supermask as sm
from supermask.cli import main
from supermask.training.memory_format import (
    MemoryFormatError,
    check_channels_last,
    guarded,
    unsafe_in_channels_last,
)

NARROW = [
    "search",
    "--model",
    "resnet-20",
    "--model-args",
    "width=0.25",
    "--epochs",
    "0.1",
    "--density",
    "0.5",
]


def residual(channels: int = 4, **options) -> nn.Module:
    """A stem and a shortcut as residual networks have them."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, channels, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(channels, 8, 1, stride=2, bias=False, **options),
        nn.Flatten(),
        nn.Linear(128, 4),
    )


def batch(memory_format=torch.contiguous_format):
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(16, 3, 8, 8, generator=generator).contiguous(memory_format=memory_format)
    return images, torch.arange(16) % 4


@pytest.mark.parametrize(
    ("layer", "unsafe"),
    [
        (nn.Conv2d(4, 8, 1, stride=2), True),
        (nn.Conv2d(15, 8, 1, stride=(1, 2)), True),
        (nn.Conv3d(4, 8, 1, stride=2), True),
        (nn.Conv2d(16, 8, 1, stride=2), False),
        (nn.Conv2d(4, 8, 1), False),
        (nn.Conv2d(4, 8, 3, stride=2), False),
        (nn.Conv2d(4, 8, 1, stride=2, groups=2), False),
        (nn.Conv2d(4, 8, 1, stride=2).requires_grad_(False), False),
        (nn.ConvTranspose2d(4, 8, 1, stride=2), False),
    ],
    ids=repr,
)
def test_which_layers_are_unsafe(layer, unsafe):
    assert unsafe_in_channels_last(nn.Sequential(layer)) == (["0"] if unsafe else [])


def test_of_our_networks_only_narrow_ones_are_unsafe():
    assert unsafe_in_channels_last(sm.create_model("resnet-20", width=0.25)) != []
    assert unsafe_in_channels_last(sm.create_model("resnet-20")) == []


def test_a_gpu_may_train_them():
    check_channels_last(residual(), "cuda")
    with pytest.raises(MemoryFormatError, match=r"2: on CPUs the weight gradient .* 6035.*contiguous_format"):
        check_channels_last(residual(), "cpu")


def test_fit_refuses_a_model_in_channels_last_by_the_name_of_the_layer():
    model = residual()
    model = model.to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(MemoryFormatError, match="and 2: on CPUs the weight gradient"):
        sm.fit(model, optimizer, lambda step: batch(), steps=1)


def test_fit_refuses_inputs_in_channels_last_where_they_reach_such_a_layer():
    model = residual()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(MemoryFormatError, match="and 2: on CPUs the weight gradient"):
        sm.fit(model, optimizer, lambda step: batch(torch.channels_last), steps=1)
    assert not model[2]._forward_pre_hooks, "the guard stays inside fit"
    sm.fit(model, optimizer, lambda step: batch(), steps=1)


def test_sound_layers_are_left_alone():
    model = residual(channels=16).to(memory_format=torch.channels_last)
    with guarded(model):
        assert not any(module._forward_pre_hooks for module in model.modules())
        model(batch(torch.channels_last)[0]).sum().backward()


def test_the_flag_is_refused_with_the_reason(tmp_path, capsys):
    assert main([*NARROW, "--channels-last", "--out", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert "--channels-last" in said and "oneDNN issue 6035" in said and "leave it out" in said


GRADIENTS = """
import copy, torch, supermask as sm
torch.set_num_threads(1)
torch.manual_seed(0)
model = sm.create_model("resnet-20", width=0.25)
images, labels = torch.randn(16, 3, 16, 16), torch.arange(16) % 10
wide = copy.deepcopy(model).double()
if COMPILE:
    model = torch.compile(model)
class Nothing(torch.optim.SGD):
    def step(self, closure=None): pass
    def zero_grad(self, set_to_none=True): pass
for network, inputs in ((model, images), (wide, images.double())):
    sm.fit(network, Nothing(network.parameters(), lr=0.1), lambda step: (inputs, labels), steps=3)
for (name, p), q in zip(model.named_parameters(), wide.parameters()):
    error = (p.grad - q.grad).norm() / q.grad.norm()
    assert error < 1e-3, (name, error)
"""


@pytest.mark.own_isa
@pytest.mark.parametrize(
    "compiled", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["eager", "compiled"]
)
def test_with_avx2_gradients_of_a_narrow_network_are_those_of_float64(compiled):
    done = subprocess.run(
        [sys.executable, "-c", GRADIENTS.replace("COMPILE", str(compiled))],
        env={**os.environ, "ONEDNN_MAX_CPU_ISA": "AVX2"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-500:]


@pytest.mark.own_isa
def test_by_default_a_narrow_network_trains_with_avx2(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "supermask", *NARROW, "--threads", "1", "--out", str(tmp_path)],
        env={**os.environ, "ONEDNN_MAX_CPU_ISA": "AVX2"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-500:]
