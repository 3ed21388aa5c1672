"""Near spellings of names that are not known: at the end of every message about one."""

import difflib
from collections.abc import Iterable


def near(name: str, known: Iterable[str]) -> str:
    """A hint at what was meant, or nothing: up to three names that are about equally near.

    Case counts nothing, and a name that differs in hyphens and underscores alone is the only one. Where no
    spelling is near, three letters and more mean the names that they are a part of.
    """

    def plain(text: str) -> str:
        return text.lower().replace("_", "").replace("-", "")

    known = list(known)
    found = [other for other in known if plain(other) == plain(name)]
    if not found:
        by_lower = {other.lower(): other for other in known}
        matches = difflib.get_close_matches(name.lower(), by_lower, n=3)
        likeness = [difflib.SequenceMatcher(None, match, name.lower()).ratio() for match in matches]
        found = [
            by_lower[match] for match, like in zip(matches, likeness, strict=True) if like > likeness[0] - 0.1
        ]
    if not found and len(plain(name)) > 2:
        found = [other for other in known if plain(name) in plain(other)][:3]
    return f"did you mean {' or '.join(found)}?" if found else ""


def ending(name: str, known: Iterable[str]) -> str:
    """The hint with a semicolon before it, for the end of a message; or nothing."""
    hint = near(name, known)
    return f"; {hint}" if hint else ""
