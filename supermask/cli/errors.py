"""What a command says of an error, and the code that it exits with.

Exit codes: 0 done, 2 a wrong call, 1 a failure, 130 an interrupt that the same command resumes.
"""

import re

from supermask.cli.flags import FlagError

EXIT_FAILURE, EXIT_USAGE, EXIT_INTERRUPT = 1, 2, 130
_ARGUMENTS = re.compile(
    r"(?<![\w/.-])(image_size|stored_size|per_class_fraction|allow_corrupt|val_fraction|batch_size"
    r"|label_smoothing|channels_last|cuda_graphs|root(?==))\b(=\b)?=?"
)
"""Arguments of the library that its errors name, with an equals sign or without."""


def exit_code(error: Exception) -> int | None:
    """The code of an error that a user can mend; None for a defect of ours, which deserves a traceback."""
    if isinstance(error, FlagError):  # before anything heavy is imported
        return EXIT_USAGE
    from supermask.data import DamagedDataError, DataError
    from supermask.distributed import RankLostError, RanksDifferError
    from supermask.experiments import ConfigError, EngineError
    from supermask.extras import MissingExtraError
    from supermask.io import DamagedFileError
    from supermask.models import UnknownModelError
    from supermask.tickets.hub import AddressError
    from supermask.training.loop import DivergedError

    wrong = (ConfigError, UnknownModelError, FileNotFoundError, MissingExtraError, AddressError)
    if isinstance(error, wrong):
        return EXIT_USAGE
    if isinstance(error, DataError) and not isinstance(error, DamagedDataError):
        return EXIT_USAGE
    if is_out_of_memory(error):
        return EXIT_FAILURE
    failures = (DamagedFileError, DamagedDataError, DivergedError, EngineError, OSError, ValueError)
    ranks_failed = isinstance(error, RankLostError | RanksDifferError)
    return EXIT_FAILURE if ranks_failed or isinstance(error, failures) else None


def is_out_of_memory(error: Exception) -> bool:
    """Whether memory of the machine or of a GPU ran out."""
    import torch

    # The allocator for CPUs raises no class of its own.
    told = isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    return told or isinstance(error, MemoryError | torch.OutOfMemoryError)


def message_of(error: Exception) -> str:
    """One line: the flag at fault, if there is one, what is wrong with it, and the remedy."""
    if isinstance(error, FlagError):
        return str(error)
    from supermask.data import DataError
    from supermask.models import UnknownModelError

    if isinstance(error, UnknownModelError):
        # The library's functions that list names are no help on a command line.
        return f"--model: there is no model {error.name!r}. `supermask list models` lists ours{error.hint}"
    if is_out_of_memory(error):
        reason = (str(error).splitlines() or ["no more was told"])[0]
        remedy = "take a smaller --batch-size, --image-size or network, or fewer --jobs"
        return f"memory ran out ({reason}); {remedy}"
    if isinstance(error, DataError):
        return f"--{error.flag}: {with_flags(str(error))}"
    if isinstance(error, OSError) and error.strerror:
        where = error.filename2 or error.filename or "writing a file"
        return f"{where}: {error.strerror}. Choose another --out or --cache, or make room or access there"
    return with_flags(str(error))


def with_flags(text: str) -> str:
    """The same text with flags where the library names its arguments."""

    def flag(found: re.Match[str]) -> str:
        name = "data-root" if found[1] == "root" else found[1].replace("_", "-")
        return f"--{name} " if found[2] else f"--{name}"

    return _ARGUMENTS.sub(flag, text)
