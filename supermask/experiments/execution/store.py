"""The store of runs: one folder each, named after its specification; what is finished stays finished.

`<store>/<id>/` holds `config.json`, `metrics.jsonl`, tickets (`final.ticket`, `step-<k>.ticket`),
`mask.safetensors` where the ticket holds weights outside its mask, too, a `checkpoint.safetensors` while the
run goes on, and `result.json`, which is written last, with the digests of the others and of itself.
"""

import hashlib
import json
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from torch import Tensor

from supermask.experiments.spec import RunSpec
from supermask.io import DamagedFileError, load_tree, read_json, save_tree, write_json, write_text
from supermask.masks import Mask
from supermask.tickets.container import read_ticket
from supermask.tickets.ticket import Ticket

NUMBER = (int, float)
RESULT: dict[str, tuple[type, ...]] = {
    "method": (str,),
    "density": NUMBER,
    "seed": (int,),
    "test_accuracy": (*NUMBER, type(None)),
    "test_loss": (*NUMBER, type(None)),
    "val_accuracy": (*NUMBER, type(None)),
    "steps": (int,),
    "total_steps": (int,),
    "seconds": NUMBER,
    "ticket_bytes": (int, type(None)),
    "dense_bytes": (int,),
}
"""What every result has, and the types of it."""


LEFT = re.compile(r"(final|step-\d+)\.ticket|config\.json|metrics\.jsonl|mask\.safetensors")
"""Files that a finished run leaves for others to read."""


class Run:
    """The folder of one run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def result(self) -> dict[str, Any] | None:
        """The result, or None while the run is not finished.

        Raises:
            DamagedFileError: The result is damaged, or the ticket has not the bytes that it had.
        """
        path = self.folder / "result.json"
        if not path.exists():
            return None
        result = read_json(path)
        if not self._is_mine(result):
            raise DamagedFileError(f"{path} is damaged; delete {self.folder} to have it made again")
        if result["ticket_bytes"] is not None:
            ticket = self.ticket_path()
            found = ticket.stat().st_size if ticket.exists() else None
            if found != result["ticket_bytes"]:
                raise DamagedFileError(
                    f"{ticket} is {'gone' if found is None else 'damaged'}: it has {found or 0} bytes, and "
                    f"{path} says {result['ticket_bytes']}; delete {self.folder} to have the run made again"
                )
        return result

    def checked_result(self) -> dict[str, Any] | None:
        """The result, after a look at every byte of the files beside it.

        Raises:
            DamagedFileError: As of `result`, or a file is not what the run left.
        """
        result = self.result
        if result is None:
            return None
        # Stores of before have no digests.
        for name, digest in result.get("files", {}).items():
            if (found := _digest(self.folder / name)) != digest:
                raise DamagedFileError(
                    f"{self.folder / name} is {'damaged' if found else 'gone'}: it is not what the run left; "
                    f"delete {self.folder} to have the run made again"
                )
        if "files" not in result and result["ticket_bytes"] is not None:
            try:
                read_ticket(self.ticket_path())
            except DamagedFileError as error:
                raise DamagedFileError(
                    f"{self.ticket_path()}: {error}; delete {self.folder} to have the run made again"
                ) from None
        return result

    def _is_mine(self, result: Any) -> bool:
        """Whether what was read is the result of this run, as far as its name tells."""
        if not isinstance(result, dict) or not all(
            key in result and _fits(result[key], kinds) for key, kinds in RESULT.items()
        ):
            return False
        if "digest" in result and result["digest"] != _digest_of(result):
            return False
        files = result.get("files", {})
        if not isinstance(files, dict) or not all(LEFT.fullmatch(name) for name in files):
            return False
        named = f"{result['method']}-d", f"-s{result['seed']}-"
        return result.get("run", self.folder.name) == self.folder.name and (
            self.folder.name.startswith(named[0]) and named[1] in self.folder.name
        )

    @property
    def checkpoint(self) -> Path:
        return self.folder / "checkpoint.safetensors"

    @property
    def ensemble(self) -> Path:
        """Who trains together with this run, the first of them, while they do; see `together`."""
        return self.folder / "together.json"

    @property
    def ensemble_checkpoint(self) -> Path:
        """The checkpoint of all of them."""
        return self.folder / "together.safetensors"

    def ticket_path(self, step: int | None = None) -> Path:
        """The final ticket, or the one saved at `step`."""
        return self.folder / ("final.ticket" if step is None else f"step-{step}.ticket")

    def ticket(self, step: int | None = None) -> Ticket:
        """Load it.

        Raises:
            DamagedFileError: It is damaged or gone; the message says how to have it made again.
        """
        try:
            return Ticket.load(self.ticket_path(step))
        except (DamagedFileError, FileNotFoundError) as error:
            raise DamagedFileError(f"{error}. Delete {self.folder} to have the run made again") from None

    def mask(self) -> Mask:
        """Name → the mask that the run ended with; empty for a dense network.

        Raises:
            DamagedFileError: As of `ticket`.
        """
        if not self._mask_path.exists():
            return self.ticket().mask()
        try:
            mask = load_tree(self._mask_path)
            if not isinstance(mask, dict) or not all(_is_mask(own) for own in mask.values()):
                raise DamagedFileError(f"{self._mask_path} holds no mask")
        except DamagedFileError as error:
            raise DamagedFileError(f"{error}. Delete {self.folder} to have the run made again") from None
        return mask

    def write_mask(self, mask: Mask) -> None:
        """Keep a mask that the ticket does not tell, because its weights are not zero outside."""
        save_tree(self._mask_path, mask)

    @property
    def _mask_path(self) -> Path:
        return self.folder / "mask.safetensors"

    def history(self) -> list[dict[str, float]]:
        path = self.folder / "metrics.jsonl"
        if not path.exists():
            return []
        try:
            entries = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
            if not all(_is_record(entry) for entry in entries):
                raise ValueError("no learning curve")
            return entries
        except (ValueError, RecursionError):
            raise DamagedFileError(f"{path} is damaged; delete {self.folder} to have it made again") from None

    def write_history(self, history: Sequence[dict[str, float]]) -> None:
        write_text(self.folder / "metrics.jsonl", "".join(json.dumps(entry) + "\n" for entry in history))

    def finish(self, result: dict[str, Any]) -> dict[str, Any]:
        """Write the result, with digests of itself and of what else the run leaves; drop the checkpoint."""
        left = sorted(path for path in self.folder.iterdir() if LEFT.fullmatch(path.name))
        result = {**result, "files": {path.name: _digest(path) for path in left}}
        result["digest"] = _digest_of(result)
        write_json(self.folder / "result.json", result)
        self._drop_checkpoints()
        return result

    def sweep(self) -> None:
        """Remove what a killed process left: temporary files, the checkpoint of a finished run."""
        for path in self.folder.glob(".*.tmp"):
            path.unlink(missing_ok=True)
        if self.result is not None:
            self._drop_checkpoints()

    def _drop_checkpoints(self) -> None:
        for path in (self.checkpoint, self.ensemble, self.ensemble_checkpoint):
            path.unlink(missing_ok=True)

    def lock(self) -> FileLock:
        """Held while the run executes, so that two processes never write to the same folder."""
        return FileLock(self.folder / ".lock")


class Store:
    """All runs below one folder."""

    def __init__(self, root: Path) -> None:
        self.root = Path(root)

    def run(self, id: str) -> Run:
        return Run(self.root / id)

    def open(self, spec: RunSpec) -> Run:
        """The run of `spec`; its folder and `config.json` are made where they are missing or not its own.

        Raises:
            OSError: The folder cannot be written.
        """
        run = self.run(spec.id)
        run.folder.mkdir(parents=True, exist_ok=True)
        config = run.folder / "config.json"
        if not _says(config, spec.as_dict()):
            write_json(config, spec.as_dict())
        return run

    def begun_as_ensemble(self, ids: Sequence[str]) -> bool:
        """Whether just these runs, in this order, have begun to train together and not ended."""
        ensemble = self.run(ids[0]).ensemble if ids else None
        return ensemble is not None and ensemble.exists() and read_json(ensemble) == list(ids)


def _says(path: Path, value: Any) -> bool:
    """Whether a file holds `value` as JSON."""
    try:
        return path.is_file() and bool(read_json(path) == json.loads(json.dumps(value)))
    except DamagedFileError:
        return False


def _digest(path: Path) -> str | None:
    """SHA-256 of a file in hexadecimal; None where there is none."""
    if not path.is_file():
        return None
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _digest_of(result: dict[str, Any]) -> str:
    """SHA-256 in hexadecimal of a result as JSON with sorted keys, without its digest and its time."""
    rest = {key: value for key, value in result.items() if key not in ("digest", "seconds")}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def _fits(value: Any, kinds: tuple[type, ...]) -> bool:
    """Whether a value read from JSON is of one of some types, and finite if it is a number."""
    return type(value) in kinds and (not isinstance(value, float) or math.isfinite(value))


def _is_record(entry: Any) -> bool:
    """Whether an entry is one of a learning curve: numbers by name, the step among them."""
    return isinstance(entry, dict) and "step" in entry and all(type(v) in NUMBER for v in entry.values())


def _is_mask(value: Any) -> bool:
    return isinstance(value, Tensor) and value.dtype == torch.bool
