"""Networks in other formats give the network's outputs, and what cannot be written is refused clearly."""

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

import supermask as sm
from supermask.cli import main
from supermask.export import ExportError, example_of, write_onnx, write_program
from supermask.export.two_bit import block_for, codes, magnitude
from supermask.tickets.ticket import TicketError


def strong(name: str = "lenet-300-100", init: str = "signed_constant", **arguments: object) -> nn.Module:
    """A small network under a mask of half of its weights."""
    model = sm.create_model(name, num_classes=10, in_channels=1, image_size=8, **arguments)
    sm.randomize_(model, init=init, seed=0, density=0.5)
    sm.EdgePopup(model, density=0.5, lr=0.1)
    return model.eval()


def run(path, inputs: torch.Tensor) -> np.ndarray:
    """Outputs of an ONNX file in onnxruntime."""
    session = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    return session.run(None, {"input": inputs.numpy()})[0]


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.randn(7, 1, 8, 8, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("weights", ["float32", "2bit"])
def test_onnxruntime_gives_the_networks_predictions(tmp_path, images, weights):
    network = strong(bias=True)
    write_onnx(network, tmp_path / "a.onnx", images[:2], weights=weights)
    expected = network(images).detach().numpy()
    outputs = run(tmp_path / "a.onnx", images)
    np.testing.assert_allclose(outputs, expected, rtol=1e-4, atol=1e-5)
    assert (outputs.argmax(1) == expected.argmax(1)).all()


def test_two_bits_make_the_file_an_eighth(tmp_path, images):
    network = strong(width=4.0)
    for weights in ("float32", "2bit"):
        write_onnx(network, tmp_path / weights, images[:2], weights=weights)
    ratio = (tmp_path / "float32").stat().st_size / (tmp_path / "2bit").stat().st_size
    assert ratio > 8
    operators = [node.op_type for node in onnx.load(tmp_path / "2bit").graph.node]
    assert operators.count("MatMulNBits") == 3 and "Gemm" not in operators


def test_codes_are_read_back_by_arithmetic():
    draw = np.random.default_rng(0)
    weight = draw.integers(-1, 2, (5, 37)) * np.float32(0.25)
    packed = codes(weight, 16)
    assert packed.shape == (5, 3, 4)
    read = [[(packed[row, i // 16, i % 16 // 4] >> 2 * (i % 4)) & 3 for i in range(37)] for row in range(5)]
    np.testing.assert_array_equal((np.array(read, dtype=int) - 2) * np.float32(0.25), weight)


@pytest.mark.parametrize(("inputs", "block"), [(16, 16), (64, 64), (300, 64), (4096, 256)])
def test_a_block_takes_the_fewest_bytes(inputs, block):
    taken = {size: -(-inputs // size) * (size // 4 + 4) for size in (16, 32, 64, 128, 256)}
    assert taken[block_for(inputs)] == min(taken.values()) == taken[block]


def test_one_magnitude_is_found():
    assert magnitude(np.array([0.5, 0, -0.5])) == 0.5
    assert magnitude(np.array([0.5, 0.25])) is None and magnitude(np.zeros(3)) is None


def test_a_program_of_torch_export_is_the_network(tmp_path, images):
    network = strong("conv-2")
    write_program(network, tmp_path / "a.pt2", images[:2])
    program = torch.export.load(tmp_path / "a.pt2").module()
    torch.testing.assert_close(program(images), network(images))


def test_two_bits_are_refused_where_weights_have_many_magnitudes(tmp_path, images):
    with pytest.raises(ExportError, match="signed_constant; take weights='float32'"):
        write_onnx(strong(init="kaiming_normal"), tmp_path / "a.onnx", images[:2], weights="2bit")
    assert not list(tmp_path.iterdir())


class Looks(nn.Module):
    """A network whose course depends on the values that it sees."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + 1 if x.sum() > 0 else x - 1


@pytest.mark.parametrize("write", [write_onnx, write_program])
def test_a_network_that_cannot_be_followed_is_refused(tmp_path, write):
    with pytest.raises(ExportError, match=r"torch\.export cannot follow the network"):
        write(Looks(), tmp_path / "a", torch.randn(2, 3))
    assert not list(tmp_path.iterdir())


def test_the_command_writes_what_the_name_asks_for(tmp_path, images, capsys):
    network = strong()
    sm.Ticket.of(network, {n: p != 0 for n, p in network.named_parameters()}).save(tmp_path / "a.ticket")
    assert main(["export", str(tmp_path / "a.ticket"), str(tmp_path / "a.onnx"), "--weights", "2bit"]) == 0
    assert "input (1, 8, 8) per row" in capsys.readouterr().out
    expected = sm.load(tmp_path / "a.ticket")(images).detach().numpy()
    np.testing.assert_allclose(run(tmp_path / "a.onnx", images), expected, rtol=1e-4, atol=1e-5)


def test_a_ticket_writes_itself(tmp_path, images):
    network = strong(bias=True)
    ticket = sm.Ticket.from_model(network, {n: p != 0 for n, p in network.named_parameters()})
    expected = network(images).detach().numpy()
    for weights in ("float32", "2bit"):
        path = ticket.to_onnx(tmp_path / f"{weights}.onnx", weights=weights)
        np.testing.assert_allclose(run(path, images), expected, rtol=1e-4, atol=1e-5)
    program = torch.export.load(ticket.to_pt2(tmp_path / "a.pt2")).module()
    np.testing.assert_allclose(program(images).detach().numpy(), expected, rtol=1e-6, atol=1e-6)


def test_a_ticket_of_a_network_built_elsewhere_takes_it(tmp_path, capsys):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3))
    ticket = sm.Ticket.from_model(network, {})
    for write in (ticket.to_onnx, ticket.to_pt2):
        with pytest.raises(TicketError, match=r"how its network is built, .* Give it as model="):
            write(tmp_path / "a")
        with pytest.raises(ExportError, match="give example="):
            write(tmp_path / "a", model=network)
    assert main(["export", str(ticket.save(tmp_path / "a.ticket")), str(tmp_path / "a.onnx")]) == 2
    assert "ticket.to_onnx(path, model=..., example=...)" in capsys.readouterr().err

    fresh = nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3))
    before = [parameter.clone() for parameter in fresh.parameters()]
    inputs = torch.randn(6, 5)
    path = ticket.to_onnx(tmp_path / "a.onnx", model=fresh, example=inputs[:2])
    np.testing.assert_allclose(run(path, inputs), network(inputs).detach().numpy(), rtol=1e-4, atol=1e-6)
    assert all(map(torch.equal, before, fresh.parameters()))


@pytest.mark.parametrize(
    ("file", "flags", "said"),
    [
        ("a.tflite", [], "ends in .onnx or .pt2"),
        ("a.pt2", ["--weights", "2bit"], "--weights 2bit is for .onnx"),
    ],
)
def test_a_wrong_call_of_the_command_ends_with_2(tmp_path, file, flags, said, capsys):
    assert main(["export", "a.ticket", file, *flags]) == 2
    assert said in capsys.readouterr().err


def test_an_example_comes_from_the_factory_or_from_the_user(tmp_path):
    factory = {"name": "conv-2", "args": {"num_classes": 10, "in_channels": 3, "image_size": 32}}
    assert example_of(factory).shape == (2, 3, 32, 32)
    for unknown in (None, {"name": "x", "args": {}}, {"name": "x", "args": None}):
        with pytest.raises(ExportError, match="give example="):
            example_of(unknown)
    with pytest.raises(ExportError, match="at least two inputs"):
        write_program(nn.Linear(3, 3), tmp_path / "a", torch.randn(1, 3))
    with pytest.raises(ValueError, match="weights must be one of float32, 2bit"):
        write_onnx(nn.Linear(3, 3), tmp_path / "a", torch.randn(2, 3), weights="int4")
