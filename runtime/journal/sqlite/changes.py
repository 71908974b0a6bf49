"""What outcomes change, brought into the entries in memory and gathered as rows, on the loop."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import msgspec

from runtime.journal.sqlite.rows import Row, pack, progress_of, stage_of
from runtime.journal.sqlite.schema import DUE, LANE
from runtime.records import DONE, ENDED, QUEUED, Entry, Outcome


class Changes(msgspec.Struct):
    """What a record changes.

    `entries` are those that change, by `seq`, and `progress` their rows, `unlisted` delayed entries that do not wait for
    their time any more, `returned` the stage and `seq` of entries that wait again, `delivered` and `deliver` sinks and
    `seq` that go and come, `emitted` new entries, `states` mappings by function and key, `counts` the changes of the
    numbers by status.
    """

    entries: dict[int, Entry] = {}
    progress: list[Row] = []
    unlisted: list[tuple[int]] = []
    returned: list[tuple[int, int]] = []
    delivered: list[tuple[str, int]] = []
    deliver: list[tuple[str, int]] = []
    emitted: list[Entry] = []
    states: dict[tuple[str, str | None], dict[str, Any]] = {}
    counts: Counter[str] = msgspec.field(default_factory=Counter)

    def packed_states(self) -> list[tuple[str, str | None, bytes]]:
        """Return the states as they are kept."""
        return [(*place, pack(state)) for place, state in self.states.items()]


def changes_of(outcomes: Sequence[Outcome]) -> Changes:
    """Bring entries up to date, and return what that changes.

    Nearly all outcomes are the first of their event, and its end: one step, done. The others go the longer way.
    """
    changes = Changes()
    done = 0
    for outcome in outcomes:
        entry, steps = outcome.entry, outcome.steps
        changes.entries[entry.seq] = entry
        if entry.steps or len(steps) != 1:
            entry.steps.update({step.function: step for step in steps})
        else:
            entry.steps = {steps[0].function: steps[0]}
        if outcome.ran is not None:
            entry.ran = outcome.ran
        if outcome.status == DONE and entry.status == QUEUED:
            done += 1
            entry.status, entry.ended, entry.reason = DONE, outcome.at, outcome.reason
        elif outcome.status is not None:
            _move(entry, outcome, changes)
        if entry.due or entry.sinks or outcome.emitted or outcome.state is not None:
            _add(outcome, changes)
    changes.counts[QUEUED] -= done
    changes.counts[DONE] += done
    changes.progress = [progress_of(entry) for entry in changes.entries.values()]
    return changes


def _move(entry: Entry, outcome: Outcome, changes: Changes) -> None:
    """Bring an entry to another status."""
    before, entry.status = entry.status, outcome.status or entry.status
    entry.reason = outcome.reason
    entry.ended = 0.0
    if entry.status in ENDED:
        entry.ended = outcome.at
    else:
        entry.crashes = 0
        stage = stage_of(entry)
        if stage in (LANE, DUE):
            changes.returned.append((stage, entry.seq))
    changes.counts[before] -= 1
    changes.counts[entry.status] += 1


def _add(outcome: Outcome, changes: Changes) -> None:
    """Add what an outcome changes beside its entry."""
    entry = outcome.entry
    if entry.due and stage_of(entry) != DUE:
        changes.unlisted.append((entry.seq,))
    if outcome.delivered:
        changes.delivered.append((outcome.delivered, entry.seq))
    elif outcome.status in ENDED:
        changes.delivered += [(sink, entry.seq) for sink in entry.sinks]
    changes.deliver += [(sink, entry.seq) for sink in outcome.deliver]
    changes.emitted += outcome.emitted
    if outcome.state is not None:
        changes.states[outcome.state[:2]] = outcome.state[2]
