"""The shape of records whose values are all text, perhaps nested: found over all of them, then filled with values.

What is text in one record and has parts in another has parts in all; what occurs once in one and several times in another
is a list in all. The type of each text is guessed as for a column of a CSV file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from boucle.core.errors import Invalid, NotFound
from boucle.core.frames import arrow_type, type_name
from boucle.core.guess import Guess, Plan, plans

_HELD = 8192  # texts looked at at once
_COLUMNS = 20_000
TEXT = "text"


@dataclass(slots=True)
class Shape:
    """One place in the records, and all below it."""

    path: str = ""
    count: int = 0  # values
    listed: bool = False
    fields: dict[str, Shape] = field(default_factory=dict)
    guess: Guess = field(default_factory=Guess)
    plan: Plan | None = None
    _held: list[str] = field(default_factory=list)
    _total: list[int] = field(default_factory=lambda: [0])  # places in all; one list for all of them

    @classmethod
    def of_records(cls) -> Shape:
        """A new one, for whole records."""
        return cls()

    def look(self, value: Any) -> None:
        """Take in one more value: text, a mapping, or a list of such."""
        self.count += 1
        if isinstance(value, list):
            self.listed = True
            for part in value:
                self._one(part)
        else:
            self._one(value)

    def _one(self, value: Any) -> None:
        if isinstance(value, Mapping):
            for name, part in value.items():
                self._field(name).look(part)
        elif self.fields:
            if value:
                self._field(TEXT).look(value)
        else:
            self._held.append(value)
            if len(self._held) >= _HELD:
                self._settle()

    def _field(self, name: str) -> Shape:
        if not self.fields and (self._held or self.guess.seen or self.guess.words):
            # What was text until now is the text beside the parts.
            moved = Shape(f"{self.path}.{TEXT}" if self.path else TEXT, _total=self._total)
            moved.guess, moved._held = self.guess, [v for v in self._held if v]
            self.guess, self._held = Guess(), []
            if moved.guess.seen or moved.guess.words or moved._held:
                self.fields[TEXT] = moved
        found = self.fields.get(name)
        if found is None:
            self._total[0] += 1
            if self._total[0] > _COLUMNS:
                raise Invalid(f"the records have more than {_COLUMNS} different parts", expected="records alike")
            found = self.fields[name] = Shape(f"{self.path}.{name}" if self.path else name, _total=self._total)
        return found

    def _settle(self) -> None:
        if self._held:
            self.guess.look(pa.array(self._held, pa.string()))
            self._held = []

    def _leaves(self) -> list[Shape]:
        return [leaf for f in self.fields.values() for leaf in f._leaves()] if self.fields else [self]

    def columns(self, *, flat: bool, types: Mapping[str, str]) -> list[ShapeColumn]:
        """Decide types, and give one column per part of a record; with `flat` one per text, where it occurs once."""
        leaves = self._leaves()
        for leaf in leaves:
            leaf._settle()
        decided = plans([leaf.path for leaf in leaves], [leaf.guess for leaf in leaves])
        for leaf, plan in zip(leaves, decided, strict=True):
            leaf.plan = plan
        for name, kind in types.items():
            chosen = next((leaf for leaf in leaves if leaf.path == name), None)
            if chosen is None:
                raise NotFound.named("column", name, [leaf.path for leaf in leaves], fix="see the option types")
            chosen.plan = Plan(name, kind)
        out: list[ShapeColumn] = []
        self._add_columns((), self.count, flat, out)
        return out

    def _add_columns(self, within: tuple[str, ...], rows: int, flat: bool, out: list[ShapeColumn]) -> None:
        for name, shape in self.fields.items():
            where = (*within, name)
            if flat and shape.fields and not shape.listed:
                shape._add_columns(where, rows, flat, out)
            else:
                out.append(ShapeColumn(".".join(where), where, shape, shape._nullable(rows)))

    def _nullable(self, rows: int) -> bool:
        if self.count < rows:
            return True
        return not self.listed and not self.fields and self.plan is not None and self.plan.nullable

    def arrow(self) -> pa.DataType:
        """The Arrow type of its values."""
        if self.fields:
            inner = pa.struct([pa.field(n, f.arrow()) for n, f in self.fields.items()])
        else:
            assert self.plan is not None
            inner = arrow_type(self.plan.type)
        return pa.list_(inner) if self.listed else inner

    def array(self, values: Sequence[Any]) -> pa.Array:
        """Values as an array; None where there is none."""
        if not self.listed:
            return self._plain(values)
        lists = [[] if v is None else v if isinstance(v, list) else [v] for v in values]
        offsets = np.zeros(len(lists) + 1, np.int32)
        np.cumsum([len(v) for v in lists], out=offsets[1:])
        inner = self._plain([part for v in lists for part in v])
        mask = pa.array([v is None for v in values], pa.bool_())
        return pa.ListArray.from_arrays(pa.array(offsets), inner, mask=mask)

    def _plain(self, values: Sequence[Any]) -> pa.Array:
        if not self.fields:
            assert self.plan is not None
            text = pa.array([v or "" for v in values], pa.string())
            return self.plan.apply(text).cast(arrow_type(self.plan.type))
        mask = pa.array([v is None for v in values], pa.bool_())
        parts = [_mapping(v) for v in values]
        arrays = [f.array([p.get(n) for p in parts]) for n, f in self.fields.items()]
        fields = [pa.field(n, a.type) for n, a in zip(self.fields, arrays, strict=True)]
        return pa.StructArray.from_arrays(arrays, fields=fields, mask=mask)


def _mapping(value: Any) -> Mapping[str, Any]:
    if isinstance(value, Mapping):
        return value
    return {TEXT: value} if value else {}


@dataclass(frozen=True, slots=True)
class ShapeColumn:
    """One column of the records."""

    name: str
    where: tuple[str, ...]
    shape: Shape
    nullable: bool

    @property
    def type(self) -> str:
        return type_name(self.shape.arrow())

    def array(self, rows: Sequence[Mapping[str, Any]]) -> pa.Array:
        """Its values in these rows."""
        values: list[Any] = list(rows)
        for name in self.where:
            values = [_mapping(v).get(name) if v is not None else None for v in values]
        return self.shape.array(values)
