# ruff: noqa: S608  the names in statements come from the record classes, values are always bound
"""`core.where` expressions as SQL that means the same and uses the indexes.

Every condition is true or false, never NULL, so that NOT means what it means in Python. Values are bound, never written
into the text, so one shape of question is one prepared statement.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

from boucle.core.errors import Invalid
from boucle.core.records import Record
from boucle.core.where import And, Compare, Not, Or, Where, check_path, plain, text_of, value_at
from boucle.plugins.stores.sqlite.tables import Table, sparse

NameNumber = Callable[[tuple[str, str, str]], int | None]  # (kind, field, name) -> number in `attribute_names`

# From here on reading the order's own index is cheaper than fetching and sorting all that match.
FEW = 100
COUNT = "count(*)"


class Sql(NamedTuple):
    """A piece of a statement and the values for its question marks."""

    text: str
    values: tuple[Any, ...] = ()


class Term(NamedTuple):
    """A value in SQL: what type it has, whether it can be NULL, and where it is indexed."""

    sql: Sql
    type: Literal["text", "number", "any"]
    optional: bool
    sparse: bool = False  # its index leaves out ''
    indexed: bool = False
    attribute: int | None = None  # number of the attribute, when it is one


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked of one table: the conditions that must all hold, the order, and the record it goes on after.

    `driver` is the attribute that the statement reads in order of its value, as `a`.
    """

    table: Table[Any]
    name_number: NameNumber
    conditions: tuple[Where, ...]
    order: tuple[str, ...] = ()
    after: Record | None = None
    driver: int | None = None

    def term(self, path: str) -> Term:
        known: Term | None = self.table.terms.get(path)
        if known is not None:
            return known
        head, rest = check_path(self.table.kind, path)
        if not rest:
            term = self.table.terms[path] = _scalar(self.table, head)
            return term
        if not self.table.columns[head].searchable:
            return Term(Sql(f'json_value(r."{head}", ?)', (rest,)), "any", True)
        number = self.name_number((self.table.kind.KIND, head, rest))
        if number is None:
            return Term(Sql("NULL"), "any", True)
        if number == self.driver:
            return _driving(Term(Sql(""), "any", True, attribute=number))
        # Asked of `a` where there is one, so that a row that does not match is never looked up.
        record = f"r.{self.table.number}" if self.driver is None else "a.record"
        sql = Sql(f"(SELECT value FROM attributes WHERE record = {record} AND name = ?)", (number,))
        return Term(sql, "any", True, attribute=number)

    def condition(self, where: Where) -> Sql:
        match where:
            case And(parts):
                return joined(" AND ", [self.condition(part) for part in parts], "1")
            case Or(parts):
                return joined(" OR ", [self.condition(part) for part in parts], "0")
            case Not(part):
                inner = self.condition(part)
                return Sql(f"NOT ({inner.text})", inner.values)
            case Compare(path, op, wanted):
                return compare(self.term(path), op, wanted)

    def ordering(self) -> Sql:
        parts: list[Sql] = []
        for path in self.order:
            term = self.term(path.removeprefix("-"))
            if term.sql.text == "NULL":
                continue
            if term.optional:
                parts.append(Sql(f"{term.sql.text} IS NULL", term.sql.values))
            parts.append(Sql(term.sql.text + (" DESC" if path.startswith("-") else ""), term.sql.values))
        parts.append(Sql("r.key"))
        return Sql(", ".join(p.text for p in parts), tuple(v for p in parts for v in p.values))

    def past(self, after: Record) -> Sql:
        """Whether a row comes after this record in the order."""
        result = Sql("r.key > ?", (after.key,))
        for path in reversed(self.order):
            term, value = self.term(path.removeprefix("-")), plain(value_at(after, path.removeprefix("-")))
            text, values = term.sql.text, term.sql.values
            if value is None:
                missing = Sql(f"{text} IS NULL", values) if term.optional else Sql("0")
                result = joined(" AND ", [missing, result], "1")
                continue
            sign = "<" if path.startswith("-") else ">"
            further = [Sql(f"{text} {sign} ?", (*values, value))]
            same = joined(" AND ", [Sql(f"{text} = ?", (*values, value)), result], "1")
            if term.optional:
                further.append(Sql(f"{text} IS NULL", values))
            result = joined(" OR ", [*further, same], "0")
            if term.optional:
                result = Sql(f"ifnull({result.text}, 0)", result.values)
            else:  # the same again, in a form that an index understands
                result = joined(" AND ", [Sql(f"{text} {sign}= ?", (*values, value)), result], "1")
        return result


def _scalar(table: Table[Any], name: str) -> Term:
    if name == "key":
        return Term(Sql("r.key"), "text", False, indexed=True)
    column = table.columns[name]
    type_: Literal["text", "number"] = "text" if column.kept == "text" else "number"
    return Term(Sql(f'r."{name}"'), type_, column.optional, sparse(column), column.searchable)


def joined(word: str, parts: Sequence[Sql], empty: str) -> Sql:
    """The parts in parentheses with AND or OR between them."""
    if not parts:
        return Sql(empty)
    return Sql("(" + word.join(p.text for p in parts) + ")", tuple(v for p in parts for v in p.values))


def conjuncts(where: Where | None) -> tuple[Where, ...]:
    """What must all be true."""
    if where is None:
        return ()
    if not isinstance(where, And):
        return (where,)
    # Equality first: it selects the fewest rows, and the first index found is the one that is used.
    parts = [c for part in where.parts for c in conjuncts(part)]
    return tuple(sorted(parts, key=lambda c: not (isinstance(c, Compare) and c.op == "=")))


def compare(term: Term, op: str, wanted: Any) -> Sql:
    """One comparison."""
    text, values = term.sql.text, term.sql.values
    if op == "in":
        return _within(term, [plain(w) for w in wanted])
    if op in ("contains", "starts"):
        return _looks_like(term, op, text_of(op, wanted))
    if op not in ("=", "!=", "<", "<=", ">", ">="):
        raise Invalid(f"{op!r} is not a comparison", expected="one of = != < <= > >= in contains starts")
    wanted = plain(wanted)
    if op in ("=", "!="):
        if wanted is None:
            held = Sql(f"{text} IS NULL", values) if term.optional else Sql("0")
        elif not _comparable(term, wanted):
            held = Sql("0")
        elif term.sparse and wanted and op == "=":
            held = Sql(f"({text} = ? AND {text} <> '')", (*values, wanted, *values))
        else:
            held = Sql(f"{text} {'IS' if term.optional else '='} ?", (*values, wanted))
        return held if op == "=" else Sql(f"NOT ({held.text})", held.values)
    if wanted is None or not _comparable(term, wanted):
        return Sql("0")
    held = Sql(f"{text} {op} ?", (*values, wanted))
    # In SQLite every text is greater than every number.
    if term.type == "any" and isinstance(wanted, str) and op[0] == "<":
        held = Sql(f"({text} >= '' AND {held.text})", (*values, *held.values))
    elif term.type == "any" and not isinstance(wanted, str) and op[0] == ">":
        held = Sql(f"({held.text} AND {text} < '')", (*held.values, *values))
    return _never_null(term, held)


def _within(term: Term, wanted: list[Any]) -> Sql:
    text, values = term.sql.text, term.sql.values
    usable = [w for w in wanted if w is not None and _comparable(term, w)]
    parts = []
    if usable:
        held = Sql(f"{text} IN (?{', ?' * (len(usable) - 1)})", (*values, *usable))
        if term.sparse and "" not in usable:
            held = Sql(f"({held.text} AND {text} <> '')", held.values)
        parts.append(_never_null(term, held))
    if None in wanted and term.optional:
        parts.append(Sql(f"{text} IS NULL", values))
    return joined(" OR ", parts, "0")


def _looks_like(term: Term, op: str, sought: str) -> Sql:
    text, values = term.sql.text, term.sql.values
    if term.type == "number":
        return Sql("0")
    if op == "contains":
        folded = "".join(c.lower() if c.isascii() else c for c in sought)
        parts = [Sql(f"instr(lower({text}), ?) > 0", (*values, folded))]
    else:
        parts = [Sql(f"{text} >= ?", (*values, sought))]
        if (end := past_prefix(sought)) is not None:
            parts.append(Sql(f"{text} < ?", (*values, end)))
        if term.sparse and sought:
            parts.append(Sql(f"{text} <> ''", values))
    if term.type == "any":
        parts.insert(0, Sql(f"typeof({text}) = 'text'", values))
    return _never_null(term, joined(" AND ", parts, "1"))


def past_prefix(prefix: str) -> str | None:
    """The least text after all that begin with the prefix, by code point; None when there is no such text."""
    while prefix and prefix[-1] == "\U0010ffff":
        prefix = prefix[:-1]
    if not prefix:
        return None
    last = ord(prefix[-1]) + 1
    return prefix[:-1] + chr(0xE000 if 0xD800 <= last < 0xE000 else last)  # surrogates are not text


def _comparable(term: Term, wanted: Any) -> bool:
    # A typed column would turn a value of the other type into its own, so that '5' would equal 5.
    return term.type == "any" or (term.type == "text") == isinstance(wanted, str)


def _never_null(term: Term, held: Sql) -> Sql:
    return Sql(f"ifnull({held.text}, 0)", held.values) if term.optional else held


def plan(question: Question, what: str, limited: bool, few: Callable[[Sql], bool]) -> list[Sql]:
    """The SELECT statements that read `what`, to be run one after the other until there is enough.

    Without a limit the first indexed attribute drives. With one, conditions that select few rows drive if there are any
    (`few` asks the database about one of them); otherwise the index of the order does, and reading stops at the limit.
    """
    first = question.order[0].removeprefix("-") if question.order else "key"
    ordering = question.term(first)
    walks = limited and (ordering.attribute is not None or ordering.indexed)
    driver: int | None = None
    weak: set[int] = set()  # conditions whose index selects too many rows to be of use
    strong = False
    for i, condition in enumerate(question.conditions):
        if not isinstance(condition, Compare) or not _found_by_index(condition):
            continue
        term = question.term(condition.path)
        if term.attribute is not None:
            if driver is None and not (walks and term.attribute == ordering.attribute):
                held = compare(_driving(term), condition.op, condition.value)
                text = f"SELECT 1 FROM attributes a WHERE a.name = ? AND {held.text} LIMIT 1 OFFSET {FEW}"
                if not walks or few(Sql(text, (term.attribute, *held.values))):
                    driver = term.attribute
        elif walks and term.indexed and condition.path != first:
            held = compare(term, condition.op, condition.value)
            if few(Sql(f'SELECT 1 FROM "{question.table.name}" r WHERE {held.text} LIMIT 1 OFFSET {FEW}', held.values)):
                strong = True
            else:
                weak.add(i)
    if walks and ordering.attribute is not None and driver is None and not strong:
        return _walk(question, ordering.attribute, what, weak)
    return [_select(replace(question, driver=driver), what, weak)]


def _found_by_index(condition: Compare) -> bool:
    """Whether all that meets a comparison has a value, and lies together in the order of values."""
    match condition.op:
        case "=":
            return plain(condition.value) is not None
        case "in":
            return all(plain(w) is not None for w in condition.value)
        case op:
            return op in ("<", "<=", ">", ">=", "starts")


def _driving(term: Term) -> Term:
    return term._replace(sql=Sql("a.value"), optional=False)


def _walk(question: Question, attribute: int, what: str, weak: set[int]) -> list[Sql]:
    """First the rows that have the attribute, in its order; then those that have not, which come last."""
    first, after = question.order[0].removeprefix("-"), question.after
    among_the_last = after is not None and plain(value_at(after, first)) is None
    reads = [] if among_the_last else [_select(replace(question, driver=attribute), what, weak)]
    if not any(isinstance(c, Compare) and c.path == first and _found_by_index(c) for c in question.conditions):
        rest = replace(
            question,
            conditions=(*question.conditions, Compare(first, "=", None)),
            order=question.order[1:],
            after=after if among_the_last else None,
        )
        reads.append(_select(rest, what, weak))
    return reads


def _select(question: Question, what: str, weak: set[int]) -> Sql:
    source = f'"{question.table.name}" r'
    parts: list[Sql] = []
    if question.driver is not None:
        source = f"attributes a CROSS JOIN {source} ON r.{question.table.number} = a.record"
        parts.append(Sql("a.name = ?", (question.driver,)))
    for i, condition in enumerate(question.conditions):
        sql = question.condition(condition)
        parts.append(Sql(f"+({sql.text})", sql.values) if i in weak else sql)
    if question.after is not None:
        parts.append(question.past(question.after))
    text = f"SELECT {what} FROM {source}"
    if parts:
        text += " WHERE " + " AND ".join(p.text for p in parts)
    values = tuple(v for p in parts for v in p.values)
    if what == COUNT:
        return Sql(text, values)
    ordering = question.ordering()
    return Sql(f"{text} ORDER BY {ordering.text}", (*values, *ordering.values))
