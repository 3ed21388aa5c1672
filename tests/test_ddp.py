"""Data parallel: two gloo processes find the masks that one process finds with the whole batch."""

import os
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.nn import functional as F

import supermask as sm
from supermask.io import load_tree, save_tree

STEPS, BATCH = 30, 16


def network() -> nn.Module:
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3, bias=True),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(144, 20),
        nn.ReLU(),
        nn.Linear(20, 4),
    ).double()
    return sm.randomize_(model, "kaiming_normal", seed=3)


def batch(step: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(step)
    x = torch.randn(BATCH, 1, 8, 8, generator=generator, dtype=torch.float64)
    return x, torch.randint(4, (BATCH,), generator=generator)


def search_steps(model: nn.Module, rows: slice) -> sm.EdgePopup:
    search = sm.EdgePopup(model, density=0.3, lr=0.1, momentum=0.9)
    for step in range(STEPS):
        x, y = batch(step)
        F.cross_entropy(model(x[rows]), y[rows]).backward()
        search.step()
        search.zero_grad()
    return search


def worker(rank: int, world: int, folder: str) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
    dist.init_process_group("gloo", rank=rank, world_size=world, init_method=f"file://{folder}/rendezvous")
    share = BATCH // world
    model = nn.parallel.DistributedDataParallel(network())
    search = search_steps(model, slice(rank * share, (rank + 1) * share))
    save_tree(Path(folder) / f"rank{rank}", {"mask": search.mask, "scores": search.scores})
    dist.destroy_process_group()


def test_two_processes_equal_one_with_the_whole_batch(tmp_path):
    mp.spawn(worker, (2, str(tmp_path)), nprocs=2)
    single = search_steps(network(), slice(None))
    first, second = (load_tree(tmp_path / f"rank{rank}") for rank in range(2))
    for name, mask in single.mask.items():
        assert torch.equal(first["mask"][name], second["mask"][name])
        assert torch.equal(first["scores"][name], second["scores"][name])
        assert torch.equal(first["mask"][name], mask)
        assert torch.allclose(first["scores"][name], single.scores[name], rtol=1e-9, atol=1e-12)
