"""Validation: checks run on a dataset version, and kept as verdicts; and the checks that a profile suggests."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from boucle.core.errors import Invalid
from boucle.core.records import Dataset, Edge, Event, Verdict
from boucle.core.refs import Ref, new_id
from boucle.core.schema import INTEGERS
from boucle.core.where import field
from boucle.ledger import datasets, recording
from boucle.measure.quality import ColumnProfile, Profile
from boucle.ports.lookup import lookup

Checks = Mapping[str, Any] | Iterable[Mapping[str, Any]]

_LOOKED_BACK = 1000  # failing verdicts
_FEW = 20  # distinct values of a column that is taken for categories


def validate(ws: recording.Ledger, ref: Ref | str, checks: Checks) -> list[Verdict]:
    """Run checks on a dataset version and keep one verdict for each.

    `checks` is a mapping of check -> options (or a list of options, to run one more than once), or a list of mappings
    with the check's name under `check` beside its options, as `expectations` gives them. Raises `NotFound` for an
    unknown check and `Invalid` for bad options, before any verdict is kept; data that is not as it should be is a
    verdict, not an error, and the event `data.failed`. When the same check of the same column passes again, on this or a later
    version, that is `data.passed`.

        validate(ws, "tx@latest", {"required": {"columns": ["id"]}, "unique": {"column": "id"}})
    """
    dataset = datasets.resolve(ws, ref)
    frame = datasets.load(ws, dataset.ref)
    todo = [(lookup("check", name)(), options) for name, options in _flat(checks)]
    verdicts = []
    for check, options in todo:
        finding = check.run(frame, options)
        verdicts.append(
            Verdict(
                id=new_id(),
                subject=str(dataset.ref),
                check=check.name,
                status=finding.status,
                summary=finding.summary,
                score=finding.score,
                threshold=finding.threshold,
                evidence={"options": dict(options), "digest": dataset.digest, **finding.evidence},
                run=recording.current_run(),
                created=ws.now(),
                actor=ws.actor,
            )
        )
    _keep(ws, dataset, verdicts)
    return verdicts


def _flat(checks: Checks) -> list[tuple[str, Mapping[str, Any]]]:
    if isinstance(checks, Mapping):
        pairs = [(n, o) for n, given in checks.items() for o in (given if isinstance(given, list | tuple) else [given])]
    else:
        pairs = []
        for entry in checks:
            if not isinstance(entry, Mapping) or "check" not in entry:
                raise Invalid(
                    f"{entry!r} does not name a check", expected='a mapping such as {"check": "rows", "least": 1}'
                )
            pairs.append((entry["check"], {k: v for k, v in entry.items() if k != "check"}))
    for name, options in pairs:
        if options is not None and not isinstance(options, Mapping):
            raise Invalid(f"the options of check {name!r} are {options!r}", expected="a mapping")
    if not pairs:
        raise Invalid(
            "no checks were given", expected="at least one", fix="`expectations` suggests some from a profile"
        )
    return [(name, options or {}) for name, options in pairs]


def _keep(ws: recording.Ledger, dataset: Dataset, verdicts: list[Verdict]) -> None:
    with ws.store.transaction():
        failing = _failing(ws, dataset, {v.check for v in verdicts})
        ws.store.add(*verdicts)
        ws.store.link(*(Edge(str(v.ref), "judges", v.subject, v.created) for v in verdicts))
        ws.store.append(
            Event(
                type="dataset.validated",
                subject=str(dataset.ref),
                time=ws.now(),
                actor=ws.actor,
                data={"verdicts": {v.id: [v.check, v.status] for v in verdicts}},
            )
        )
        for what in dict.fromkeys(map(_what, verdicts)):
            mine = [v for v in verdicts if _what(v) == what]
            bad = [v for v in mine if v.status == "fail"]
            if bad:
                _note(ws, dataset, "data.failed", bad[0])
            elif what in failing and all(v.status == "pass" for v in mine):
                _note(ws, dataset, "data.passed", mine[0])


def _note(ws: recording.Ledger, dataset: Dataset, type: str, verdict: Verdict) -> None:
    check, column = _what(verdict)
    ws.store.append(
        Event(
            type=type, subject=str(dataset.ref), time=ws.now(), actor=ws.actor, reason=verdict.summary,
            data={
                "check": check, "column": column, "status": verdict.status, "summary": verdict.summary,
                "since": dataset.created, "verdict": verdict.id,
            },
        )
    )  # fmt: skip


def _what(verdict: Verdict) -> tuple[str, str]:
    """What is checked, whatever the bounds: the check, and the column where it has one."""
    return verdict.check, str(verdict.evidence.get("options", {}).get("column", ""))


def _failing(ws: recording.Ledger, dataset: Dataset, checks: set[str]) -> set[tuple[str, str]]:
    """What failed the last time it was checked, on this version or an earlier one."""
    of = field("subject").starts(f"dataset:{dataset.name}@") & field("check").within(sorted(checks))
    failed: dict[tuple[str, str], Verdict] = {}
    for verdict in ws.store.find(Verdict, of & (field("status") == "fail"), order=["-id"], limit=_LOOKED_BACK):
        if _version(verdict) <= dataset.version:
            failed.setdefault(_what(verdict), verdict)
    if not failed:
        return set()
    since = field("id") > min(v.id for v in failed.values())
    for passed in ws.store.find(Verdict, of & (field("status") == "pass") & since):
        before = failed.get(_what(passed))
        if before is not None and before.id < passed.id and _version(before) <= _version(passed):
            del failed[_what(passed)]
    return set(failed)


def _version(verdict: Verdict) -> int:
    return Ref.parse(verdict.subject).number or 0


def statistics(ws: recording.Ledger, ref: Ref | str) -> Profile:
    """The profile that was made when a dataset version was written; made now where it was not."""
    from boucle.measure.quality import profile

    dataset = datasets.resolve(ws, ref)
    if dataset.statistics:
        return Profile.from_json(json.loads(ws.blobs.get(dataset.statistics)))
    return profile(datasets.load(ws, dataset.ref))


def expectations(profile: Profile) -> list[dict[str, Any]]:
    """Checks that the profiled table passes and that a later version should pass, too.

    At least half the rows; values where all were there; keys that were unique; numbers within the range seen, widened
    by half its width on both sides (not below 0 where none was); and the values of columns with few.
    """
    out: list[dict[str, Any]] = [{"check": "rows", "least": max(1, profile.rows // 2)}]
    required = [c.name for c in profile.columns if profile.rows and c.nulls == 0 and c.nan == 0]
    if required:
        out.append({"check": "required", "columns": required})
    for column in profile.columns:
        if _is_key(column):
            out.append({"check": "unique", "column": column.name})
        elif column.type == "string" and column.distinct_exact and column.top_exact and _is_category(column):
            out.append({"check": "allowed", "column": column.name, "values": sorted(v for v, _ in column.top)})
        elif column.numeric and column.min is not None:
            out.append({"check": "between", "column": column.name, **_bounds(column)})
    return out


def _is_key(column: ColumnProfile) -> bool:
    keyed = column.type == "string" or column.type in INTEGERS
    named = (
        column.name.lower() == "id"
        or column.name.lower().endswith(("_id", "uuid", "key"))
        or column.name.endswith("ID")
    )
    return keyed and named and column.distinct_exact and column.nulls == 0 and column.distinct == column.rows > 1


def _is_category(column: ColumnProfile) -> bool:
    return 0 < column.distinct <= _FEW and column.present >= 5 * column.distinct


def _bounds(column: ColumnProfile) -> dict[str, Any]:
    low, high = column.min, column.max
    room = (high - low) / 2 if high > low else max(abs(high), 1) / 2
    least, most = low - room, high + room
    if low >= 0:
        least = max(0, least)
    if column.type in INTEGERS:
        least, most = int(least // 1), int(-(-most // 1))
    return {"low": least, "high": most}
