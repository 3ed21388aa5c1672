"""Near spellings of names that are not known."""

import difflib
from collections.abc import Iterable


def near(name: str, known: Iterable[str]) -> str:
    """A hint at what was meant, or nothing.

    Names are compared without regard to case, hyphens and underscores.
    """

    def plain(text: str) -> str:
        return text.lower().replace("_", "").replace("-", "")

    by_plain = {plain(other): other for other in known}
    found = difflib.get_close_matches(plain(name), by_plain, n=3, cutoff=0.6)
    return f"did you mean {' or '.join(by_plain[match] for match in found)}?" if found else ""
