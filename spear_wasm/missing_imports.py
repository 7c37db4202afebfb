"""What to say to a guest that imports what nobody provides: what is missing, and what comes nearest."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import get_close_matches

from spear_wasm.errors import UnlinkableArtifact

MAX_NAMED = 5
MAX_COMPARED_CHARS = 100


def nearest(path: tuple[str, str], offered: Iterable[tuple[str, str]], separator: str) -> str:
    """A hint at the one or two of the offered paths that are most like a path; empty where none is."""
    asked = separator.join(part[:MAX_COMPARED_CHARS] for part in path)
    found = get_close_matches(asked, [separator.join(each) for each in offered], n=2)
    return f" (did you mean {' or '.join(found)}?)" if found else ""


def refusal(what: str, runtime: str, missing: Sequence[str], hints: Sequence[str]) -> UnlinkableArtifact:
    """The error for a guest, of a kind for people, that imports what a runtime does not provide.

    `missing` is all of it, `hints` are of the first of them, at most MAX_NAMED.
    """
    complaints = "; ".join(text + hint for text, hint in zip(missing[:MAX_NAMED], hints, strict=True))
    more = f"; and {len(missing) - MAX_NAMED} more" if len(missing) > MAX_NAMED else ""
    return UnlinkableArtifact(
        f"the {what} imports what the {runtime} runtime does not provide: {complaints}{more}",
        missing=len(missing),
        hints=sum(map(bool, hints)),
    )
