"""Read the arrays out of CIFAR's pickled batches without giving a pickle any power.

A pickle is a program that may call whatever it names. The batches name three NumPy callables and,
if Python 3 wrote them, a codec. Here each of those names stands for a class of this module that
only notes down its arguments, any other name is an error, and no NumPy object is made by the
pickle itself. Callers check the file's published md5 sum before they come here, so that the
program is known in the first place.
"""

import io
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

_ARRAY_STATE_LENGTH = 5


class _DtypeRecord:
    """Stands for ``numpy.dtype``: notes the type's name, ignores byte order and flags."""

    def __init__(self, name: str = "", *_: object) -> None:
        self.name = name

    def __setstate__(self, state: object) -> None:
        pass


class _ArrayRecord:
    """Stands for an ndarray: notes the state that the pickle would have given to one."""

    def __init__(self, *_: object) -> None:
        self.state: tuple[Any, ...] = ()

    def __setstate__(self, state: Any) -> None:
        self.state = tuple(state)


def _encode(text: str, encoding: str) -> bytes:
    """Stands for ``_codecs.encode``, which writes bytes as text in old protocols."""
    if encoding not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError(f"encoding {encoding!r} is not used by these files")
    return text.encode("latin-1")


_STAND_INS: dict[tuple[str, str], Callable[..., object]] = {
    ("numpy.core.multiarray", "_reconstruct"): _ArrayRecord,
    ("numpy._core.multiarray", "_reconstruct"): _ArrayRecord,
    ("numpy", "ndarray"): _ArrayRecord,
    ("numpy", "dtype"): _DtypeRecord,
    ("_codecs", "encode"): _encode,
}


class _InertUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        stand_in = _STAND_INS.get((module, name))
        if stand_in is None:
            raise pickle.UnpicklingError(f"it calls {module}.{name}, which no CIFAR file does")
        return stand_in


def read_inert(content: bytes) -> dict[str, object]:
    """Return the dictionary that a pickled CIFAR batch holds, its array as an uint8 array.

    Args:
        content: The whole file, verified by its checksum.

    Returns:
        Text keys; lists, text, numbers and uint8 arrays as values.

    Raises:
        ValueError: The content is not such a dictionary, or its program does anything else.
    """
    try:
        # Python 2 wrote text and bytes alike; latin1 keeps every byte.
        batch = _InertUnpickler(io.BytesIO(content), encoding="latin1").load()
    except Exception as error:
        # Bad bytes raise nearly anything, from UnpicklingError to IndexError and TypeError.
        raise ValueError(f"not a pickled CIFAR batch: {error}") from error
    if not isinstance(batch, dict):
        raise ValueError(f"not a pickled CIFAR batch: it holds a {type(batch).__name__}")
    return {
        str(key): _to_array(value) if isinstance(value, _ArrayRecord) else value
        for key, value in batch.items()
    }


def _to_array(record: _ArrayRecord) -> NDArray[np.uint8]:
    if len(record.state) != _ARRAY_STATE_LENGTH:
        raise ValueError("not a pickled CIFAR batch: its array has no contents")
    _, shape, dtype, column_major, raw = record.state
    content = raw.encode("latin-1") if isinstance(raw, str) else raw
    if not isinstance(content, bytes) or not isinstance(dtype, _DtypeRecord) or dtype.name != "u1":
        raise ValueError("not a pickled CIFAR batch: its array is not one of unsigned bytes")
    # reshape refuses a shape that the bytes do not fill.
    flat = np.frombuffer(bytearray(content), dtype=np.uint8)
    return flat.reshape(shape, order="F" if column_major else "C")
