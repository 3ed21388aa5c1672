"""Files are replaced whole: synced before they get their name, and the old one stays where that fails."""

import errno
import os
from pathlib import Path

import pytest
import torch

from supermask.data.cache import open_cache
from supermask.io import atomic_write, load_tensors, save_tensors, write_bytes


def test_a_file_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    seen = []

    def fsync(handle: int) -> None:
        seen.append((os.fstat(handle).st_size, (tmp_path / "a").read_bytes()))

    def replace(self: Path, target: Path) -> Path:
        seen.append((self.parent, target))
        return Path(os.rename(self, target) or target)

    write_bytes(tmp_path / "a", b"old")
    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(Path, "replace", replace)
    write_bytes(tmp_path / "a", b"longer")
    assert seen == [(6, b"old"), (tmp_path, tmp_path / "a")]
    assert (tmp_path / "a").read_bytes() == b"longer" and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("failing", ["fsync", "block"])
def test_a_failing_disk_leaves_the_old_file_and_no_other(tmp_path, monkeypatch, failing):
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "no space left on device")

    write_bytes(tmp_path / "a", b"old")
    if failing == "fsync":
        monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="no space left"), atomic_write(tmp_path / "a") as temporary:
        temporary.write_bytes(b"new")
        if failing == "block":
            full(0)
    assert (tmp_path / "a").read_bytes() == b"old" and len(list(tmp_path.iterdir())) == 1


def test_tensors_are_read_below_a_folder_whose_name_is_no_text(tmp_path):
    folder = tmp_path / os.fsdecode(b"r\xe9sult")
    folder.mkdir()
    values = torch.arange(6.0).reshape(2, 3)
    save_tensors(folder / "a", {"values": values}, {"about": 1})
    tensors, header = load_tensors(folder / "a")
    assert header == {"about": 1} and torch.equal(tensors["values"], values)
    (folder / "b").write_bytes(b"no tensors")
    assert open_cache(folder / "b") is None
    with pytest.raises(FileNotFoundError):
        load_tensors(folder / "c")
