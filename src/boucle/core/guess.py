"""What type a column of text has: guessed over all of its values, and never at the price of one of them.

A type is accepted only when every value has it and none would be changed: `00123` and numbers too long for their type
stay text, a time with more digits than microseconds stays text. What a word such as `NA` means is decided for the whole
file: it is a missing value in a column that is otherwise of numbers or times, and in columns of text only where the
same file uses it so, because there it may as well be Namibia.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from boucle.core.errors import Invalid
from boucle.core.frames import arrow_type

TYPES = ("int64", "float64", "bool", "date", "timestamp", "zoned")  # in order of preference; text is what is left
# Mean nothing but "missing" wherever they stand.
MISSING = ("\\N", "#N/A", "<NA>", "N/A", "n/a", "NULL", "null", "NaN", "nan")
# Mean it among numbers and times; elsewhere they may be words.
PERHAPS_MISSING = ("NA", "None", "none", "?", "-", ".")
USUAL = pa.array([*MISSING, *PERHAPS_MISSING])
TRUE, FALSE = ["true", "True", "TRUE"], ["false", "False", "FALSE"]
_TRUE, _FALSE = pa.array(TRUE), pa.array(FALSE)
_EXACT = 2**53  # the integers up to here are all float64
_PROBE = 32  # values
_SHORT = 64  # bytes; a column of longer text is prose, in which '?' is a remark


@dataclass(slots=True)
class Guess:
    """What has been seen of one column so far."""

    alive: tuple[str, ...] = TYPES
    seen: bool = False  # any value at all
    empty: bool = False  # any null
    longest: int = 0
    words: Counter[str] = field(default_factory=Counter)

    @property
    def type(self) -> str:
        if self.seen and self.alive:
            return "timestamp" if self.alive[0] == "zoned" else self.alive[0]
        return "string" if self.seen or self.words else "null"

    def look(self, text: pa.Array, missing: pa.Array = USUAL, *, own: bool = False) -> None:
        """Take in more values: a `string` array without nulls. `missing` are the words for missing values, which are
        the user's `own` or else only taken out where a value does not have a type."""
        lengths = np.diff(_offsets(text))
        if not len(text):
            return
        if not lengths.all():
            self.empty = True
            text = nulled(text, lengths == 0)
        if text.null_count == len(text):
            return
        if self.alive and not own:
            still, nan = _fitting(text, self.alive)
            if still and not nan:
                self.alive, self.seen = still, True
                return
        text, words = without_words(text, missing)
        self.words.update(words)
        self.longest = max(self.longest, int(lengths.max()))
        if text.null_count == len(text):
            return
        self.seen = True
        if self.alive:
            self.alive, nan = _fitting(pc.utf8_trim_whitespace(text), self.alive)
            self.empty |= nan

    def merge(self, other: Guess) -> None:
        """Take in what another has seen of the same column."""
        self.alive = tuple(t for t in self.alive if t in other.alive)
        self.seen |= other.seen
        self.empty |= other.empty
        self.longest = max(self.longest, other.longest)
        self.words.update(other.words)


def _fitting(text: pa.Array, alive: tuple[str, ...]) -> tuple[tuple[str, ...], bool]:
    """Which of the types all values have, and whether there was a NaN among them."""
    if "int64" in alive and (numbers := read(text, "int64")) is not None:
        low, high = pc.min_max(numbers).as_py().values()
        exact = low >= -_EXACT and high <= _EXACT
        return tuple(t for t in alive if t == "int64" or (t == "float64" and exact)), False
    if "float64" in alive and (numbers := read(text, "float64")) is not None:
        return ("float64",), numbers.null_count > text.null_count
    return tuple(t for t in alive if t not in ("int64", "float64") and read(text, t) is not None), False


@dataclass(frozen=True, slots=True)
class Plan:
    """How the text of one column becomes values."""

    name: str
    type: str  # as in a schema
    zoned: bool = False
    missing: tuple[str, ...] = ()
    nullable: bool = True

    def apply(self, text: pa.Array) -> pa.Array:
        """The values; raises `Invalid` naming the first that does not have the type."""
        mask = np.diff(_offsets(text)) == 0
        if self.type == "null":
            return pa.nulls(len(text))
        if mask.any():
            text = nulled(text, mask)
        if self.type == "string":
            return without_words(text, pa.array(self.missing, pa.string()))[0] if self.missing else text
        kind = "zoned" if self.zoned else self.type
        if self.missing:
            text, _ = without_words(text, pa.array(self.missing, pa.string()))
        values = read(text, kind)
        if values is None:
            values = read(pc.utf8_trim_whitespace(text), kind)
        if values is None:
            raise Invalid(
                f"column {self.name!r} holds {_first_unfit(text, kind)!r}, which is not of type {self.type}",
                expected=f"only values of type {self.type}, or missing ones",
                fix="give the column type string, or clean it; see the options types and nulls",
            )
        return values


def plans(names: Iterable[str], guesses: Sequence[Guess], given: Sequence[str] | None = None) -> list[Plan]:
    """Decide, once all values have been seen. `given` are the only words for missing values where the user said so."""
    if given is None:
        of_file = {word for g in guesses if g.seen and g.alive for word in g.words}
    out = []
    for name, guess in zip(names, guesses, strict=True):
        if given is not None:
            missing = tuple(given)
        elif guess.alive and guess.seen:
            missing = tuple(guess.words)
        else:
            sure = of_file | set(MISSING) | ({"?"} if guess.longest <= _SHORT else set())
            missing = tuple(w for w in guess.words if w in sure)
        nullable = guess.empty or any(w in missing for w in guess.words) or guess.type == "null"
        zoned = guess.seen and guess.alive[:1] == ("zoned",)
        out.append(Plan(name, guess.type, zoned, missing, nullable))
    return out


def read(text: pa.Array, kind: str) -> pa.Array | None:
    """The text as values of that type, or None when one of them would not come through unchanged."""
    if len(text) > 4 * _PROBE:
        # Arrow words an error for every value that does not fit; a few tell most columns apart at no cost.
        ends = pa.concat_arrays([text[:_PROBE], text[-_PROBE:]])
        if read(ends, kind) is None:
            return None
    try:
        if kind == "int64":
            numbers = text.cast(pa.int64())
            return numbers if _counts(text) else None
        if kind == "float64":
            return _floats(text)
        if kind == "bool":
            true = pc.is_in(text, value_set=_TRUE)
            known = pc.or_(pc.or_(true, pc.is_in(text, value_set=_FALSE)), pc.is_null(text))
            return pc.if_else(pc.is_null(text), None, true) if pc.all(known).as_py() else None
        if kind == "zoned":
            return text.cast(pa.timestamp("us", "UTC")).cast(pa.timestamp("us"))
        if kind == "string":
            return text
        return text.cast(arrow_type(kind))
    except pa.ArrowInvalid:
        return None


def _counts(text: pa.Array) -> bool:
    """Whether integers are written as one would write them: neither 007, nor +7, nor -0, nor 0x7."""
    first, second, at = _beginnings(text)
    odd = (first == _ZERO) | (first == _PLUS) | ((first == _MINUS) & (second == _ZERO))
    return not _any_valid(text, at[odd])


def _floats(text: pa.Array) -> pa.Array | None:
    numbers = text.cast(pa.float64())
    first, second, at = _beginnings(text)
    padded = (first == _ZERO) & (second >= _ZERO) & (second <= _NINE)
    if _any_valid(text, at[padded]):
        return None
    signed = at[(first == _PLUS) | ((first == _MINUS) & (second == _ZERO))]
    if len(signed) and pc.any(pc.match_substring_regex(text.take(signed), r"^([-+]0[0-9]|\+[0-9]+$)")).as_py():
        return None
    large = pc.greater_equal(pc.abs(numbers), float(_EXACT))
    if pc.any(large).as_py():
        whole = text.filter(large)
        whole = whole.filter(pc.match_substring_regex(whole, r"^[-+]?[0-9]+$"))
        if any(int(float(w)) != int(w) for w in whole.to_pylist() if w is not None):
            return None
    return without_nan(numbers)


def without_nan(numbers: pa.Array) -> pa.Array:
    """Floats with null for NaN."""
    nan = pc.is_nan(numbers)
    return pc.if_else(nan, None, numbers) if pc.any(nan).as_py() else numbers


_ZERO, _NINE, _PLUS, _MINUS = (ord(c) for c in "09+-")


def _beginnings(text: pa.Array) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """The first and second byte of every value that has two, and where they stand in the array."""
    offsets = _offsets(text)
    at = np.flatnonzero(np.diff(offsets) > 1)
    data = text.buffers()[2]
    raw = np.frombuffer(data, np.uint8) if data is not None else np.zeros(0, np.uint8)
    starts = offsets[at]
    return raw[starts], raw[starts + 1], at


def _any_valid(text: pa.Array, at: np.ndarray[Any, Any]) -> bool:
    return bool(len(at)) and (not text.null_count or bool(np.asarray(text.is_valid())[at].any()))


def without_words(text: pa.Array, words: pa.Array) -> tuple[pa.Array, Counter[str]]:
    """The text with these words made null, and how often each stood there."""
    mask = pc.is_in(text, value_set=words)
    if not pc.any(mask).as_py():
        return text, Counter()
    found = text.filter(mask).value_counts()
    counts = Counter(dict(zip(found.field(0).to_pylist(), found.field(1).to_pylist(), strict=True)))
    return nulled(text, np.asarray(pc.or_(mask, pc.is_null(text)))), counts


def nulled(text: pa.Array, mask: np.ndarray[Any, Any]) -> pa.Array:
    """The same array with null where the mask is true; shares its bytes."""
    validity = pa.array(~mask).buffers()[1]
    _, offsets, data = text.buffers()
    shift = text.offset
    if shift:
        offsets = offsets.slice(shift * 4)
    return pa.StringArray.from_buffers(len(text), offsets, data, validity)


def _offsets(text: pa.Array) -> np.ndarray[Any, Any]:
    return np.frombuffer(text.buffers()[1], np.int32)[text.offset : text.offset + len(text) + 1]


def _first_unfit(text: pa.Array, kind: str) -> str:
    for value in pc.unique(text.drop_null()):
        if read(pa.array([value.as_py().strip()], pa.string()), kind) is None:
            return str(value.as_py())
    return ""


def report(names: Sequence[str], guesses: Sequence[Guess], decided: Sequence[Plan]) -> dict[str, Any]:
    """Which words were taken as missing, and which that look like it were kept as text, by column."""
    nulls: dict[str, list[str]] = {}
    kept: dict[str, list[str]] = {}
    for name, guess, plan in zip(names, guesses, decided, strict=True):
        for word in guess.words:
            (nulls if word in plan.missing else kept).setdefault(word, []).append(name)
    return {k: v for k, v in (("nulls", nulls), ("kept", kept)) if v}
