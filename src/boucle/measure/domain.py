"""Whether texts or vectors come from where the reference came from: told by a classifier that learns to tell them apart.

Two samples differ when something can tell which of the two a row is from (Lopez-Paz and Oquab 2017; Rabanser, Gunnemann and
Lipton 2019). The classifier here is the plug-in witness of the maximum mean discrepancy (Gretton et al. 2012): features are
averaged over the reference and over recent traffic, and the difference of the averages, per variance, weighs the features of
a row. It is learned anew after every `CHUNK` rows from the rows before, so each row is judged by a classifier that has not
seen it (Podkopaev and Ramdas 2023; Pandeva et al. 2022). What it judges is a bet (Shekhar and Ramdas 2023): the wealth is
multiplied by 1 + bet (u - 1/2 - e), where u is the share of unseen reference rows that look less like traffic than the row
does. While nothing has changed u is 1/2 on average, up to an e that covers how far a finite half of the reference can lie
off: that average is one of values that spread no more than a uniform does, so e^2 = log(1/d) / (6 n) but for a chance of d,
and the wealth is an e-process. Halves of the reference: one to learn from, the other only to compare with.

Features: of texts hashed words (Weinberger et al. 2009), of a vector its coordinates (projected at random when there are many,
Johnson and Lindenstrauss 1984) and random Fourier features of them (Rahimi and Recht 2007), which see more than the mean.
"""

from __future__ import annotations

import base64
import itertools
import math
import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from boucle.measure.evidence import CHUNK

Floats = NDArray[np.float32]

KEPT = 2000  # rows of the reference that are kept, as features
WIDTH = 1024  # places that words are hashed to
MOST = 128  # coordinates of a vector that is not projected
FOURIER = 128
DELTA = (
    1e-5  # chance that the reference half is further off than is allowed for, over all classifiers that are ever made
)
MEMORY = 7  # chunks that the classifier remembers, about
_STEP = 25  # rows between two sizes of the bet
_FADE = 0.7  # what is left of the memory of the bet after a step
_BOLDEST = 1.5  # bet; with 1 / (1/2 + e) the wealth could be lost at once
_GAPS = {i: " " for i in range(128) if not (chr(i).isalnum() or chr(i) == "_")}
_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]|\w+")  # scripts without spaces: each character


@dataclass(frozen=True, eq=False)
class Domain:
    """The kept part of a reference column. `rows` are features of shape (rows, features), in random order; `centre` and
    `spread` scale the coordinates of vectors, `length` is how many these have (0: texts)."""

    rows: Floats
    length: int = 0
    centre: float = 0.0
    spread: float = 1.0

    @classmethod
    def of(cls, array: pa.Array, seed: int = 0) -> Domain | None:
        """Of a column of texts or lists of numbers; None where fewer than ten rows have a value."""
        array = array.drop_null()
        random = np.random.default_rng(seed)
        if len(array) > KEPT:
            array = array.take(pa.array(random.choice(len(array), KEPT, replace=False)))
        if pa.types.is_string(array.type):
            rows = _words(array)
            return cls(rows[random.permutation(len(rows))]) if len(rows) >= 10 else None
        lengths = pc.list_value_length(array)
        length = int(pc.mode(lengths)[0]["mode"].as_py()) if len(array) else 0
        vectors = _matrix(array, length)
        if len(vectors) < 10 or not length:
            return None
        draft = cls(np.zeros((0, 0), np.float32), length)
        flat = draft._projected(vectors)
        scaled = cls(draft.rows, length, float(flat.mean()), float(flat.std()) or 1.0)
        rows = scaled._of_vectors(vectors)
        return cls(rows[random.permutation(len(rows))], length, scaled.centre, scaled.spread)

    def present(self, array: pa.Array) -> NDArray[np.bool_]:
        """Which rows have a text, or a vector of the right length with finite numbers; shape (rows,)."""
        if not self.length:
            return np.asarray(array.is_valid())
        return _usable(array, self.length)

    def features(self, array: pa.Array) -> Floats:
        """Features of the rows that are present; shape (present rows, features)."""
        if not self.length:
            return _words(array.drop_null())
        return self._of_vectors(_matrix(array, self.length))

    def _projected(self, vectors: Floats) -> Floats:
        if self.length <= MOST:
            return vectors
        return np.asarray(vectors @ _projection(self.length), np.float32)

    def _of_vectors(self, vectors: Floats) -> Floats:
        plain = (self._projected(vectors) - self.centre) / self.spread
        ways, phases = _ways(plain.shape[1])
        return np.concatenate([plain, np.cos(plain @ ways + phases)], axis=1, dtype=np.float32)

    @cached_property
    def learned(self) -> tuple[Floats, Floats]:
        """Mean and variance of the half that is learned from; the variances are kept from being too small."""
        half = self.rows[: len(self.rows) // 2]
        variance = half.var(axis=0)
        return half.mean(axis=0), variance + max(float(variance.mean()), 1e-9)

    @cached_property
    def compared(self) -> Floats:
        return self.rows[len(self.rows) // 2 :]

    @cached_property
    def _filled(self) -> tuple[NDArray[np.intp], NDArray[np.intp], Floats]:
        rows, places = np.nonzero(self.compared)
        return rows, places, self.compared[rows, places]

    def compared_by(self, weights: Floats) -> Floats:
        """The sums of the weighed features of the rows that are compared with; most features of texts are 0."""
        if self.length:
            return self.compared @ weights
        rows, places, values = self._filled
        return np.bincount(rows, values * weights[places], len(self.compared)).astype(np.float32)

    def to_json(self) -> dict[str, Any]:
        packed = zlib.compress(self.rows.astype(np.float16).tobytes(), 1)
        return {
            "rows": base64.b64encode(packed).decode(), "features": self.rows.shape[1], "length": self.length,
            "centre": self.centre, "spread": self.spread,
        }  # fmt: skip

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Domain:
        flat = np.frombuffer(zlib.decompress(base64.b64decode(data["rows"])), np.float16).astype(np.float32)
        return cls(flat.reshape(-1, data["features"]), data["length"], data["centre"], data["spread"])


@dataclass(frozen=True, slots=True)
class Told:
    """How well traffic was told from the reference: over so many rows, the sum of the shares of reference rows that look
    less like traffic (their mean is the area under the ROC curve), and the logarithm of the wealth won. Adds up."""

    rows: int = 0
    above: float = 0.0
    log_e: float = 0.0

    def __add__(self, other: Told) -> Told:
        return Told(self.rows + other.rows, self.above + other.above, self.log_e + other.log_e)

    @property
    def auc(self) -> float:
        """1/2: cannot be told apart; 1: always."""
        return self.above / self.rows if self.rows else 0.5

    @property
    def effect(self) -> float:
        """On the scale of the Jensen-Shannon distance: for a normal shifted a little, three quarters of 2 AUC - 1."""
        return max(0.0, 0.75 * (2 * self.auc - 1))


class Learner:
    """The classifier of one column, and the bets on it. Give it rows in the order they came; in which portions does not
    matter. `to_json` keeps it."""

    __slots__ = ("_compared", "_gain", "_gathered", "_mean", "_size", "_step", "_sum", "_version", "domain", "seen")

    def __init__(self, domain: Domain) -> None:
        self.domain = domain
        self.seen = 0
        self._version = 1
        self._mean = np.zeros(domain.rows.shape[1])
        self._sum = np.zeros(domain.rows.shape[1])
        self._gain, self._size = 0.0, 0.05  # fading averages of a row's gain and of its square
        self._step = np.zeros(2)
        self._gathered: Floats | None = None
        self._compared: Floats | None = None

    def take(self, features: Floats) -> Told:
        """Judge rows of shape (rows, features), then learn from them."""
        told, at = Told(), 0
        while at < len(features):
            room = _STEP - self.seen % _STEP
            part = features[at : at + room]
            at += len(part)
            told += self._bet(part)
        return told

    def _bet(self, part: Floats) -> Told:
        ordered = self._ordered()
        scores = part @ self._gathered if self._gathered is not None else np.zeros(len(part), np.float32)
        ranks = np.searchsorted(ordered, scores, "left") + np.searchsorted(ordered, scores, "right")
        above = ranks / (2 * len(ordered))
        room = math.sqrt(math.log(self._version * (self._version + 1) / DELTA) / (6 * len(ordered)))
        gains = above - 0.5 - room
        bet = min(max(0.0, self._gain / self._size), _BOLDEST, 0.9 / (0.5 + room))
        told = Told(len(part), float(above.sum()), float(np.log1p(bet * gains).sum()) if bet else 0.0)
        self._step += (gains.sum(), (gains**2).sum())
        self._sum += part.sum(axis=0)
        self.seen += len(part)
        if self.seen % _STEP == 0:
            self._gain = _FADE * self._gain + (1 - _FADE) * self._step[0] / _STEP
            self._size = _FADE * self._size + (1 - _FADE) * self._step[1] / _STEP
            self._step[:] = 0
        if self.seen % CHUNK == 0:
            weight = max(1 / self._version, 1 / MEMORY)
            self._mean = (1 - weight) * self._mean + weight * self._sum / CHUNK
            self._sum[:] = 0
            self._version += 1
            self._gathered = self._compared = None
        return told

    def _ordered(self) -> Floats:
        """The scores of the reference rows that are compared with, sorted; made once per classifier."""
        if self._compared is None:
            mean, variance = self.domain.learned
            if self._version > 1:
                self._gathered = ((self._mean - mean) / variance).astype(np.float32)
                self._compared = np.sort(self.domain.compared_by(self._gathered))
            else:
                self._compared = np.zeros(len(self.domain.compared), np.float32)
        return self._compared

    def to_json(self) -> dict[str, Any]:
        return {
            "seen": self.seen, "version": self._version, "mean": self._mean.tolist(), "sum": self._sum.tolist(),
            "gain": self._gain, "size": self._size, "step": self._step.tolist(),
        }  # fmt: skip

    @classmethod
    def from_json(cls, domain: Domain, data: Mapping[str, Any]) -> Learner:
        made = cls(domain)
        made.seen, made._version, made._gain, made._size = data["seen"], data["version"], data["gain"], data["size"]
        made._mean, made._sum, made._step = (np.array(data[k], np.float64) for k in ("mean", "sum", "step"))
        return made


@lru_cache(maxsize=1 << 16)
def _place(word: str) -> int:
    return zlib.crc32(word.encode("utf-8", "replace")) % WIDTH


def _split(text: str) -> list[str]:
    # What the pattern finds in plain ASCII, several times faster.
    return text.translate(_GAPS).split() if text.isascii() else _WORD.findall(text)


def _words(array: pa.Array) -> Floats:
    """Counts of hashed words, on a logarithmic scale, of length 1 per row."""
    found = [_split(text) for text in pc.utf8_lower(array).to_pylist()]
    places = np.fromiter(map(_place, itertools.chain.from_iterable(found)), np.int64)
    rows = np.repeat(np.arange(len(found)), np.fromiter(map(len, found), np.int64, len(found)))
    cells, counts = np.unique(rows * WIDTH + places, return_counts=True)
    weights, at = np.log1p(counts), cells // WIDTH
    norms = np.sqrt(np.bincount(at, weights**2, len(found)))
    out = np.zeros(len(found) * WIDTH, np.float32)
    out[cells] = weights / norms[at]
    return out.reshape(len(found), WIDTH)


def _usable(array: pa.Array, length: int) -> NDArray[np.bool_]:
    right = pc.fill_null(pc.equal(pc.list_value_length(array), length), False)
    usable = np.array(right)
    whole = _flat(array.filter(right), length)
    usable[usable] = np.isfinite(whole).all(axis=1)
    return usable


def _matrix(array: pa.Array, length: int) -> Floats:
    whole = _flat(array.filter(pc.fill_null(pc.equal(pc.list_value_length(array), length), False)), length)
    return whole[np.isfinite(whole).all(axis=1)]


def _flat(array: pa.Array, length: int) -> Floats:
    values = pc.list_flatten(array).cast(pa.float32(), safe=False)
    return np.asarray(values.to_numpy(zero_copy_only=False), np.float32).reshape(len(array), length)


@lru_cache(maxsize=8)
def _projection(length: int) -> Floats:
    random = np.random.default_rng(length)
    return np.asarray(random.normal(size=(length, MOST)) / math.sqrt(MOST), np.float32)


@lru_cache(maxsize=8)
def _ways(length: int) -> tuple[Floats, Floats]:
    """Frequencies and phases of a Gaussian kernel as wide as two rows are usually apart."""
    random = np.random.default_rng(length + 1)
    ways = random.normal(size=(length, FOURIER)) / math.sqrt(2 * length)
    return np.asarray(ways, np.float32), np.asarray(random.uniform(0, 2 * math.pi, FOURIER), np.float32)
