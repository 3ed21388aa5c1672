"""A reader of tickets written from docs/ticket-format.md alone: NumPy, hashlib, json, struct.

Masks and the digest are read by the programs that stand in the page itself.
"""

import hashlib
import json
import re
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import supermask as sm
from supermask.weights.init import INITS, init_of

from .test_search import train

PAGE = Path(__file__).parents[1] / "docs" / "ticket-format.md"


def programs() -> dict:
    """The names that the code blocks of the page define."""
    names: dict = {}
    for block in re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL):
        exec(block, names)
    return names


decode_mask, check_digest = (programs()[name] for name in ("decode_mask", "check_digest"))

P = [1.0, -0.4999997913837433, 0.3333415985107422, -0.25002944469451904, 0.19958415627479553]
P += [-0.1654374599456787, 0.14917394518852234, -0.14482136070728302, 0.08959803730249405]
S = [1.5707963705062866, -0.6459634900093079, 0.07968022674322128, -0.004602177068591118]
C = [1.0, -1.2337005138397217, 0.25366920232772827, -0.02086007222533226, 0.0009036316769197583]


def words(seed: int, name: str, count: int, generation: int = 0) -> np.ndarray:
    purpose = f"weight-{generation}" if generation else "weight"
    key = hashlib.sha256(f"supermask/1/{purpose}/{seed}/{name}".encode()).digest()[:8]
    k0, k1 = (int(k) for k in struct.unpack("<II", key))
    b = np.arange(-(-count // 4), dtype=np.uint64)
    low, half = np.uint64(0xFFFFFFFF), np.uint64(32)
    c0, c1, c2, c3 = b & low, b >> half, np.zeros_like(b), np.zeros_like(b)
    for _ in range(10):
        p0, p1 = c0 * np.uint64(0xD2511F53), c2 * np.uint64(0xCD9E8D57)
        c0, c1, c2, c3 = (
            (p1 >> half) ^ c1 ^ np.uint64(k0),
            p1 & low,
            (p0 >> half) ^ c3 ^ np.uint64(k1),
            p0 & low,
        )
        k0, k1 = (k0 + 0x9E3779B9) % 2**32, (k1 + 0xBB67AE85) % 2**32
    return np.stack([c0, c1, c2, c3], axis=1).reshape(-1)[:count].astype(np.uint32)


def horner(coefficients: list[float], x: np.ndarray) -> np.ndarray:
    value = np.full_like(x, np.float32(coefficients[-1]))
    for coefficient in coefficients[-2::-1]:
        value = value * x + np.float32(coefficient)
    return value


def normals(w: np.ndarray) -> np.ndarray:
    a, b = w[0::2], w[1::2]
    m, e = np.frexp((a | np.uint32(1)).astype(np.float32))
    m, e = (m * np.float32(2)).astype(np.float32), e - 1
    big = m > np.float32(1.4142135381698608)
    m, e = np.where(big, m * np.float32(0.5), m), np.where(big, e + 1, e)
    t = m - np.float32(1)
    log = (e - 32).astype(np.float32) * np.float32(0.6931471824645996) + t * horner(P, t)
    squared = log * np.float32(-2)
    r = np.sqrt(np.where(squared > 0, squared, np.float32(0)))
    g = (2 * (b & np.uint32(0x3FFFFFFF)).astype(np.int64) + 1 - 2**30).astype(np.float32) * np.float32(
        2.0**-31
    )
    z = g * g
    s, c = g * horner(S, z), horner(C, z)
    q = b >> np.uint32(30)
    x = np.choose(q, [c, -s, -c, s])
    y = np.choose(q, [s, c, -s, -c])
    return np.stack([r * x, r * y], axis=1).reshape(-1)


def draw(entry: dict, seed: int, generation: int = 0) -> np.ndarray:
    n, scale = int(np.prod(entry["shape"])), np.float32(entry["scale"])
    if entry["scheme"] == "constant":
        return np.full(n, scale)
    if entry["scheme"] == "sign":
        bits = np.unpackbits(
            words(seed, entry["name"], -(-n // 32), generation).view(np.uint8), bitorder="little"
        )[:n]
        return (np.float32(1) - np.float32(2) * bits.astype(np.float32)) * scale
    if entry["scheme"] == "uniform":
        odd = 2 * (words(seed, entry["name"], n, generation) >> np.uint32(8)).astype(np.int64) + 1 - 2**24
        return odd.astype(np.float32) * np.float32(2.0**-24) * scale
    return normals(words(seed, entry["name"], n + n % 2, generation))[:n] * scale


def kept_values(entry: dict, seed: int, keep: np.ndarray, dtype: np.dtype, tensors: dict) -> np.ndarray:
    name, count = entry["name"], int(keep.sum())
    values = draw(entry, seed)[keep].astype(dtype)
    if entry.get("redrawn"):
        digits = np.unpackbits(tensors[f"generation/{name}"], axis=1, bitorder="little")[:, :count]
        generations = (digits.astype(np.int64) << np.arange(len(digits))[:, None]).sum(axis=0)
        for generation in np.unique(generations[generations > 0]):
            fresh = draw(entry, seed, int(generation))[keep].astype(dtype)
            values = np.where(generations == generation, fresh, values)
    if entry.get("binary"):
        values = np.where(values < 0, -1, 1).astype(dtype)
    if entry.get("factor", 1) != 1:
        wide = np.float64 if dtype == np.float64 else np.float32
        values = (values.astype(wide) * wide(np.float32(entry["factor"]))).astype(dtype)
    if "zero_row" in entry:
        rows = np.arange(keep.size)[keep] // int(np.prod(entry["shape"][1:]))
        values[rows == entry["zero_row"]] = 0
    if entry.get("flipped"):
        inverted = np.unpackbits(tensors[f"flip/{name}"], bitorder="little")[:count].astype(bool)
        values = np.where(inverted, -values, values)
    return values


def read_ticket(path: Path) -> tuple[dict, dict[str, np.ndarray], dict[str, np.ndarray]]:
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    ticket = json.loads(header.pop("__metadata__")["supermask"])
    check_digest(data)
    assert ticket["version"] == 3
    kinds = {"U8": np.uint8, "F32": np.float32, "F64": np.float64, "F16": np.float16, "I64": np.int64}
    kinds |= {"I32": np.int32, "BOOL": np.bool_}
    tensors = {}
    for name, info in header.items():
        start, end = info["data_offsets"]
        flat = np.frombuffer(data[8 + length + start : 8 + length + end], dtype=kinds[info["dtype"]])
        tensors[name] = flat.reshape(info["shape"])
    digest, weights = hashlib.sha256(), {}
    for entry in ticket["parameters"]:
        name, n = entry["name"], int(np.prod(entry["shape"]))
        keep = np.ones(n, dtype=bool)
        if f"coded/{name}" in tensors:
            keep = decode_mask(tensors[f"coded/{name}"], n)
        elif entry["masked"]:
            keep = np.unpackbits(tensors[f"mask/{name}"], bitorder="little")[:n].astype(bool)
        weight = np.zeros(n, dtype=kinds[entry["dtype"]])
        if "scheme" in entry:
            weight[keep] = kept_values(entry, ticket["seed"], keep, weight.dtype, tensors)
        else:
            weight[keep] = tensors[f"value/{name}"].reshape(-1)
        digest.update(weight.tobytes())
        weights[name] = weight.reshape(entry["shape"])
    assert digest.hexdigest() == ticket["sha256"]
    buffers = {name.partition("/")[2]: value for name, value in tensors.items() if name.startswith("buffer/")}
    return ticket, weights, buffers


@pytest.mark.parametrize("init", INITS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float64])
def test_a_strong_ticket_is_rebuilt_with_numpy_alone(small_net, batch, tmp_path, init, dtype):
    model = sm.randomize_(small_net.to(dtype), init, seed=2**63 + 11, density=0.3)
    search = sm.EdgePopup(model, density=0.3, lr=0.1)
    train(model, search, (batch[0].to(dtype), batch[1]))
    header, weights, buffers = read_ticket(search.ticket().save(tmp_path / "net.ticket"))
    assert header["seed"] == 2**63 + 11
    for name, parameter in model.named_parameters():
        assert np.array_equal(weights[name], parameter.detach().numpy()), name
    for name, buffer in model.named_buffers():
        assert np.array_equal(buffers[name], buffer.numpy())
    assert not any("value/" in name for name in header)


VARIED = {
    "zhou": {"density": 0.5, "lr": 100.0},
    "signed-supermask": {"density": 0.3, "lr": 0.1},
    "biprop": {"density": 0.3, "lr": 0.1},
    "iterand": {"density": 0.3, "lr": 0.3, "period": 2, "rate": 0.5},
    "slot-machine": {"density": 0.6, "lr": 0.1, "options": 5},
}
"""Searches under whose masks stand other weights than plain draws."""


def one_bit_per_weight(path: Path, per_kept: float) -> bool:
    """Whether the file has no more than a bit per weight, `per_kept` bits per kept one, and its header."""
    ticket = sm.Ticket.load(path)
    weights = sum(entry.numel for entry in ticket.entries if entry.masked)
    buffers = sum(buffer.numel() * buffer.element_size() for buffer in ticket.buffers.values())
    return path.stat().st_size <= (weights + per_kept * sum(ticket.kept.values())) / 8 + buffers + 3500


@pytest.mark.parametrize("method", VARIED)
@pytest.mark.parametrize("init", INITS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_the_ticket_of_every_search_is_strong_and_rebuilt_with_numpy(
    small_net, batch, tmp_path, method, init, dtype
):
    model = sm.randomize_(small_net.to(dtype), init, seed=7)
    search = sm.SEARCHES[method](model, **VARIED[method])
    train(model, search, (batch[0].to(dtype), batch[1]), 8)
    search.settle()
    path = search.ticket().save(tmp_path / "net.ticket")
    ticket = sm.Ticket.load(path)
    assert ticket.strong and not ticket.values.keys() & ticket.masks.keys()
    assert one_bit_per_weight(path, {"signed-supermask": 1, "iterand": 3, "slot-machine": 3}.get(method, 0))
    for name, parameter in model.named_parameters():
        assert torch.equal(ticket.weights()[name], parameter), name
    if dtype != torch.bfloat16:  # which NumPy lacks
        _, weights, _ = read_ticket(path)
        for name, parameter in model.named_parameters():
            assert np.array_equal(weights[name], parameter.detach().numpy()), name
    assert ticket.save(tmp_path / "again.ticket").read_bytes() == path.read_bytes()


class Words(nn.Module):
    """A table that is drawn and one that is masked, each with a padding row, and a layer."""

    def __init__(self) -> None:
        super().__init__()
        self.word = nn.Embedding(1000, 8, padding_idx=3)
        self.tag = nn.EmbeddingBag(7, 8, padding_idx=-1)
        self.linear = nn.Linear(8, 3)

    def forward(self, ids: Tensor) -> Tensor:
        return self.linear(self.word(ids).mean(dim=1) + self.tag(ids % 7))


@pytest.mark.parametrize("method", ["edge-popup", *VARIED])
@pytest.mark.parametrize("init", ["signed_constant", "kaiming_normal"])
@pytest.mark.parametrize("density", [0.5, 1.0])
def test_padding_rows_cost_no_stored_values(tmp_path, method, init, density):
    model = sm.randomize_(Words(), init, seed=11, include=["tag.*"])
    options = VARIED.get(method, {"lr": 0.1}) | {"density": density, "include": ["tag.*"]}
    if method == "zhou" and density == 1:
        options["density"] = 0.99  # where its probabilities start
    search = sm.SEARCHES[method](model, **options)
    ids = torch.randint(1000, (16, 4), generator=torch.Generator().manual_seed(0))
    for _ in range(6):
        search.zero_grad()
        model(ids).square().sum().backward()
        search.step()
    search.settle()
    path = search.ticket().save(tmp_path / "words.ticket")
    header, weights, _ = read_ticket(path)
    rows = {entry["name"]: entry.get("zero_row") for entry in header["parameters"]}
    assert rows == {"word.weight": 3, "tag.weight": 6, "linear.weight": None, "linear.bias": None}
    for name, parameter in model.named_parameters():
        assert np.array_equal(weights[name], parameter.detach().numpy()), name
    ticket = sm.Ticket.load(path)
    assert ticket.strong and not ticket.values and path.stat().st_size < 3000  # 32,000 bytes of words
    twin = Words()
    with torch.no_grad():
        twin.word.weight.fill_(7)
    twin = ticket.apply(twin)
    assert torch.equal(twin(ids), model(ids))
    assert {draw.name: draw.zero_row for draw in init_of(twin).draws} == rows


def test_a_trained_ticket_is_rebuilt_with_numpy_alone(small_net, batch, tmp_path):
    from supermask.masks import random_mask
    from supermask.prune import apply_mask, hold

    shapes = {name: p.shape for name, p in small_net.named_parameters() if p.dim() > 1}
    mask = random_mask(shapes, {name: 10 for name in shapes}, seed=0)
    apply_mask(small_net, mask)
    optimizer = torch.optim.SGD(small_net.parameters(), lr=0.1)
    hold(optimizer, mask, small_net)
    train(small_net, optimizer, batch)
    header, weights, _ = read_ticket(sm.Ticket.from_model(small_net, mask).save(tmp_path / "net.ticket"))
    assert all("scheme" not in entry for entry in header["parameters"] if entry["masked"])
    for name, parameter in small_net.named_parameters():
        assert np.array_equal(weights[name], parameter.detach().numpy()), name


def test_many_normals_equal_the_numpy_reader_bit_for_bit():
    from supermask import ops
    from supermask.weights.init import derive_key

    ours = ops.fill_random(torch.empty(300_000), derive_key("weight", 5, "layer"), "normal", 0.3).numpy()
    entry = {"name": "layer", "shape": [300_000], "scheme": "normal", "scale": 0.3}
    assert np.array_equal(draw(entry, 5).view(np.int32), ours.view(np.int32))
