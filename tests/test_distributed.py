"""Data parallel under torchrun: two and three gloo processes against one, and against each other.

The ranks run tests/distributed_worker.py, whose functions are the oracle here as well, in one process.
"""

import copy
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

import supermask as sm
from supermask.cli import main
from supermask.distributed import (
    BatchShard,
    RankLostError,
    Ranks,
    SyncedTimer,
    assert_same_masks,
    joined,
    own_device,
)
from supermask.distributed import process_group as ranks_module
from supermask.distributed.consistency import checksum
from supermask.distributed.process_group import meet
from supermask.experiments.compare.command import all_methods
from supermask.io import load_tree
from supermask.training.loop import DivergedError, evaluate
from tests import distributed_worker as worker

ROOT = Path(__file__).parent.parent
ALONE = Ranks()


def torchrun(processes: int, *arguments: object, **options: Any) -> subprocess.Popen[str]:
    line = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    places = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    words = [*line, *map(str, arguments)]
    return subprocess.Popen(words, cwd=ROOT, env=os.environ | places, **pipes, **options)


def finish(job: subprocess.Popen[str], code: int = 0, timeout: float = 400.0) -> str:
    """Wait for the end and return the output."""
    try:
        output, _ = job.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        job.kill()
        pytest.fail(f"the ranks hang:\n{job.communicate()[0]}")
    assert job.returncode == code, output
    return output


def left_by(folder: Path, part: str, processes: int = 2) -> list[dict[str, Any]]:
    return [load_tree(folder / f"{part}-{rank}") for rank in range(processes)]


@pytest.fixture(scope="module")
def pair(tmp_path_factory) -> tuple[Path, str]:
    """Everything that two ranks do, in one start of them: they spend most of their time on imports."""
    folder = tmp_path_factory.mktemp("pair")
    parts = [part for part in worker.PARTS if part not in ("moved", "lost", "lost_training")]
    return folder, finish(torchrun(2, ROOT / "tests/distributed_worker.py", folder, *parts))


def tensors(tree: Any, prefix: str = "") -> dict[str, Tensor]:
    """All tensors of a tree by path."""
    if isinstance(tree, Tensor):
        return {prefix: tree}
    if not isinstance(tree, dict):
        return {}
    return {path: t for key, value in tree.items() for path, t in tensors(value, f"{prefix}/{key}").items()}


def assert_equal(first: Any, second: Any) -> None:
    a, b = tensors(first), tensors(second)
    assert a.keys() == b.keys() and a
    for path in a:
        assert torch.equal(a[path], b[path]), path


def assert_close(found: dict[str, Any], expected: dict[str, Any]) -> None:
    """Equal up to the order of float64 sums, and masks exactly."""
    a, b = tensors(found), tensors(expected)
    assert a.keys() == b.keys() and a
    for path in a:
        assert torch.allclose(a[path].double(), b[path].double(), rtol=1e-9, atol=1e-11), path
    for one, other in zip(found.get("history", []), expected.get("history", []), strict=True):
        assert one["accuracy"] == other["accuracy"] and one["step"] == other["step"]
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-9)
        assert one["train_loss"] == pytest.approx(other["train_loss"], rel=1e-9)


# Agreement: the contract of every search and of everything that holds a mask.


@pytest.mark.parametrize("method", sorted(sm.SEARCHES))
def test_every_search_finds_the_same_bits_on_all_ranks(pair, method):
    first, second = (left[method] for left in left_by(pair[0], "every_search"))
    assert_equal(first, second)
    assert first["history"] == second["history"] and len(first["history"]) == 3
    assert first["evaluated"] == second["evaluated"]
    start = sm.SEARCHES[method](worker.network(), density=0.4, lr=0.1, seed=5).scores
    assert any(not torch.equal(start[name], scores) for name, scores in first["scores"].items())


@pytest.mark.parametrize("name", ["hold", "set", "rigl", "weights", "channels"])
def test_trained_weights_and_their_masks_are_the_same_bits_on_all_ranks(pair, name):
    first, second = (left[name] for left in left_by(pair[0], "every_hold"))
    assert_equal(first, second)
    for parameter, mask in first["masks"].items():
        assert not first["model"][parameter][~mask].any() and not mask.all()


def test_a_bit_that_differs_is_named_with_its_rank(pair):
    first, second = left_by(pair[0], "corrupted")
    assert first == second
    assert re.search(r"the scores of hidden\.weight on rank 1 differ.* at step 5", first["fit"])
    assert re.search(r"the masks of conv\.weight on rank 1 differ.* at step 8\. ", first["own"])


def test_checksums_see_every_bit_and_its_place():
    generator = torch.Generator().manual_seed(0)
    for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.int64):
        values = (1000 * torch.randn(3, 400_000, generator=generator)).to(dtype)
        reference = int(checksum(values))
        assert reference == int(checksum(values.clone())) == int(checksum(values.t().contiguous().t()))
        for place in (0, 1_100_000, values.numel() - 1):
            flat = values.clone().view(-1)
            flat[place] += 512
            assert int(checksum(flat)) != reference
        swapped = values.clone().view(-1)
        swapped[5] += 512
        reference = int(checksum(swapped))
        swapped[[5, 1_150_000]] = swapped[[1_150_000, 5]]
        assert int(checksum(swapped)) != reference
    zeros = torch.zeros(4)
    assert int(checksum(zeros)) != int(checksum(-zeros))
    mask = torch.tensor([True, False, False])
    assert int(checksum(mask)) != int(checksum(mask.roll(1)))
    search = sm.EdgePopup(worker.network(), density=0.5, lr=0.1)
    assert_same_masks(search)  # alone there is nothing to compare


# Against one process.


@pytest.mark.parametrize(
    "part",
    [
        *("search", "search_uneven", "search_synced", "dense", "dense_synced", "hold", "hold_synced"),
        *("own_loop", "imp_rounds"),
    ],
)
def test_two_ranks_do_what_one_does_with_the_whole_batch(pair, part, tmp_path):
    first, second = left_by(pair[0], part)
    assert_equal(first, second)
    assert_close(first, worker.PARTS[part](ALONE, tmp_path))


def test_imp_prunes_in_every_round(pair):
    left = left_by(pair[0], "imp_rounds")[0]
    rounds = [left[f"round {round}"] for round in range(3)]
    assert len(left["history"]) == 9
    for round, before in zip(rounds[1:], rounds, strict=False):
        for name, mask in round["masks"].items():
            assert mask.sum() < before["masks"][name].sum() and not (mask & ~before["masks"][name]).any()
            assert not round["weights"][name][~mask].any()


def test_autocast_keeps_the_ranks_equal_and_near_one_process(pair, tmp_path):
    first, second = left_by(pair[0], "bf16")
    assert_equal(first, second)
    alone = worker.PARTS["bf16"](ALONE, tmp_path)
    for kind in ("search", "hold"):
        assert first[kind]["history"] == second[kind]["history"]
        for one, other in zip(first[kind]["history"], alone[kind]["history"], strict=True):
            assert one["train_loss"] == pytest.approx(other["train_loss"], rel=0.02)
        for name, mask in first[kind]["masks"].items():
            assert int(mask.sum()) == int(alone[kind]["masks"][name].sum())


def test_running_statistics_are_those_of_all_rows(pair):
    first, second = left_by(pair[0], "statistics")
    assert_equal(first["model"], second["model"])
    assert first["rows"] == [0, 3] and second["rows"] == [3, 7]
    model = worker.network(dtype=torch.float64)
    sm.EdgePopup(model, density=0.3, lr=0.1)
    rows = model.conv(worker.batch(0, 7, torch.float64)[0]).detach().transpose(0, 1)
    variances = [rows[:, part].flatten(1).var(1) for part in (slice(0, 3), slice(3, 7))]
    expected = 0.1 * rows.flatten(1).mean(1), 0.9 + 0.1 * (3 * variances[0] + 4 * variances[1]) / 7
    found = first["model"]
    assert torch.allclose(found["norm.running_mean"], expected[0], rtol=1e-12)
    assert torch.allclose(found["norm.running_var"], expected[1], rtol=1e-12)
    assert int(found["norm.num_batches_tracked"]) == 1


def test_evaluation_is_split_without_a_word(pair, tmp_path):
    """Every image counts once, also in the batch that is not whole."""
    left = left_by(pair[0], "dense")[0]
    model = worker.network(norm=False, dtype=torch.float64)
    model.load_state_dict(left["model"])
    inputs = (worker.images().pixels.double() / 255 - 0.5) / 0.2
    whole = evaluate(model, [(inputs, worker.images().labels)])
    assert left["history"][-1]["accuracy"] == whole["accuracy"]
    assert left["history"][-1]["loss"] == pytest.approx(whole["loss"], rel=1e-6)


# Going on.


def test_a_stopped_training_ends_with_the_same_bits_on_every_rank(pair):
    ranks = left_by(pair[0], "resumed")
    for left in ranks:
        assert_equal(left["stopped"], left["whole"])
        assert left["stopped"]["history"] == left["whole"]["history"]
    models = [{k: v for k, v in left["whole"].items() if k != "generator"} for left in ranks]
    assert_equal(*models)
    assert not torch.equal(ranks[0]["whole"]["generator"], ranks[1]["whole"]["generator"])


def test_one_process_goes_on_where_two_stopped(pair, tmp_path):
    for left in left_by(pair[0], "left_behind"):
        assert left["step"] == 7
    path = tmp_path / "moved"
    path.write_bytes((pair[0] / "begun").read_bytes())
    gone_on = worker.search_with_checkpoint(ALONE, path)
    assert gone_on.pop("first") == 8
    whole = worker.search_with_checkpoint(ALONE, tmp_path / "whole")
    assert whole.pop("first") == 1
    assert_close(gone_on, whole)


@pytest.mark.slow
def test_three_ranks_go_on_where_two_stopped(pair, tmp_path):
    (tmp_path / "moved").write_bytes((pair[0] / "begun").read_bytes())
    finish(torchrun(3, ROOT / "tests/distributed_worker.py", tmp_path, "moved", "resumed"))
    for left in left_by(tmp_path, "resumed", 3):
        assert_equal(left["stopped"], left["whole"])
    first, *others = left_by(tmp_path, "moved", 3)
    for other in others:
        assert_equal(first, other)
    assert first.pop("first") == 8
    whole = worker.search_with_checkpoint(ALONE, tmp_path / "whole")
    del whole["first"]
    assert_close(first, whole)


def test_other_ranks_get_generators_that_follow_from_the_saved_one():
    torch.manual_seed(3)
    saved = {"rng": torch.get_rng_state(), "cuda_rng": [], "others": []}
    drawn = []
    for rank in (0, 1, 2, 1):
        loss_sum = BatchShard(Ranks(rank, 3)).restore(saved, 2.5, torch.device("cpu"))
        assert loss_sum == 2.5
        drawn.append(torch.rand(1).item())
    torch.manual_seed(3)
    assert drawn[0] == torch.rand(1).item() and drawn[1] == drawn[3] and len(set(drawn)) == 3


# Parts.


def test_shares_are_all_rows_once_and_weigh_one_in_the_mean():
    for batch_size in (5, 6, 64):
        shares = [BatchShard.of(batch_size, Ranks(rank, 5)) for rank in range(5)]
        rows = [row for share in shares for row in range(batch_size)[share.rows]]
        assert rows == list(range(batch_size))
        losses = torch.randn(batch_size, dtype=torch.float64)
        means = [share.weigh(losses[share.rows].mean()) for share in shares]
        assert float(sum(means)) / 5 == pytest.approx(float(losses.mean()))
    with pytest.raises(ValueError, match=r"a batch of 4 cannot be shared by 5 ranks.*--batch-size"):
        BatchShard.of(4, Ranks(0, 5))


def test_ranks_ask_for_the_time_seldom(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    asked: list[int] = []

    class Two(Ranks):
        def from_main(self, make):
            asked.append(step)
            return make()

    class Clock:
        seconds, last = 30.0, 0.0
        elapsed = property(lambda self: now[0] - self.last)

    pace, clock, saved = SyncedTimer(Two(0, 2), 0), Clock(), []
    for step in range(1, 3001):
        now[0] += 0.1
        if pace.due(step, clock):
            saved.append(now[0])
            clock.last = now[0]
    assert len(saved) in (9, 10) and len(asked) < 40
    assert all(29.9 < b - a < 32 for a, b in zip([0.0, *saved], saved, strict=False))


def test_synced_norms_leave_the_model_as_it_was():
    from supermask.distributed.sync_batchnorm import synced_norms

    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    before, x = copy.deepcopy(model.state_dict()), torch.randn(5, 3)
    expected = model.eval()(x)
    with synced_norms(model):
        assert torch.equal(model(x), expected)  # in evaluation nothing is shared
        assert model.state_dict().keys() == before.keys()
    assert "forward" not in vars(model[1]) and torch.equal(model(x), expected)

    class Own(nn.BatchNorm1d):
        def forward(self, x):
            return x

    with (
        pytest.raises(ValueError, match=r"1 is a Own.*--sync-norms"),
        synced_norms(nn.Sequential(model, Own(3))),
    ):
        pass


def as_rank(monkeypatch, rank: int, size: int, local_size: int) -> None:
    """The environment that torchrun gives, without torchrun."""
    names = {
        "RANK": rank,
        "WORLD_SIZE": size,
        "LOCAL_RANK": rank % local_size,
        "LOCAL_WORLD_SIZE": local_size,
    }
    for name, value in {**names, "MASTER_ADDR": "localhost", "MASTER_PORT": 1}.items():
        monkeypatch.setenv(name, str(value))


def test_a_lost_rank_is_told_from_other_errors(monkeypatch):
    as_rank(monkeypatch, rank=1, size=3, local_size=3)
    ended = []
    monkeypatch.setattr(dist, "init_process_group", lambda *_, **__: None)
    monkeypatch.setattr(dist, "rendezvous", lambda *_, **__: iter([(None, 1, 3)]))
    monkeypatch.setattr(ranks_module, "meet", lambda *_: None)
    monkeypatch.setattr(dist, "destroy_process_group", lambda: ended.append(True))
    message = "[gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:5555"
    for error in (RuntimeError(message), dist.DistBackendError("NCCL communicator was aborted")):
        with pytest.raises(RankLostError, match=r"rank 1 of 3 lost contact.*--max-restarts"), joined("cpu"):
            raise error
    with pytest.raises(DivergedError), joined("cpu"):
        raise DivergedError("the training loss is nan")
    assert not ended
    with joined("cpu") as ranks:
        assert ranks == Ranks(1, 3, 1, 3)
    assert ended


def test_ranks_that_start_again_meet_apart_from_those_before():
    store, met = dist.HashStore(), []

    def start(rank: int, delay: float) -> None:
        time.sleep(delay)
        met.append(meet(store, rank, 3))

    for attempt in range(3):
        # Whoever comes first finds what the last ones left, and must wait for the others.
        threads = [threading.Thread(target=start, args=(rank, 0.2 * rank)) for rank in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        first, *others = met[-3:]
        first.set("address", f"of {attempt}")
        assert all(other.get("address") == f"of {attempt}".encode() for other in others)
        assert all(old.get("address") != f"of {attempt}".encode() for old in met[:-3])


def test_each_rank_of_a_machine_has_a_gpu_of_its_own(monkeypatch):
    assert own_device("cuda") == "cuda" and own_device("cuda:3") == "cuda:3"  # without torchrun
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    as_rank(monkeypatch, rank=6, size=8, local_size=4)
    assert own_device("cuda") == "cuda:2" and own_device("cpu") == "cpu"
    with pytest.raises(ValueError, match="cuda without a number"):
        own_device("cuda:0")
    as_rank(monkeypatch, rank=1, size=2, local_size=1)
    assert own_device("cuda:3") == "cuda:3"


# The command line.


def test_a_command_under_torchrun_writes_once_what_it_writes_alone(pair, tmp_path, capsys):
    folder, output = pair
    codes = {"search": 0, "jobs": 2, "batch": 2, "theory": 2, "flag": 2}
    assert left_by(folder, "commands") == [codes, codes]
    assert "--jobs 2: leave it out under torchrun" in output
    assert "--batch-size 1: take at least 2" in output
    assert "theory runs in one process" in output
    assert output.count("there is no flag --densty") == 1
    assert output.count("report: ") == 1
    line = ["search", "--density", "0.5", "--epochs", "2", "--batch-size", "64", "--threads", "1", "--out"]
    assert main([*line, str(tmp_path)]) == 0
    alone, shared = (json.loads((f / "results.json").read_text()) for f in (tmp_path, folder / "search"))
    assert shared["command"].startswith("torchrun --nproc-per-node=2 -m supermask search")
    assert shared["machine"]["ranks"] == 2
    (row,), (other,) = alone["rows"], shared["rows"]
    assert row["run"] == other["run"]
    assert other["test_accuracy"] == pytest.approx(row["test_accuracy"], abs=0.01)
    for a, b in zip(alone["curves"][0]["points"], shared["curves"][0]["points"], strict=True):
        assert a["train_loss"] == pytest.approx(b["train_loss"], rel=1e-3)
    assert not [path for path in folder.rglob("*") if path.name.endswith(".tmp")]


COMPARE = ["-m", "supermask", "compare", "--batch-size", 64, "--threads", 1]


def compare(out: Path, *more: object) -> list[object]:
    methods = ["--methods", "dense", "edge-popup", "imp", "imp-rewind", "random-mask-frozen", "--seeds", 0]
    return [*COMPARE, *methods, "--densities", 0.64, "--checkpoint-seconds", 0, "--out", out, *more]


def workers_of(job: subprocess.Popen[str]) -> list[int]:
    return [int(pid) for pid in Path(f"/proc/{job.pid}/task/{job.pid}/children").read_text().split()]


def kill_one(job: subprocess.Popen[str], out: Path, rank: int) -> None:
    """SIGKILL the worker of a rank as soon as a checkpoint of some progress is there."""
    patience = time.monotonic() + 400
    while time.monotonic() < patience:
        if any(out.glob("runs/imp-*/checkpoint.safetensors")):
            pids = [pid for pid in workers_of(job) if _environment(pid).get("RANK") == str(rank)]
            os.kill(pids[0], signal.SIGKILL)
            return
        assert job.poll() is None, job.communicate()[0]
        time.sleep(0.05)
    job.terminate()
    pytest.fail(f"no checkpoint:\n{job.communicate()[0]}")


def _environment(pid: int) -> dict[str, str]:
    entries = Path(f"/proc/{pid}/environ").read_bytes().decode().split("\0")
    return dict(entry.partition("=")[::2] for entry in entries if "=" in entry)


def tickets(out: Path) -> dict[str, bytes]:
    return {str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*.ticket")}


@pytest.mark.parametrize("part", ["lost", pytest.param("lost_training", marks=pytest.mark.slow)])
def test_a_lost_rank_is_named_by_torchrun_and_noticed_by_the_others(part, tmp_path):
    began = time.monotonic()
    output = finish(torchrun(3, ROOT / "tests/distributed_worker.py", tmp_path, part), code=1)
    assert time.monotonic() - began < 300  # they do not wait for its half an hour
    assert re.search(r"rank\s*: 1 ", output) and "SIGKILL" in output
    for rank in (0, 2):
        assert re.search(rf"RankLostError: rank {rank} of 3 lost contact .*--max-restarts", output)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_compiled_search_runs_over_ranks(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    line = ["search", "--density", 0.5, "--epochs", 2, "--batch-size", 64, "--threads", 1]
    finish(torchrun(2, "-m", "supermask", *line, "--compile", "--out", tmp_path / "compiled"))
    assert any(path.suffix == ".cpp" for path in (tmp_path / "cache").rglob("*"))
    assert main([*map(str, line), "--out", str(tmp_path / "alone")]) == 0
    compiled, alone = (
        json.loads((tmp_path / name / "results.json").read_text())["curves"][0]["points"]
        for name in ("compiled", "alone")
    )
    for a, b in zip(compiled, alone, strict=True):
        assert a["train_loss"] == pytest.approx(b["train_loss"], rel=1e-2)


@pytest.mark.slow
def test_a_killed_rank_ends_the_job_and_a_restart_goes_on_to_the_same_bytes(tmp_path):
    whole, killed, restarted = (tmp_path / name for name in ("whole", "killed", "restarted"))
    finish(torchrun(3, *compare(whole, "--epochs", 2)))

    job = torchrun(3, *compare(killed, "--epochs", 2))
    kill_one(job, killed, rank=1)
    output = finish(job, code=1)
    assert re.search(r"rank\s*: 1 ", output) and "SIGKILL" in output
    assert not (killed / "results.json").exists()
    # The same command goes on, and torchrun's restart does the same by itself.
    finish(torchrun(3, *compare(killed, "--epochs", 2)))
    job = torchrun(3, "--max-restarts=1", *compare(restarted, "--epochs", 2))
    kill_one(job, restarted, rank=0)
    finish(job)
    expected = tickets(whole)
    assert len(expected) > 5
    assert tickets(killed) == expected == tickets(restarted)
    for out in (killed, restarted):
        assert not [path for path in out.rglob("*") if path.suffix in (".tmp", ".safetensors")]


@pytest.mark.slow
def test_all_methods_run_over_ranks(tmp_path):
    """Every kind of run and every source of masks; the ranks stop with an error where they differ."""
    options = ["--methods", "all", "--densities", 0.5, "--epochs", 1, "--seeds", 0, "--model", "resnet-20"]
    finish(torchrun(2, *COMPARE, *options, "--out", tmp_path), timeout=550)
    document = json.loads((tmp_path / "results.json").read_text())
    methods = {row["method"] for row in document["rows"]}
    assert methods | {entry["method"] for entry in document.get("skipped", ())} == set(all_methods())
    assert len(methods) > 25
    for row in document["rows"]:
        assert json.loads((tmp_path / "runs" / row["run"] / "result.json").read_text())["ranks"] == 2


@pytest.mark.cuda
def test_ranks_on_gpus_do_what_one_process_does(tmp_path):
    """Through NCCL where each rank has a GPU, through gloo where they share one."""
    line = [
        "search",
        "--model",
        "resnet-20",
        "--batch-size",
        64,
        "--epochs",
        1,
        "--sync-norms",
        "--device",
        "cuda",
    ]
    alone, shared = tmp_path / "alone", tmp_path / "shared"
    assert main([*map(str, line), "--out", str(alone)]) == 0
    finish(torchrun(2, "-m", "supermask", *line, "--out", shared))
    documents = [json.loads((out / "results.json").read_text()) for out in (alone, shared)]
    first, second = (document["curves"][0]["points"] for document in documents)
    for a, b in zip(first, second, strict=True):
        assert a["train_loss"] == pytest.approx(b["train_loss"], rel=0.02)
