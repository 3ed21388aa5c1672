"""Text under every locale: UTF-8 inside, and on a terminal that has less, the nearest that it can show."""

import codecs
import locale
import os
import sys
import unicodedata
from typing import Any, TextIO

_PLAIN = {
    **dict.fromkeys("\u2010\u2011\u2012\u2013\u2014\u2212", "-"),
    **dict.fromkeys("\u2018\u2019", "'"),
    **dict.fromkeys("\u201c\u201d", '"'),
    **{"×": "x", "·": "*", "≤": "<=", "≥": ">=", "±": "+-", "√": "sqrt ", "→": "->", "≈": "~", "\u2044": "/"},
}
"""What has no plain letters inside, as accents and fractions do."""
_ERRORS = "supermask.plain"


def console_of(stream: TextIO, force_terminal: bool | None = None) -> Any:
    """A rich console on a stream.

    In a notebook it prints plain lines, where rich would make elements of a page, and bars of control codes:
    kernels pass for terminals.
    """
    from rich.console import Console

    if "ipykernel" in sys.modules:
        force_terminal = False
    return Console(file=stream, force_terminal=force_terminal, force_jupyter=False)


def use_utf8() -> None:
    """Start the interpreter again in UTF-8 mode where names of files would otherwise be read in another code.

    What goes to the terminal stays in the code that the locale names.
    """
    if sys.flags.utf8_mode or codecs.lookup(sys.getfilesystemencoding()).name == "utf-8":
        return
    environment = {"PYTHONIOENCODING": locale.getencoding(), **os.environ}
    os.execve(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]], environment)


def show_what_can_be_shown() -> None:
    """Let standard output and error replace what their code lacks instead of failing."""
    codecs.register_error(_ERRORS, _replaced)
    for stream in (sys.stdout, sys.stderr):
        code = getattr(stream, "encoding", None)
        if code and hasattr(stream, "reconfigure") and stream.errors != _ERRORS:
            # UTF-8 lacks one thing only: what stands for bytes that are no UTF-8.
            is_utf8 = codecs.lookup(code).name == "utf-8"
            stream.reconfigure(errors="backslashreplace" if is_utf8 else _ERRORS)


def _replaced(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    # Parted from their letters, accents can be left out; the rest are ligatures, fractions and powers.
    apart = unicodedata.normalize("NFKD", error.object[error.start : error.end])
    plain = "".join(_PLAIN.get(sign, sign) for sign in apart if not unicodedata.combining(sign))
    return plain.encode("ascii", "backslashreplace").decode(), error.end
