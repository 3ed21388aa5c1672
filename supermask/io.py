"""Files: written to a temporary name and renamed, trees of tensors without pickle, errors that help."""

import contextlib
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor


class DamagedFileError(ValueError):
    """A file is truncated, of another format, or does not hold what it says."""


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path beside `path`; when the block ends well, sync it and rename it to `path`.

    When the block or the disk fails, `path` is as it was and the temporary file is gone.

    Raises:
        OSError: There is no such folder, or it cannot be written; the error names the folder.
    """
    path = Path(path)
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    except OSError as error:  # names the temporary file, of which nobody knows
        raise OSError(error.errno, error.strerror, str(path.parent)) from None
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)  # mkstemp's 0600 is for secrets
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_bytes(path: str | os.PathLike[str], data: bytes) -> None:
    with atomic_write(path) as temporary:
        temporary.write_bytes(data)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write UTF-8.

    What a file system calls by bytes that are no UTF-8 is written as an escape: in JSON, the one of a string
    that is read back as it was.
    """
    write_bytes(path, text.encode(errors="backslashreplace"))


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: str | os.PathLike[str]) -> Any:
    """Parse a JSON file.

    Raises:
        DamagedFileError: It is not JSON.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise DamagedFileError(
            f"{path} is not valid JSON ({error}); delete it to have it made again"
        ) from None


def save_tensors(path: str | os.PathLike[str], tensors: dict[str, Tensor], header: dict[str, Any]) -> None:
    """Write tensors, and `header` as JSON; see `write_tensors`."""
    write_tensors(path, tensors, json.dumps(header, ensure_ascii=False))


def write_tensors(path: str | os.PathLike[str], tensors: Mapping[str, Tensor], header: str) -> None:
    """Write a safetensors file atomically; the same content gives the same bytes.

    `header` goes into the single metadata entry `supermask`: the order of several entries is not fixed by
    safetensors.
    """
    # Copies, because safetensors refuses tensors that share memory, as tied weights do.
    ready = {
        name: tensor.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
        for name, tensor in tensors.items()
    }
    write_bytes(path, save(ready, {"supermask": header}))


def load_tensors(path: str | os.PathLike[str]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read tensors, and a header of JSON.

    Raises:
        FileNotFoundError: There is no such file.
        DamagedFileError: It is not a sound safetensors file with our header.
    """
    tensors, text = read_tensors(path)
    try:
        header = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DamagedFileError(f"{path} is damaged: its supermask entry is not JSON ({error})") from None
    if not isinstance(header, dict):
        raise DamagedFileError(f"{path} is damaged: its supermask entry is not a JSON object")
    return tensors, header


@contextlib.contextmanager
def open_safetensors(path: Path) -> Iterator[Any]:
    """A safetensors file, mapped into memory.

    Names of files are bytes, and `safe_open` of safetensors 0.8 wants UTF-8 ones; another is opened by its
    descriptor, which has a plain name on Linux.
    """
    if is_text(str(path)):
        with safe_open(path, framework="pt") as file:
            yield file
        return
    with path.open("rb") as raw, safe_open(f"/proc/self/fd/{raw.fileno()}", framework="pt") as file:
        yield file


def is_text(name: str) -> bool:
    """Whether UTF-8 can hold `name`: Python's strings may have halves of surrogate pairs, UTF-8 may not."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def read_tensors(path: str | os.PathLike[str]) -> tuple[dict[str, Tensor], str]:
    """Read tensors and the text of the header. Sizes are checked before anything is allocated.

    Raises:
        FileNotFoundError: There is no such file.
        DamagedFileError: It is not a sound safetensors file with our header.
    """
    path = Path(path)
    if path.is_dir():
        raise FileNotFoundError(f"{path} is a folder; name a file in it")
    if not path.is_file():
        raise FileNotFoundError(f"no such file: {path}")
    try:
        with open_safetensors(path) as file:
            header = (file.metadata() or {})["supermask"]
            tensors = {name: _copy(file.get_tensor(name)) for name in file.keys()}
    except KeyError:
        raise DamagedFileError(f"{path} was not written by supermask: its metadata lacks the entry") from None
    except (SafetensorError, RuntimeError, OSError, ValueError) as error:
        raise DamagedFileError(f"{path} is damaged or not a safetensors file: {error}") from None
    return tensors, header


def _copy(tensor: Tensor) -> Tensor:
    """The same bytes: a copy of a bool tensor would turn all that are not 0 into 1."""
    return tensor.view(torch.uint8).clone().view(torch.bool) if tensor.dtype == torch.bool else tensor.clone()


TREE_FORMAT = "supermask/tree/1"

# Nested states (model, optimizer, schedule, generators) as one safetensors file: tensors under numbered
# names, the rest as JSON in which a tensor stands as {"$": number} and a non-string key survives.


def save_tree(path: str | os.PathLike[str], tree: Any) -> None:
    """Write nested dicts, lists, tuples, scalars and tensors to one file."""
    tensors: list[Tensor] = []
    skeleton = _flatten(tree, tensors)
    named = {str(index): tensor for index, tensor in enumerate(tensors)}
    save_tensors(path, named, {"format": TREE_FORMAT, "tree": skeleton})


def load_tree(path: str | os.PathLike[str]) -> Any:
    """Read what `save_tree` wrote; tuples come back as lists.

    Raises:
        FileNotFoundError: There is no such file.
        DamagedFileError: The file is not such a tree.
    """
    tensors, header = load_tensors(path)
    if header.get("format") != TREE_FORMAT:
        raise DamagedFileError(f"{path} is not a supermask checkpoint")
    try:
        return _unflatten(header["tree"], tensors)
    except (KeyError, ValueError, TypeError) as error:
        raise DamagedFileError(f"{path} is a damaged checkpoint: {error!r}") from None


def _flatten(value: Any, tensors: list[Tensor]) -> Any:
    if isinstance(value, Tensor):
        tensors.append(value)
        return {"$": len(tensors) - 1}
    if isinstance(value, dict):
        return {"items": [[key, _flatten(item, tensors)] for key, item in value.items()]}
    if isinstance(value, list | tuple):
        return [_flatten(item, tensors) for item in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"cannot write a {type(value).__name__} to a checkpoint: {value!r}")


def _unflatten(value: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, list):
        return [_unflatten(item, tensors) for item in value]
    if isinstance(value, dict):
        if "$" in value:
            return tensors[str(value["$"])]
        return {key: _unflatten(item, tensors) for key, item in value["items"]}
    return value
