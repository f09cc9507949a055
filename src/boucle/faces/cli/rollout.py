"""Commands on rollouts: start, list, show, pause, resume, approve, abort, freeze, thaw, back."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from boucle.faces.cli import out
from boucle.faces.cli.here import opened

if TYPE_CHECKING:
    from boucle.core.records import Model, Rollout, Service
    from boucle.ops.rollout import Policy
    from boucle.workspace import Workspace

_ROLLED_BACK = 4  # exit code
_LOOK_SECONDS, _SAY_SECONDS = 1.0, 10.0
_GOING = ("running", "waiting", "paused")
_REACH = 12  # characters of the drawing to each side of 0
_LIMITS = 4  # how often the limit fits into that


def add_rollout(parser: argparse.ArgumentParser) -> None:
    verbs = parser.add_subparsers(dest="verb", metavar="VERB")
    _add_start(verbs.add_parser("start", help="try a model in the place of the one that a service runs"))
    listing = verbs.add_parser("list", help="rollouts, the newest first; the same as `boucle rollout` alone")
    listing.add_argument("service", nargs="?", help="only those of one")
    for at in (parser, listing):
        at.add_argument("--limit", type=int, default=20, help="at most so many (default 20)")
        at.set_defaults(call=listed, service="")
    # The options of every command, for when there is no verb.
    parser.add_argument("--json", action="store_true", help="print JSON for machines")
    parser.add_argument("-C", "--project", metavar="FOLDER", help="the project's folder (default: here)")
    showing = verbs.add_parser("show", help="the phases of one, and what was found in each")
    showing.add_argument("rollout", metavar="SERVICE|ID", help="a service for its newest, or the start of an id")
    showing.add_argument("--follow", action="store_true", help="go on with it here until it is over")
    showing.set_defaults(call=show)
    for name, call, what in (
        ("pause", pause, "leave everything as it is until `resume`"),
        ("resume", resume, "go on with one that was paused"),
        ("approve", approve, "let the phase begin that waits for a person"),
        ("abort", abort, "end one: the revision before answers everything again"),
        ("freeze", freeze, "nothing about the service changes by itself until `thaw`"),
        ("thaw", thaw, "the end of `freeze`"),
        ("back", back, "to the revision before, whether a rollout is going on or not"),
    ):
        saying = verbs.add_parser(name, help=what)
        saying.add_argument("service", help="its name")
        saying.add_argument("--reason", default="", help="kept in the journal")
        saying.set_defaults(call=call)


def _add_start(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help="name@version, or name for the newest")
    parser.add_argument("--service", default="", help="whose model it shall be (default: the model's name)")
    parser.add_argument("--strategy", help="canary, blue-green or ab (default: the setting, or else canary)")
    parser.add_argument("--phases", metavar="LIST", help="instead of the strategy's: 'replay, canary 5 %%, all'")
    parser.add_argument("--rows", type=int, help="answers that each phase needs at least")
    parser.add_argument(
        "--timeout", metavar="TIME", help="that a phase may take, such as '1 day'; then it is rolled back"
    )
    parser.add_argument("--by", metavar="COLUMN", help="rows with the same value stay with one revision")
    parser.add_argument("--approve", metavar="LIST", help="phases that begin only when a person approves: 'all'")
    parser.add_argument("--reason", default="", help="kept in the journal")
    parser.add_argument("--follow", action="store_true", help="walk it here until it is over, without a worker")
    parser.add_argument(
        "--dry-run", action="store_true", help="print the phases and what each must show; begin nothing"
    )
    parser.set_defaults(call=start)


def start(args: argparse.Namespace) -> int:
    """Begin one; with --follow, exit code 0 when the new revision won and 4 when it was rolled back."""
    from boucle.ledger import models
    from boucle.ops import rollout as rollouts

    ws = opened(args)
    model = models.resolve(ws, args.model)
    name = args.service or model.name
    policy = rollouts.policy_for(ws, name, **_changes(args))
    if args.dry_run:
        return _dry(args, ws, model, name, policy)
    begun = rollouts.start(ws, model.ref, name, reason=args.reason, policy=policy)
    if not args.json:
        out.line(f"{name}@{begun.after} ({model.key}) is tried in the place of {name}@{begun.before}")
    if args.follow:
        return _end(args, _follow(ws, begun, quiet=args.json))
    if args.json:
        out.as_json(_row(begun))
    else:
        out.line(f"a worker goes on with it (boucle up), or boucle rollout show {name} --follow", "dim")
    return 0


def _changes(args: argparse.Namespace) -> dict[str, Any]:
    phases = _list(args.phases)
    if args.strategy and phases is None:
        phases = ()  # those of boucle.toml belong to its own strategy
    return {
        "strategy": args.strategy, "phases": phases, "rows": args.rows, "timeout": args.timeout, "by": args.by,
        "approve": _list(args.approve),
    }  # fmt: skip


def _list(text: str | None) -> tuple[str, ...] | None:
    return None if text is None else tuple(part.strip() for part in text.split(",") if part.strip())


# --- the plan ----------------------------------------------------------------------------------------------------------


def _dry(args: argparse.Namespace, ws: Workspace, model: Model, name: str, policy: Policy) -> int:
    from boucle.core.labels import FILE
    from boucle.flow.schedule import in_words
    from boucle.ledger import services
    from boucle.ops import rollout as rollouts
    from boucle.ops.rollout.plan import Facts, needed, plan

    old = services.resolve(ws, name)
    labelled = Path(old.folder, FILE).is_file()
    shown: list[str] = []
    rows: list[dict[str, Any]] = []
    for phase in plan(policy):
        must = needed(phase, policy, Facts(0, 0.0, shown=tuple(shown), labelled=labelled))
        shown += must
        begins = ["a person approves"] if phase.name in policy.approve else []
        if phase.kind == "all" and model.stage != "production":
            begins.append("its gate lets it into production")
        rows.append({"phase": phase.name, "share": phase.share, "shows": list(must), "begins when": begins})
    if args.json:
        out.as_json({"service": name, "model": model.key, "before": old.revision, "phases": rows})
        return 0
    out.line(f"{model.key} would be tried in the place of {old.key} ({old.model}); nothing was begun")
    words = _shown_in_words(policy, model)
    out.table(
        [
            {
                "phase": r["phase"], "what": _WHAT[r["phase"].partition(" ")[0]],
                "must show": "; ".join(words[n] for n in r["shows"]), "begins when": " and ".join(r["begins when"]),
            }
            for r in rows
        ]
    )  # fmt: skip
    soak = f", lasts {in_words(policy.soak)} at least" if policy.soak else ""
    out.line(
        f"each phase needs {policy.rows:,} answers{soak}, and is rolled back after {in_words(policy.timeout)}; a wrong decision "
        f"in any of them has a chance of at most {policy.alpha:.2g}"
    )
    cold = rollouts.frozen(ws, name)
    if cold:
        out.line(f"it could not begin now: {cold}", "yellow")
    return 0


_WHAT = {
    "replay": "the new model is asked what the service was asked before",
    "shadow": "live requests are mirrored to it, its answers only logged",
    "canary": "it answers its share of the requests",
    "all": "it answers everything, the old revision stays loaded",
}


def _shown_in_words(policy: Policy, model: Model) -> Mapping[str, str]:
    worse = f"the error grows by at most {policy.worse:.3g} of itself"
    return {
        "score": worse if model.task == "regression" else f"at most {100 * policy.worse:.3g} points fewer are right",
        "differ": f"at most {100 * policy.differ:.3g} % of the answers differ",
        "errors": f"at most {100 * policy.errors:.3g} points more requests fail",
        "slow": f"at most {100 * policy.slow:.3g} points more requests are slow",
    }


# --- walking -----------------------------------------------------------------------------------------------------------


def _follow(ws: Workspace, rollout: Rollout, *, quiet: bool) -> Rollout:
    """Go on with it until it is over, saying what changes. It may be one that a worker, or somebody else, goes on with too."""
    from boucle.ops import rollout as rollouts

    telling = _Telling(quiet, rollout)
    try:
        while True:
            rollout = rollouts.turn(ws, rollout)
            telling.tell(rollout, rollouts.frozen(ws, rollout.service))
            if rollout.status not in _GOING:
                return rollout
            time.sleep(_LOOK_SECONDS)
    finally:
        telling.close()


class _Telling:
    """A line per change: a phase ends, or waits, or is frozen. How far it is changes in place on a terminal; elsewhere it is
    said now and then."""

    def __init__(self, quiet: bool, rollout: Rollout) -> None:
        self._quiet, self._ended = quiet, {n for n, s in rollout.phases.items() if s.get("ended")}
        self._held, self._last, self._again = "", "", 0.0
        self._status = out.console().status("") if not quiet and sys.stdout.isatty() else None
        if self._status is not None:
            self._status.start()

    def tell(self, rollout: Rollout, cold: str) -> None:
        for name, state in rollout.phases.items():
            if state.get("ended") and name not in self._ended:
                self._ended.add(name)
                good = state["status"] == "finished"
                self._say(
                    f"{'+' if good else 'x'} {name:<12} {_took(state):>8}  {state['said']}", "green" if good else "red"
                )
        if rollout.status not in _GOING:
            return
        said = f"  {rollout.phase:<12} {_said(rollout)}"
        held = f"frozen: {cold}" if cold else "" if rollout.status == "running" else rollout.status
        if held:
            said = f"  {rollout.phase:<12} {held}" + ("" if cold else f": {_said(rollout)}")
            if held != self._held:
                self._say(said, "yellow")
        elif self._status is None and said != self._last and time.monotonic() >= self._again:
            self._last, self._again = said, time.monotonic() + _SAY_SECONDS
            self._say(said, "dim")
        self._held = held
        if self._status is not None:
            from rich.text import Text

            self._status.update(Text(said.strip()))

    def _say(self, text: str, style: str) -> None:
        if not self._quiet:
            out.line(text, style)
            sys.stdout.flush()

    def close(self) -> None:
        if self._status is not None:
            self._status.stop()


def _end(args: argparse.Namespace, rollout: Rollout) -> int:
    won = rollout.status == "finished"
    if args.json:
        out.as_json(_row(rollout))
    else:
        out.line(_outcome(rollout), "green" if won else "red")
    return 0 if won else _ROLLED_BACK


def _outcome(rollout: Rollout) -> str:
    if rollout.status == "finished":
        return f"{rollout.service}@{rollout.after} won: it serves {rollout.model}"
    how = "rolled back" if rollout.status == "failed" else rollout.status
    return f"{how}: {rollout.service}@{rollout.before} answers everything"


# --- what there is -----------------------------------------------------------------------------------------------------


def listed(args: argparse.Namespace) -> int:
    """One line per rollout; a deployment at once has the strategy `replace`."""
    from boucle.core.records import Rollout
    from boucle.core.where import field
    from boucle.ledger import services

    ws = opened(args)
    where = None
    if args.service:
        where = field("service") == services.resolve(ws, args.service).name
    found = ws.store.find(Rollout, where, order=["-started"], limit=args.limit)
    if args.json:
        out.as_json([_row(r) for r in found])
    else:
        out.table([_brief(r) for r in found], "no rollouts yet: boucle rollout start MODEL")
    return 0


def _row(rollout: Rollout) -> dict[str, Any]:
    names = (
        "id",
        "service",
        "model",
        "strategy",
        "status",
        "phase",
        "before",
        "after",
        "started",
        "ended",
        "actor",
        "reason",
    )
    return {**{n: getattr(rollout, n) for n in names}, "said": _said(rollout)}


def _brief(rollout: Rollout) -> dict[str, Any]:
    return {
        "rollout": rollout.id, "service": rollout.service, "revisions": f"{rollout.before} -> {rollout.after}",
        "model": rollout.model, "strategy": rollout.strategy, "status": rollout.status, "phase": rollout.phase,
        "started": out.when(rollout.started), "took": _took({"started": rollout.started, "ended": rollout.ended}),
        "by": rollout.actor,
    }  # fmt: skip


def _said(rollout: Rollout) -> str:
    return str(rollout.phases.get(rollout.phase, {}).get("said", ""))


def _took(state: Mapping[str, Any]) -> str:
    if "seconds" in state:
        return out.took(float(state["seconds"]))
    return (
        out.took(float(state["ended"]) - float(state["started"])) if state.get("ended") and state.get("started") else ""
    )


def show(args: argparse.Namespace) -> int:
    """Facts, phases, and the measures of each against their limits."""
    from boucle.ops import rollout as rollouts

    ws = opened(args)
    found = _find(ws, args.rollout)
    if args.follow and found.status in _GOING:
        return _end(args, _follow(ws, found, quiet=args.json))
    phases = _phases(found)
    cold = rollouts.frozen(ws, found.service)
    if args.json:
        out.as_json({**_row(found), "frozen": cold, "policy": found.policy, "phases": phases})
        return 0
    says = _said(found) if found.status in _GOING else _outcome(found)
    out.facts({**_brief(found), "reason": found.reason, "says": says, "frozen": cold, "approved by": _approvals(found)})
    out.line()
    out.table([_phase_row(p) for p in phases])
    measures = [_measure_row(p["phase"], n, m) for p in phases for n, m in p["measures"].items()]
    if measures:
        out.line()
        out.table(measures)
    return 0


def _find(ws: Workspace, text: str) -> Rollout:
    from boucle.core.errors import NotFound
    from boucle.core.records import Rollout
    from boucle.core.where import field

    found = ws.store.find(Rollout, field("service") == text, order=["-started"], limit=1)
    found = found or ws.store.find(Rollout, field("id").starts(text.upper()), limit=2)
    if len(found) != 1:
        said = (
            f"{text} is the start of several rollouts"
            if found
            else f"there is no rollout of a service {text}, or with that id"
        )
        raise NotFound(said, expected="a service, or enough of an id", fix="boucle rollout")
    return found[0]


def _phases(rollout: Rollout) -> list[dict[str, Any]]:
    """All phases in order, also those that have not begun."""
    from boucle.ops.rollout.plan import STRATEGIES

    planned = rollout.policy.get("phases") or STRATEGIES.get(rollout.strategy, ())
    out = []
    for name in dict.fromkeys([*planned, *rollout.phases]):
        state = rollout.phases.get(name, {})
        status = state.get("status", "")
        evidence = state.get("evidence", {})
        out.append(
            {
                "phase": name, "status": rollout.status if name == rollout.phase and status in ("", "running") else status,
                "started": state.get("started"), "ended": state.get("ended"), "took": _took(state),
                "rows": evidence.get("pairs") if name == "replay" else evidence.get("after", {}).get("rows"),
                "labelled": evidence.get("labelled") or evidence.get("after", {}).get("loss", {}).get("rows"),
                "approved": state.get("approved", ""), "said": state.get("said", state.get("error", "")),
                "measures": state.get("measures", {}),
            }
        )  # fmt: skip
    return out


def _approvals(rollout: Rollout) -> str:
    return ", ".join(f"{s['approved']} ({n})" for n, s in rollout.phases.items() if s.get("approved"))


def _phase_row(phase: Mapping[str, Any]) -> dict[str, Any]:
    return {
        **{n: phase[n] for n in ("phase", "status")}, "since": out.when(phase["started"] or 0.0),
        **{n: phase[n] for n in ("took", "rows", "labelled", "said")},
    }  # fmt: skip


def _measure_row(phase: str, name: str, measure: Mapping[str, Any]) -> dict[str, Any]:
    harm, allowed = measure["harm"], float(measure["allowed"])
    known = harm["low"] is not None and harm["high"] is not None
    return {
        "phase": phase, "measure": name, "state": measure["state"],
        "harm": "" if harm["estimate"] is None else f"{harm['estimate']:+.1%}",
        "interval": f"{harm['low']:+.1%} to {harm['high']:+.1%}" if known else "", "limit": f"{allowed:+.1%}",
        "against the limit": drawn(harm, allowed),
    }  # fmt: skip


def drawn(harm: Mapping[str, Any], allowed: float) -> str:
    """An interval against its limit, which always stands in the same place; arrows where it goes on."""
    if harm["low"] is None or harm["high"] is None:
        return ""
    unit = _REACH / (_LIMITS * allowed or 0.1)
    last = 2 * _REACH

    def at(value: float) -> int:
        return min(last, max(0, _REACH + round(value * unit)))

    cells = [" "] * (last + 1)
    low, high = at(harm["low"]), at(harm["high"])
    cells[low : high + 1] = "─" * (high - low + 1)
    if _REACH + harm["low"] * unit < -0.5:
        cells[0] = "◂"
    if _REACH + harm["high"] * unit > last + 0.5:
        cells[last] = "▸"
    if harm["estimate"] is not None:
        cells[at(harm["estimate"])] = "●"
    limit = at(allowed)
    cells[limit] = "│" if cells[limit] == " " else "┼" if cells[limit] == "─" else cells[limit]
    return "".join(cells).rstrip()


# --- what people say ---------------------------------------------------------------------------------------------------


def pause(args: argparse.Namespace) -> int:
    """Until `resume`."""
    from boucle.ops.rollout import pause as change

    return _changed(args, change, "{0.service} stays as it is ({0.phase}) until: boucle rollout resume {0.service}")


def resume(args: argparse.Namespace) -> int:
    """Go on."""
    from boucle.ops.rollout import resume as change

    return _changed(args, change, "the rollout of {0.service} goes on with {0.phase}")


def approve(args: argparse.Namespace) -> int:
    """Yes."""
    from boucle.ops.rollout import approve as change

    return _changed(args, change, "{0.phase} of the rollout of {0.service} may begin")


def abort(args: argparse.Namespace) -> int:
    """No."""
    from boucle.ops.rollout import abort as change

    return _changed(args, change, "aborted: {0.service}@{0.before} answers everything")


def _changed(args: argparse.Namespace, change: Callable[..., Rollout], words: str) -> int:
    rollout = change(opened(args), args.service, reason=args.reason)
    if args.json:
        out.as_json(_row(rollout))
    else:
        out.line(words.format(rollout))
    return 0


def freeze(args: argparse.Namespace) -> int:
    """Nothing changes by itself."""
    from boucle.ops.rollout import freeze as change

    return _froze(args, change, "nothing about {0} changes by itself until: boucle rollout thaw {0}")


def thaw(args: argparse.Namespace) -> int:
    """Things may change again."""
    from boucle.ops.rollout import thaw as change

    return _froze(args, change, "{0} may change again")


def _froze(args: argparse.Namespace, change: Callable[..., None], words: str) -> int:
    from boucle.ledger import services
    from boucle.ops.rollout import frozen

    ws = opened(args)
    name = services.resolve(ws, args.service).name
    change(ws, name, reason=args.reason)
    if args.json:
        out.as_json({"service": name, "frozen": frozen(ws, name)})
    else:
        out.line(words.format(name))
    return 0


def back(args: argparse.Namespace) -> int:
    """The revision before, or its model anew."""
    from boucle.ops.rollout import back as change

    service: Service = change(opened(args), args.service, reason=args.reason)
    if args.json:
        out.as_json({"service": service.key, "model": service.model, "url": service.url})
    else:
        out.line(f"{service.key} serves {service.model}", "green")
    return 0
