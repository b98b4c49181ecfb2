"""Takes secrets out of what a task says: each byte that belongs to one, whatever the bytes come cut into.

Pure. A run of such bytes becomes one `***`. What may still turn out to be the beginning of a secret is held
back until it is known; where the text ends within one, that beginning is taken out as well if it is half of
it or more. Matching is by Knuth, Morris and Pratt, so that nothing a function writes takes longer
than its length.
"""

import json
from collections.abc import Iterable
from functools import lru_cache
from typing import Final, NamedTuple

SHORTEST: Final = 8
"""Characters. A shorter secret is part of too many words."""
MASK: Final = b"***"


class _Pattern(NamedTuple):
    secret: bytes
    borders: tuple[int, ...]
    """Of each beginning, how long the longest shorter one is that it ends with."""
    least: int
    """So many bytes of it at the very end of a text are taken out: it was cut there."""


@lru_cache(maxsize=256)
def _pattern(secret: bytes, least: int) -> _Pattern:
    borders = [0]
    length = 0
    for byte in secret[1:]:
        while length and secret[length] != byte:
            length = borders[length - 1]
        length += secret[length] == byte
        borders.append(length)
    return _Pattern(secret, tuple(borders), least)


class _Search:
    """Looks for one secret in a stream."""

    def __init__(self, pattern: _Pattern) -> None:
        self.pattern = pattern
        self.begun = 0
        """So many bytes at the end of what was seen are the beginning of the secret."""

    def ends(self, data: bytes) -> list[int]:
        """Where in these bytes an occurrence ends."""
        secret, borders, _ = self.pattern
        first, whole = secret[:1], len(secret)
        found: list[int] = []
        begun, at, end = self.begun, 0, len(data)
        while at < end:
            if not begun:
                at = data.find(first, at)
                if at < 0:
                    break
            byte = data[at]
            while begun and secret[begun] != byte:
                begun = borders[begun - 1]
            begun += secret[begun] == byte
            at += 1
            if begun == whole:
                found.append(at)
                begun = borders[-1]
        self.begun = begun
        return found


class Redactor:
    """A stream without its secrets: `feed` it, then `end` it."""

    def __init__(self, secrets: Iterable[str]) -> None:
        self._searches = [_Search(pattern) for pattern in _patterns(secrets)]
        self._held = b""
        """Seen and not given out."""
        self._at = 0
        """How many bytes were given out, of the stream as it came."""
        self._inside = False
        """Whether the last byte that was given out belongs to a secret: its mask is out already."""
        self._found: list[tuple[int, int]] = []
        """The secrets in what is held, from and up to a place in the stream."""

    def feed(self, data: bytes) -> bytes:
        """What is certain by now."""
        if not self._searches:
            return data
        before = self._at + len(self._held)
        for search in self._searches:
            length = len(search.pattern.secret)
            self._found += [(before + end - length, before + end) for end in search.ends(data)]
        self._held += data
        end = before + len(data)
        return self._give(min(end - search.begun for search in self._searches))

    def end(self) -> bytes:
        """The rest."""
        if not self._searches:
            return b""
        end = self._at + len(self._held)
        for search in self._searches:
            if search.begun >= search.pattern.least:
                self._found.append((end - search.begun, end))
            search.begun = 0
        given = self._give(end)
        self._inside = False
        return given

    def _give(self, until: int) -> bytes:
        """What is held before that place of the stream, without the secrets."""
        out: list[bytes] = []
        start, at = self._at, self._at
        later: list[tuple[int, int]] = []
        for begin, end in sorted(self._found):
            if end > until:
                later.append((begin, end))
            if begin >= until or end <= at:
                continue
            if begin > at:
                out.append(self._held[at - start : begin - start])
                self._inside = False
            if not self._inside:
                out.append(MASK)
                self._inside = True
            at = min(end, until)
        if at < until:
            out.append(self._held[at - start : until - start])
            self._inside = False
        self._held = self._held[until - start :]
        self._at = until
        self._found = later
        return b"".join(out)


def redacted(text: str, secrets: Iterable[str]) -> str:
    """A text that is whole, without the secrets."""
    redactor = Redactor(secrets)
    data = text.encode(errors="replace")
    return (redactor.feed(data) + redactor.end()).decode(errors="replace")


def _patterns(secrets: Iterable[str]) -> list[_Pattern]:
    """Each secret as it is, and as JSON and Python write it where that differs."""
    wanted: dict[bytes, int] = {}
    for secret in secrets:
        if len(secret) >= SHORTEST:
            least = len(secret[: max(SHORTEST, len(secret) // 2)].encode())
            for form in (secret, json.dumps(secret)[1:-1], json.dumps(secret, ensure_ascii=False)[1:-1]):
                wanted[form.encode()] = least
    return [_pattern(form, least) for form, least in wanted.items()]
