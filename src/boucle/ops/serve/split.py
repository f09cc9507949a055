"""One request whose rows go to several revisions, by the value of a column."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from boucle.core.route import Arm, choose, point
from boucle.core.schema import Schema
from boucle.ops.serve import rows
from boucle.ops.serve.rows import JSON
from boucle.ops.serve.worker import Answer


@dataclass(frozen=True, slots=True)
class Part:
    """The rows of a request for one revision; `places` says where they stood."""

    revision: int
    body: bytes
    media: str
    places: tuple[int, ...] = ()
    key: str = ""  # where it is a single row


def parts(body: bytes, media: str, schema: Schema, arms: Sequence[Arm], by: str, salt: str) -> list[Part]:
    """Who gets which rows; a request that goes to one revision is left as it is. Raises what `rows.read` does."""
    given, single = rows.read(body, media, schema)
    keys = [str(row.get(by, "")) if isinstance(row, dict) else "" for row in given]
    revisions = [choose(arms, point(key, salt)).revision for key in keys]
    if len(set(revisions)) < 2:
        revision = revisions[0] if revisions else choose(arms, 0.0).revision
        return [Part(revision, body, media, key=keys[0] if single else "")]
    out = []
    for revision in sorted(set(revisions)):
        places = tuple(i for i, r in enumerate(revisions) if r == revision)
        out.append(Part(revision, json.dumps([given[i] for i in places]).encode(), JSON, places))
    return out


def merged(pieces: Sequence[Part], answers: Sequence[Answer], service: str) -> Answer:
    """One answer of several, the rows in the order they came; each says which revision it is from. A part that failed
    fails the whole."""
    for answer in answers:
        if answer.status != 200:
            return answer
    found: dict[int, tuple[dict[str, object], str]] = {}
    for part, answer in zip(pieces, answers, strict=True):
        said = json.loads(answer.body)
        stamp = {name: said[name] for name in ("revision", "model", "digest")}
        for place, prediction, id in zip(part.places, said["predictions"], answer.ids, strict=True):
            found[place] = ({**prediction, **stamp}, id)
    ordered = [found[place] for place in sorted(found)]
    body = {"service": service, "predictions": [prediction for prediction, _ in ordered]}
    return Answer(200, json.dumps(body, separators=(",", ":")).encode(), [id for _, id in ordered])
