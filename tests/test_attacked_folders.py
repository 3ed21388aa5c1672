"""Files of a folder of runs, damaged in every way: the same command ends with the same bytes, or names them.

What a message says to delete is deleted; then the same command must end with the same bytes as if nothing had
been. Folders of finished comparisons and of one that was stopped halfway.
"""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from supermask.cli import main, run
from supermask.io import save_tree
from supermask.training import checkpoint

COMMAND = "compare --methods dense edge-popup imp reinit signed-supermask --densities 0.64 --seeds 0".split()
COMMAND += "--epochs 0.3 --together 0 --batch-size 64 --model-args width=0.05 --threads 1 --jobs 1".split()
COMMAND += "--checkpoint-seconds 0 --out".split()


def outcome(out: Path) -> dict[str, Any]:
    """All that a comparison left, times and its own folder's name aside."""
    document = json.loads((out / "results.json").read_text())
    for entry in document["rows"]:
        del entry["seconds"]
    del document["command"]
    paths = [path for path in out.rglob("*") if path.name in KEPT]
    files = {str(path.relative_to(out)): path.read_bytes() if path.is_file() else None for path in paths}
    return {"document": document, "files": files}


def differing(first: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """Where two outcomes differ."""
    return [
        key
        for part in first
        for key in first[part].keys() | other[part].keys()
        if first[part].get(key) != other[part].get(key)
    ]


KEPT = ("final.ticket", "step-1.ticket", "metrics.jsonl", "mask.safetensors", "config.json")


def halves(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[2 * len(data) // 3] ^= 4
    path.write_bytes(data)


def swap(path: Path) -> None:
    """Put the file of the same name of another run in its place."""
    others = [other for other in path.parents[1].glob(f"*/{path.name}") if other != path and other.is_file()]
    path.write_bytes(others[0].read_bytes() if others else b"of nobody")


def directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


def dangling(path: Path) -> None:
    path.unlink()
    path.symlink_to("gone")


DAMAGE: dict[str, Callable[[Path], object]] = {
    "gone": Path.unlink,
    "empty": lambda path: path.write_bytes(b""),
    "half": halves,
    "a bit": flip,
    "junk": lambda path: path.write_bytes(b"\xff\x00junk"),
    "a list": lambda path: path.write_text("[]"),
    "an object": lambda path: path.write_text("{}"),
    "a number": lambda path: path.write_text("1" * 5000),
    "tensors": lambda path: save_file({"a": torch.zeros(3)}, str(path)),
    "of another run": swap,
    "a folder": directory,
    "a dangling link": dangling,
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A finished comparison, and one that was stopped in the middle of a run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "write_report", lambda document, out: out)
        root = tmp_path_factory.mktemp("folders")
        assert main([*COMMAND, str(root / "finished")]) == 0
        saved = []

        def save(path: Path, tree: object) -> None:
            save_tree(path, tree)
            saved.append(path)
            if len(saved) == 12:
                raise KeyboardInterrupt

        patch.setattr(checkpoint, "save_tree", save)
        assert main([*COMMAND, str(root / "stopped")]) == 130
    assert list((root / "stopped").rglob("checkpoint.safetensors")), "it was stopped between two runs"
    return {name: root / name for name in ("finished", "stopped")}


def files_of(out: Path) -> list[Path]:
    """A file of each kind: by its name, and the method of its run."""
    kinds: dict[tuple[str, str], Path] = {}
    for path in sorted(out.rglob("*")):
        if path.is_file() and path.name != ".lock":
            place = path.relative_to(out)
            kinds.setdefault(
                (path.name, place.parts[1].split("-d0")[0] if len(place.parts) > 1 else ""), place
            )
    return list(kinds.values())


def remedy(said: str, out: Path) -> Path | None:
    """What the message says to delete, inside the folder."""
    found = re.search(r"[Dd]elete (it|\S+)", said)
    named = re.search(rf"{re.escape(str(out))}/\S+", said)
    text = found[1] if found and found[1] != "it" else named[0] if named else ""
    path = Path(text.rstrip(",.;:"))
    return path if out in path.parents else None


QUICK = {("finished", "gone"), ("finished", "a bit"), ("stopped", "half")}
CASES = [
    pytest.param(state, damage, marks=[] if (state, damage) in QUICK else pytest.mark.slow)
    for state in ("finished", "stopped")
    for damage in DAMAGE
]


@pytest.mark.parametrize(("state", "damage"), CASES)
def test_a_damaged_file_is_made_again_or_named(folders, state, damage, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(run, "write_report", lambda document, out: out)
    sound, wrong = outcome(folders["finished"]), []
    for place in files_of(folders[state]):
        out = tmp_path / "out"
        shutil.copytree(folders[state], out)
        DAMAGE[damage](out / place)
        capsys.readouterr()
        code = main([*COMMAND, str(out)])
        said = capsys.readouterr().err
        if code != 0:
            broken = remedy(said, out)
            if "Traceback" in said or code not in (1, 2) or broken is None:
                wrong.append((str(place), code, said[-300:]))
            elif broken.is_dir() and not broken.is_symlink():
                shutil.rmtree(broken)
            else:
                broken.unlink(missing_ok=True)
            code = main([*COMMAND, str(out)])
        if code != 0 or outcome(out) != sound:
            said = f"other bytes: {differing(sound, outcome(out))}" if code == 0 else capsys.readouterr().err
            wrong.append((str(place), code, said[-300:]))
        shutil.rmtree(out)
    assert not wrong
