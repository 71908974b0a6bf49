"""The suite every journal passes."""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from typing import Any

from runtime.contracts import Clock, Journal, Query
from runtime.event import Event
from runtime.records import DEAD, DISCARDED, DONE, FAILED, QUEUED, RETRYING, UNROUTED, Entry, Outcome, Shelf, Status, Step, StepError
from runtime.testing.clock import START, VirtualClock


def entry(type: str = "test", *, id: str = "", source: str = "suite", now: float = START, **more: Any) -> Entry:
    """Return an entry for a journal, as intake would make it."""
    attributes = {name: more.pop(name) for name in ("data", "key", "priority") if name in more}
    event = Event(type=type, source=source, id=id, **attributes)
    return Entry(event=event, accepted=now, looked_up=bool(id), **more)


class JournalSuite:
    """What every journal must do; `make` returns one that is not open, on the clock given, with `dedupe = 60`."""

    @abstractmethod
    def make(self, clock: Clock) -> Journal:
        """Return a new, empty journal."""

    async def opened(self) -> tuple[Journal, VirtualClock]:
        """Return a journal that is open, and its clock."""
        clock = VirtualClock()
        journal = self.make(clock)
        await journal.open()
        return journal, clock

    async def test_append_numbers_entries_in_order_and_returns_them(self) -> None:
        journal, _ = await self.opened()
        first, second = entry(), entry()
        assert await journal.append([first, second]) == [first, second]
        assert 0 < first.seq < second.seq
        await journal.close()

    async def test_append_gives_an_event_without_an_id_its_uid(self) -> None:
        journal, _ = await self.opened()
        nameless, named = entry(), entry(id="mine")
        await journal.append([nameless, named])
        assert nameless.event.id == nameless.uid
        assert named.event.id == "mine"
        assert (await journal.find(nameless.uid))[0].seq == nameless.seq
        assert (await journal.find("mine"))[0].seq == named.seq
        assert await journal.find("nobody") == []
        await journal.close()

    async def test_the_same_source_and_id_joins_the_first(self) -> None:
        journal, _ = await self.opened()
        first, again, elsewhere = entry(id="a"), entry(id="a"), entry(id="a", source="other")
        found = await journal.append([first, again, elsewhere])
        assert [one.seq for one in found] == [first.seq, first.seq, elsewhere.seq]
        assert (await journal.append([entry(id="a")]))[0].seq == first.seq
        counts = await journal.counts()
        assert (counts.accepted, counts.duplicates) == (2, 2)
        assert [one.seq for one in await journal.find("a")] == [elsewhere.seq, first.seq]
        await journal.close()

    async def test_an_id_is_new_again_after_the_window_when_the_first_has_ended(self) -> None:
        journal, clock = await self.opened()
        ended, waiting = entry(id="ended"), entry(id="waiting")
        await journal.append([ended, waiting])
        await journal.record([Outcome(entry=ended, status=DONE, at=clock.time())])
        await clock.advance(61)
        again, still = entry(id="ended", now=clock.time()), entry(id="waiting", now=clock.time())
        found = await journal.append([again, still])
        assert found[0].seq == again.seq != ended.seq
        assert found[1].seq == waiting.seq
        await journal.close()

    async def test_a_lane_holds_what_waits_of_a_type_and_level_in_the_order_of_acceptance(self) -> None:
        journal, _ = await self.opened()
        entries = [entry("a"), entry("a", priority=9), entry("a"), entry("a", due=START + 5), entry("b"), entry("a")]
        await journal.append(entries)
        lane = Shelf("lane", "a", 4)
        expected = [entries[0].seq, entries[2].seq, entries[5].seq]
        assert [one.seq for one in await journal.read(lane)] == expected
        assert [one.seq for one in await journal.read(lane, limit=2)] == expected[:2]
        assert [one.seq for one in await journal.read(lane, after=expected[0])] == expected[1:]
        assert [one.seq for one in await journal.read(Shelf("lane", "a", 9))] == [entries[1].seq]
        assert set(await journal.shelves()) == {lane, Shelf("lane", "a", 9), Shelf("lane", "b", 4)}
        assert await journal.waiting() == 6
        await journal.close()

    async def test_a_key_holds_its_waiting_entries_by_level_over_all_types(self) -> None:
        journal, _ = await self.opened()
        entries = [entry("a", key="k"), entry("b", key="k"), entry("a", key="l"), entry("a", key="k", priority=0)]
        await journal.append(entries)
        assert [one.seq for one in await journal.read(Shelf("key", "k", 4))] == [entries[0].seq, entries[1].seq]
        assert [one.seq for one in await journal.read(Shelf("key", "k", 0))] == [entries[3].seq]
        assert await journal.read(Shelf("key", "m", 4)) == []
        await journal.close()

    async def test_delayed_entries_are_read_by_the_time_they_are_due(self) -> None:
        journal, _ = await self.opened()
        entries = [entry(due=START + 30), entry(due=START + 10), entry(), entry(due=START + 20)]
        await journal.append(entries)
        assert [one.seq for one in await journal.read_due((0, 0), START + 20)] == [entries[1].seq, entries[3].seq]
        assert [one.seq for one in await journal.read_due((0, 0), START + 99, limit=1)] == [entries[1].seq]
        assert [one.seq for one in await journal.read_due((START + 20, entries[3].seq), START + 99)] == [entries[0].seq]
        assert await journal.waiting() == 4
        await journal.close()

    async def test_what_has_begun_stands_apart_until_its_functions_have_ended(self) -> None:
        journal, _ = await self.opened()
        begun, delayed, waiting = entry(key="k"), entry(due=START + 5), entry()
        await journal.append([begun, delayed, waiting])
        lane = Shelf("lane", "test", 4)
        await journal.record([Outcome(entry=one, steps=[Step("f", RETRYING, 1, due=START + 1)]) for one in (begun, delayed)])
        assert [one.seq for one in await journal.read(Shelf("begun"))] == [begun.seq, delayed.seq]
        assert [one.seq for one in await journal.read(lane)] == [waiting.seq]
        assert await journal.read(Shelf("key", "k", 4)) == []
        assert await journal.read_due((0, 0), START + 99) == []
        await journal.record([Outcome(entry=begun, steps=[Step("f", DONE, 2)], ran=True)])
        assert [one.seq for one in await journal.read(Shelf("begun"))] == [delayed.seq]
        await journal.close()

    async def test_a_sink_holds_what_is_still_to_be_delivered_to_it(self) -> None:
        journal, _ = await self.opened()
        entries = [entry(sinks=("x", "y")), entry(sinks=("x",), ran=True), entry()]
        await journal.append(entries)
        assert [one.seq for one in await journal.read(Shelf("sink", "x"))] == [entries[0].seq, entries[1].seq]
        assert [one.seq for one in await journal.read(Shelf("sink", "y"))] == [entries[0].seq]
        assert {shelf for shelf in await journal.shelves() if shelf.kind == "sink"} == {Shelf("sink", "x"), Shelf("sink", "y")}
        await journal.record([Outcome(entry=entries[0], steps=[Step("x", RETRYING, 1)])])
        await journal.record([Outcome(entry=entries[1], steps=[Step("x", DONE, 1)], delivered="x", status=DONE, at=START)])
        assert [one.seq for one in await journal.read(Shelf("sink", "x"))] == [entries[0].seq]
        await journal.record([Outcome(entry=entries[0], steps=[Step("x", FAILED, 4)], delivered="x")])
        assert await journal.read(Shelf("sink", "x")) == []
        await journal.record([Outcome(entry=entries[0], steps=[Step("x")], deliver=("x",))])
        assert [one.seq for one in await journal.read(Shelf("sink", "x"))] == [entries[0].seq]
        await journal.close()

    async def test_an_entry_in_memory_is_handed_out_as_the_same_object(self) -> None:
        journal, _ = await self.opened()
        one = entry(id="a", sinks=("x",))
        await journal.append([one])
        assert (await journal.append([entry(id="a")]))[0] is one
        assert (await journal.read(Shelf("lane", "test", 4)))[0] is one
        assert (await journal.read(Shelf("sink", "x")))[0] is one
        assert (await journal.find("a"))[0] is one
        await journal.close()

    async def test_the_answer_is_given_even_when_the_caller_has_been_cancelled(self) -> None:
        journal, _ = await self.opened()
        answers: list[list[Entry]] = []
        one = entry()
        appending = asyncio.ensure_future(journal.append([one], then=lambda _, accepted: answers.append(accepted)))
        await asyncio.sleep(0)
        appending.cancel()
        await asyncio.gather(appending, return_exceptions=True)
        await journal.append([entry()])
        assert answers == [[one]]
        assert len(await journal.find(one.uid)) == 1
        await journal.close()

    async def test_read_leaves_out_what_has_ended(self) -> None:
        journal, _ = await self.opened()
        done, unrouted, waiting = entry(), entry(status=UNROUTED), entry()
        await journal.append([done, unrouted, waiting])
        await journal.record([Outcome(entry=done, status=DONE, at=START)])
        assert [one.seq for one in await journal.read(Shelf("lane", "test", 4))] == [waiting.seq]
        await journal.close()

    async def test_a_record_keeps_steps_by_name_and_the_last_one_counts(self) -> None:
        journal, _ = await self.opened()
        one = entry()
        await journal.append([one])
        failed = StepError("ValueError", "no", "Traceback …")
        await journal.record(
            [Outcome(entry=one, steps=[Step("f", RETRYING, 1, error=failed, due=START + 1), Step("g", DONE, 1, result={"n": 1})])]
        )
        await journal.record([Outcome(entry=one, steps=[Step("f", DONE, 2, result=[1, "two", None])])])
        (found,) = await journal.find(one.uid)
        assert found.steps["f"].status == DONE
        assert found.steps["f"].attempts == 2
        assert found.steps["f"].result == [1, "two", None]
        assert found.steps["g"].result == {"n": 1}
        assert found.status == QUEUED
        await journal.close()

    async def test_what_an_entry_waited_for_is_kept_with_the_next_record(self) -> None:
        journal, _ = await self.opened()
        one = entry()
        await journal.append([one])
        one.waits = {"key k": 1.5}
        await journal.record([Outcome(entry=one, steps=[Step("f", DONE, 1)])])
        assert (await journal.find(one.uid))[0].waits == {"key k": 1.5}
        await journal.close()

    async def test_emitted_entries_are_accepted_with_the_record_and_known_as_effects(self) -> None:
        journal, _ = await self.opened()
        cause = entry()
        await journal.append([cause])
        effects = [entry("next", cause=cause.seq), entry("next", id="chosen", cause=cause.seq), entry("next", id="chosen", cause=cause.seq)]
        await journal.record([Outcome(entry=cause, steps=[Step("f", DONE, 1)], emitted=effects, status=DONE, at=START)])
        assert effects[0].seq > cause.seq
        assert effects[2].seq == 0, "an id that was accepted before is dropped"
        assert [one.seq for one in await journal.effects(cause.seq)] == [effects[0].seq, effects[1].seq]
        assert [one.seq for one in await journal.read(Shelf("lane", "next", 4))] == [effects[0].seq, effects[1].seq]
        await journal.close()

    async def test_state_and_cursors_are_what_was_recorded_last(self) -> None:
        journal, _ = await self.opened()
        one = entry()
        await journal.append([one], cursor=("lines", {"offset": 7}))
        await journal.append([], cursor=("ticks", 3))
        await journal.record([Outcome(entry=one, state=("f", "k", {"n": 1}))])
        await journal.record([Outcome(entry=one, state=("f", None, {"n": 2}))])
        assert await journal.state("f", "k") == {"n": 1}
        assert await journal.state("f", None) == {"n": 2}
        assert await journal.state("g", "k") == {}
        (await journal.state("f", "k"))["n"] = 99
        assert await journal.state("f", "k") == {"n": 1}, "a change counts when it is recorded"
        assert await journal.cursor("lines") == {"offset": 7}
        assert await journal.cursor("ticks") == 3
        assert await journal.cursor("nobody") is None
        await journal.close()

    async def test_counts_are_by_status_and_add_up_to_accepted(self) -> None:
        journal, _ = await self.opened()
        entries = [entry() for _ in range(4)] + [entry(status=UNROUTED)]
        await journal.append(entries)
        ends: list[Status] = [DONE, DEAD, DISCARDED]
        await journal.record([Outcome(entry=one, status=status, at=START) for one, status in zip(entries, ends, strict=False)])
        counts = await journal.counts()
        assert (counts.open, counts.done, counts.dead, counts.discarded, counts.unrouted) == (1, 1, 1, 1, 1)
        assert counts.accepted == 5
        await journal.close()

    async def test_queries_filter_by_status_type_function_and_error_and_go_on_below_a_seq(self) -> None:
        journal, _ = await self.opened()
        entries = [entry("order.placed"), entry("order.paid"), entry("user.born"), entry("order.placed")]
        await journal.append(entries)
        error = StepError("ValueError", "no", "")
        await journal.record([Outcome(entry=entries[0], steps=[Step("charge", FAILED, 4, error=error)], status=DEAD, at=START)])
        await journal.record([Outcome(entry=entries[1], steps=[Step("charge", DONE, 1)], status=DONE, at=START)])

        async def seqs(**conditions: Any) -> list[int]:
            return [one.seq for one in await journal.query(Query(**conditions))]

        newest_first = [one.seq for one in reversed(entries)]
        assert await seqs() == newest_first
        assert await seqs(type="order.*") == [entries[3].seq, entries[1].seq, entries[0].seq]
        assert await seqs(status=(DEAD, DONE)) == [entries[1].seq, entries[0].seq]
        assert await seqs(function="charge") == [entries[1].seq, entries[0].seq]
        assert await seqs(status=(DEAD,), function="charge", error="ValueError") == [entries[0].seq]
        assert await seqs(status=(DEAD,), error="KeyError") == []
        assert await seqs(limit=2) == newest_first[:2]
        assert await seqs(before=newest_first[1], limit=2) == newest_first[2:]
        await journal.close()

    async def test_queries_take_any_character_in_types_and_names(self) -> None:
        journal, _ = await self.opened()
        entries = [entry("a.[b]?.c"), entry("a.b.c"), entry("a.é.c.d")]
        await journal.append(entries)
        await journal.record([Outcome(entry=entries[0], steps=[Step("prüfen", DONE, 1)])])
        found = {}
        for name, query in {
            "brackets": Query(type="*.[b]?.*"),
            "one token": Query(type="a.*.c"),
            "the rest": Query(type="a.é.>"),
            "name": Query(function="prüfen"),
            "part of a name": Query(function="prüf"),
        }.items():
            found[name] = [one.seq for one in await journal.query(query)]
        first, second, third = [one.seq for one in entries]
        assert found == {"brackets": [first], "one token": [second, first], "the rest": [third], "name": [first], "part of a name": []}
        await journal.close()

    async def test_a_dead_letter_can_wait_again_and_be_discarded(self) -> None:
        journal, _ = await self.opened()
        one = entry()
        await journal.append([one])
        await journal.record([Outcome(entry=one, steps=[Step("f", FAILED, 4)], status=DEAD, reason="f failed", at=START)])
        (dead,) = await journal.find(one.uid)
        assert (dead.status, dead.reason, dead.ended) == (DEAD, "f failed", START)
        await journal.record([Outcome(entry=one, steps=[Step("f")], status=QUEUED)])
        (again,) = await journal.read(Shelf("begun"))
        assert (again.seq, again.ended, again.steps["f"].status) == (one.seq, 0.0, "pending")
        await journal.record([Outcome(entry=one, status=DEAD, at=START), Outcome(entry=one, status=DISCARDED, at=START)])
        assert (await journal.counts()).discarded == 1
        assert await journal.read(Shelf("begun")) == []
        await journal.close()
