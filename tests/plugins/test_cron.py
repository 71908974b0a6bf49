from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import pytest
from faults import broken
from faults.ledger import listing, until
from running import COMMAND, Running, run
from runtime_plugins.cron import BATCH, Cron
from support import Bench

from runtime import Event, Inlet, JournalError, Source, function
from runtime.contracts import Query
from runtime.testing import START, SourceSuite, VirtualClock

DAY = 86400.0


class Recorder:
    """An inlet that keeps what is put; `failures` puts fail first, and after `room` lists it holds up who puts."""

    def __init__(self, cursor: Any = None, failures: int = 0, room: int = 10**6) -> None:
        self.cursor = cursor
        self.batches: list[list[Event]] = []
        self._room = room
        self._failures = failures

    async def put(self, events: Event | Sequence[Event], *, cursor: Any = None, wait: bool = True) -> list[str]:
        if len(self.batches) == self._room:
            await asyncio.get_running_loop().create_future()
        batch = [events] if isinstance(events, Event) else list(events)
        if batch and self._failures:
            self._failures -= 1
            raise JournalError("disk full")
        self.cursor = json.loads(json.dumps(cursor))
        self.batches += [batch] if batch else []
        return [event.id for event in batch]

    async def call(self, event: Event, *, timeout: float | None = None, retries: int = 0) -> Any:  # noqa: ASYNC109 - the contract's
        raise NotImplementedError

    @property
    def events(self) -> list[Event]:
        return [event for batch in self.batches for event in batch]

    @property
    def times(self) -> list[float]:
        return [event.time.timestamp() for event in self.events if event.time]


class MovableClock(VirtualClock):
    """A virtual clock of which somebody moves the wall time, without a second passing."""

    def __init__(self, start: float = START) -> None:
        super().__init__(start)
        self.moved = 0.0

    def time(self) -> float:
        return super().time() + self.moved


class RacingClock(VirtualClock):
    """A clock on which waiting takes no time, up to `end`."""

    def __init__(self, start: float, end: float) -> None:
        super().__init__(start)
        self._end = end
        self.ended = asyncio.Event()

    async def sleep(self, delay: float) -> None:
        if self._now + delay > self._end:
            self.ended.set()
            await asyncio.get_running_loop().create_future()
        self._now += delay


def source(clock: VirtualClock | None = None, **options: Any) -> Cron:
    made = Cron("tick", msgspec.convert({"type": "tick"} | options, Cron.Options))
    made.clock = clock or VirtualClock()
    return made


@asynccontextmanager
async def firing(inlet: Inlet, made: Cron) -> AsyncIterator[asyncio.Task[None]]:
    task = asyncio.create_task(made.run(inlet))
    await VirtualClock().settle()
    yield task
    task.cancel()
    with suppress(asyncio.CancelledError, JournalError):
        await task


async def fired(seconds: float, *, start: float = START, cursor: Any = None, **options: Any) -> Recorder:
    """Run a source for so many seconds of a virtual clock."""
    clock, inlet = RacingClock(start, start + seconds), Recorder(cursor)
    async with firing(inlet, source(clock, **options)), asyncio.timeout(20):
        await clock.ended.wait()
    return inlet


def unix(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


class TestCron(SourceSuite):
    read_ahead = BATCH
    bad_options: ClassVar = {"schedule": {"type": "tick", "schedule": "* * *"}, "every": {"type": "tick", "every": 0}, "type": {"every": 1}}

    @pytest.fixture(autouse=True)
    def time(self) -> None:
        self.clock = self.virtual = VirtualClock()

    def make(self) -> tuple[type[Source], Mapping[str, Any]]:
        return Cron, {"type": "tick", "schedule": "* * * * *", "missed": "all"}

    async def produce(self, count: int) -> list[Any]:
        planned = [datetime.fromtimestamp(self.virtual.time() + 60 * number, UTC) for number in range(1, count + 1)]
        await self.virtual.advance(60 * count)
        return [{"scheduled": f"{time:%Y-%m-%dT%H:%M:%SZ}"} for time in planned]


# --- an interval --------------------------------------------------------------------------------------


async def test_every_so_many_seconds_from_the_start() -> None:
    inlet = await fired(16, every=5)
    assert inlet.times == [START + 5, START + 10, START + 15]
    assert inlet.cursor == {"plan": "every 5.0", "time": START + 15}


async def test_an_event_tells_when_it_was_planned() -> None:
    (event,) = (await fired(0.25, every=0.25)).events
    when = "2027-01-15T08:00:00.250000Z"
    assert event == Event(
        type="tick",
        source="source/tick",
        id=f"tick-{when}",
        time=datetime(2027, 1, 15, 8, 0, 0, 250_000, UTC),
        data={"scheduled": when},
        datacontenttype="application/json",
    )


async def test_the_data_may_be_given() -> None:
    assert (await fired(1, every=1, data={"report": ["daily"]})).events[0].data == {"report": ["daily"]}
    assert (await fired(1, every=1, data=0)).events[0].data == 0


async def test_it_never_ends_by_itself() -> None:
    assert not source(every=1).finite


async def test_a_restart_before_the_first_firing_does_not_begin_anew() -> None:
    first = await fired(60, every=100)
    assert first.cursor == {"plan": "every 100.0", "time": START}
    assert (await fired(60, start=START + 60, every=100, cursor=first.cursor)).times == [START + 100]


async def test_a_changed_plan_begins_anew() -> None:
    first = await fired(60, every=5)
    later = await fired(7, start=START + DAY, every=6, missed="all", cursor=first.cursor)
    assert later.times == [START + DAY + 6]
    foreign = await fired(7, every=6, missed="all", cursor=["what", "is", "this"])
    assert foreign.times == [START + 6]


# --- what was missed ----------------------------------------------------------------------------------

SETTLED = {"plan": "every 10.0", "time": START}


@pytest.mark.parametrize(
    ("missed", "times"),
    [("skip", [40, 50]), ("once", [30, 40, 50]), ("all", [10, 20, 30, 40, 50])],
)
async def test_what_was_missed_while_nothing_ran(missed: str, times: list[int]) -> None:
    inlet = await fired(20, start=START + 35, every=10, missed=missed, cursor=SETTLED)
    assert inlet.times == [START + time for time in times]


async def test_a_time_that_is_now_is_missed_only_once() -> None:
    inlet = await fired(10, start=START + 30, every=10, missed="once", cursor=SETTLED)
    assert inlet.times == [START + 30, START + 40]


async def test_what_is_skipped_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    await fired(0, start=START + 35, every=10, cursor=SETTLED)
    assert caplog.messages == ["skipped what was planned from 2027-01-15T08:00:10Z to 2027-01-15T08:00:30Z"]


async def test_what_was_missed_of_a_schedule() -> None:
    cursor = {"plan": "30 2 * * * UTC", "time": unix("2026-05-01T02:30:00Z")}
    late: dict[str, Any] = {"start": unix("2026-05-04T10:00:00Z"), "cursor": cursor, "schedule": "30 2 * * *"}
    assert (await fired(0, missed="skip", **late)).times == []
    assert (await fired(0, missed="once", **late)).times == [unix("2026-05-04T02:30:00Z")]
    assert (await fired(0, missed="all", **late)).times == [unix(f"2026-05-0{day}T02:30:00Z") for day in (2, 3, 4)]


async def test_a_billion_missed_firings_come_in_short_lists_as_the_runtime_takes_them() -> None:
    clock, inlet = VirtualClock(START + 1e7), Recorder({"plan": "every 0.01", "time": START}, room=3)
    async with firing(inlet, source(clock, every=0.01, missed="all")):
        await clock.advance(0)
    assert [len(batch) for batch in inlet.batches] == [BATCH] * 3
    assert inlet.times[:3] == [START + 0.01, START + 0.02, START + 0.03]
    assert len({event.id for event in inlet.events}) == len(inlet.events)


@pytest.mark.parametrize("missed", ["skip", "once"])
async def test_a_billion_missed_firings_are_not_counted_one_by_one(missed: str) -> None:
    inlet = await fired(0, start=START + 1e7 + 0.005, every=0.01, missed=missed, cursor={"plan": "every 0.01", "time": START})
    assert inlet.times == ([START + 1e7] if missed == "once" else [])


@pytest.mark.parametrize("every", [0.001, 0.003, 0.007, 0.1, 1 / 3, 86400.0, 1e9])
@pytest.mark.parametrize("missed", ["skip", "once"])
async def test_no_interval_makes_it_run_in_a_circle(every: float, missed: str) -> None:
    clock, inlet = VirtualClock(START + 12345.678901), Recorder({"plan": f"every {every}", "time": START})
    async with firing(inlet, source(clock, every=every, missed=missed)):
        await clock.advance(min(every * 3.5, 3600))
    times = inlet.times
    assert times == sorted(set(times))
    assert all(later - time == pytest.approx(every, abs=2e-6) for time, later in pairwise(times[1:]))


async def test_what_cannot_be_recorded_is_not_missed_but_fired_later() -> None:
    clock, inlet = VirtualClock(), Recorder(failures=2)
    one = source(clock, every=10)
    for _ in range(2):
        async with firing(inlet, one) as task:
            await clock.advance(15)
            with pytest.raises(JournalError):
                await task
    async with firing(inlet, one):
        pass
    assert inlet.times == [START + 10, START + 20, START + 30]


# --- a clock that is moved ----------------------------------------------------------------------------


async def test_a_clock_put_forward_is_noticed_within_half_a_minute() -> None:
    clock, inlet = MovableClock(unix("2026-05-01T00:00:00Z")), Recorder()
    async with firing(inlet, source(clock, schedule="0 12 * * *")):
        clock.moved = 12 * 3600 - 10
        await clock.advance(30)
        assert inlet.times == [unix("2026-05-01T12:00:00Z")]


@pytest.mark.parametrize(
    ("missed", "days"),
    [("skip", []), ("once", [3]), ("all", [1, 2, 3])],
)
async def test_what_a_clock_put_forward_has_jumped_over_is_missed(missed: str, days: list[int]) -> None:
    clock, inlet = MovableClock(unix("2026-05-01T00:00:00Z")), Recorder()
    async with firing(inlet, source(clock, schedule="0 12 * * *", missed=missed)):
        clock.moved = 2.75 * DAY
        await clock.advance(60)
        assert inlet.times == [unix(f"2026-05-0{day}T12:00:00Z") for day in days]
        await clock.advance(DAY)
        assert inlet.times[-1] == unix("2026-05-04T12:00:00Z")


async def test_a_clock_put_back_fires_no_time_of_a_schedule_again() -> None:
    clock, inlet = MovableClock(unix("2026-05-01T12:00:00Z")), Recorder()
    async with firing(inlet, source(clock, schedule="*/10 * * * *", missed="all")):
        await clock.advance(1200)
        clock.moved = -900
        await clock.advance(1800)
    assert inlet.times == [unix(f"2026-05-01T12:{minute}:00Z") for minute in (10, 20, 30)]


async def test_a_clock_put_back_starts_an_interval_anew() -> None:
    clock, inlet = MovableClock(), Recorder()
    async with firing(inlet, source(clock, every=10)):
        await clock.advance(20)
        clock.moved = -DAY
        await clock.advance(30)
    assert inlet.times == [START + 10, START + 20, START - DAY + 30 + 10, START - DAY + 50]


async def test_a_clock_that_stands_before_the_last_firing_is_told(caplog: pytest.LogCaptureFixture) -> None:
    cursor = {"plan": "0 12 * * * UTC", "time": unix("2030-01-01T12:00:00Z")}
    inlet = await fired(DAY, start=unix("2026-05-01T00:00:00Z"), schedule="0 12 * * *", cursor=cursor)
    assert inlet.times == []
    assert caplog.messages == ["the clock stands before the last firing, planned for 2030-01-01T12:00:00Z; correct it, or wait"]


# --- a schedule, and daylight saving time -------------------------------------------------------------


@pytest.mark.parametrize(
    ("schedule", "times"),
    [
        ("30 2 * * *", ["2026-03-29T03:00+02:00", "2026-03-30T02:30+02:00"]),
        ("15 3 * * *", ["2026-03-29T03:15+02:00", "2026-03-30T03:15+02:00"]),
        ("0,30 2 29 * *", ["2026-03-29T03:00+02:00"]),
        ("0 1-3 29 * *", ["2026-03-29T01:00+01:00", "2026-03-29T03:00+02:00"]),
        ("30 */2 29 * *", ["2026-03-29T00:30+01:00", *(f"2026-03-29T{hour:02}:30+02:00" for hour in range(4, 24, 2))]),
        ("@daily", ["2026-03-29T00:00+01:00", "2026-03-30T00:00+02:00"]),
        ("30 2 * * SUN", ["2026-03-29T03:00+02:00"]),
    ],
)
async def test_a_time_that_does_not_exist_in_spring_is_made_up_at_once(schedule: str, times: list[str]) -> None:
    start, end = unix("2026-03-28T23:30+01:00"), unix("2026-03-30T03:20+02:00")
    inlet = await fired(end - start, start=start, schedule=schedule, timezone="Europe/Berlin")
    assert inlet.times == [unix(time) for time in times]


@pytest.mark.parametrize(
    ("schedule", "times"),
    [
        ("30 2 * * *", ["2026-10-25T02:30+02:00", "2026-10-26T02:30+01:00"]),
        ("15 3 * * *", ["2026-10-25T03:15+01:00", "2026-10-26T03:15+01:00"]),
        ("0,30 2 25 * *", ["2026-10-25T02:00+02:00", "2026-10-25T02:30+02:00"]),
        ("0 1-3 25 * *", ["2026-10-25T01:00+02:00", "2026-10-25T02:00+02:00", "2026-10-25T03:00+01:00"]),
        ("*/30 2 25 * *", [f"2026-10-25T02:{minute}+0{offset}:00" for offset in (2, 1) for minute in ("00", "30")]),
        ("@daily", ["2026-10-25T00:00+02:00", "2026-10-26T00:00+01:00"]),
    ],
)
async def test_a_time_that_comes_twice_in_autumn_fires_once_unless_it_is_every_minute_or_hour(schedule: str, times: list[str]) -> None:
    start, end = unix("2026-10-24T23:30+02:00"), unix("2026-10-26T03:20+01:00")
    inlet = await fired(end - start, start=start, schedule=schedule, timezone="Europe/Berlin")
    assert inlet.times == [unix(time) for time in times]


@pytest.mark.parametrize("day", ["2026-03-29T00:00+01:00", "2026-10-25T00:00+02:00"])
@pytest.mark.parametrize("schedule", ["*/30 * * * *", "0 * * * *", "@hourly"])
async def test_the_hours_of_such_a_day_are_all_fired_and_none_twice(day: str, schedule: str) -> None:
    start = unix(day)
    inlet = await fired(DAY, start=start, schedule=schedule, timezone="Europe/Berlin")
    step = 1800 if "30" in schedule else 3600
    assert inlet.times == [start + step * number for number in range(1, int(DAY / step) + 1)]


async def test_a_restart_between_the_two_hours_of_autumn_fires_nothing_again() -> None:
    start, between, end = unix("2026-10-25T00:00+02:00"), unix("2026-10-25T02:10+01:00"), unix("2026-10-25T12:00+01:00")
    options: dict[str, Any] = {"schedule": "30 2 * * *", "timezone": "Europe/Berlin", "missed": "all"}
    first = await fired(between - start, start=start, **options)
    assert first.times == [unix("2026-10-25T02:30+02:00")]
    assert (await fired(end - between, start=between, cursor=first.cursor, **options)).times == []


async def test_what_was_missed_once_is_the_same_time_on_both_edges() -> None:
    for day, time in (("2026-03-29", "2026-03-29T03:00+02:00"), ("2026-10-25", "2026-10-25T02:30+02:00")):
        cursor = {"plan": "30 2 * * * Europe/Berlin", "time": unix(f"{day}T00:00Z") - DAY}
        start = unix(f"{day}T12:00Z")
        options: dict[str, Any] = {"schedule": "30 2 * * *", "timezone": "Europe/Berlin", "missed": "once", "cursor": cursor}
        assert (await fired(0, start=start, **options)).times == [unix(time)]


# --- options ------------------------------------------------------------------------------------------

EXPECTED = '; expected five fields, as in "30 2 * * *", or @daily'


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "expected exactly one of `schedule` and `every`, found neither"),
        ({"schedule": "* * * * *", "every": 1}, "expected exactly one of `schedule` and `every`, found both"),
        ({"schedule": "61 * * * *"}, f"`schedule`: bad minute{EXPECTED}"),
        ({"schedule": "* * 31 2 *"}, f"`schedule`: bad day-of-month{EXPECTED}"),
        ({"schedule": "0 0 * * * *"}, f"`schedule`: wrong number of fields{EXPECTED}"),
        ({"schedule": "* *"}, f"`schedule`: wrong number of fields{EXPECTED}"),
        ({"schedule": "@reboot"}, f"`schedule`: wrong number of fields{EXPECTED}"),
        (
            {"schedule": "* * * * *", "timezone": "Europe/Berln"},
            '`timezone`: no such zone (did you mean "Europe/Berlin"?); expected an IANA name, as in "Europe/Berlin"',
        ),
        ({"schedule": "* * * * *", "timezone": "../etc"}, '`timezone`: no such zone; expected an IANA name, as in "Europe/Berlin"'),
    ],
)
async def test_what_is_wrong_with_the_options_is_told(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as caught:
        source(**options)
    assert str(caught.value) == message


@pytest.mark.parametrize("every", [0, -1, float("nan"), float("inf")])
async def test_an_interval_is_more_than_nothing_and_ends(every: float) -> None:
    with pytest.raises(msgspec.ValidationError, match="every"):
        source(every=every)


# --- with the real journal, and in a process of its own -----------------------------------------------


async def test_a_firing_that_a_crash_repeats_joins_the_first() -> None:
    def declare() -> None:
        @function(on="tick")
        async def take(data: Any) -> Any:
            return data

    async with Bench(declare) as bench:
        before = None
        for _ in range(2):  # the second time as if the cursor of the first was lost
            inlet = bench.inlet("tick")
            inlet.cursor = before
            async with firing(inlet, source(bench.clock, every=10, missed="all")):
                before = before or inlet.cursor
                await bench.clock.advance(25)
        await bench.settled()
        entries = await bench.journal.query(Query())
        assert len({entry.event.id for entry in entries}) == len(entries) == 5
        assert (await bench.journal.counts()).duplicates == 2


FUNCTION = """
from runtime import function

@function(on="tick")
async def take(data: dict) -> str:
    return data["scheduled"]
"""

CONFIG = """
[sources.tick]
plugin = "cron"
every = 0.1
missed = "all"
type = "tick"
[admin]
listen = "127.0.0.1:0"
"""


def pauses(folder: Path, command: Sequence[str] = COMMAND) -> list[float]:
    """Kill a runtime after some firings, again and again; return the seconds between the times it has fired."""
    (folder / "functions").mkdir()
    (folder / "functions" / "ticks.py").write_text(FUNCTION)
    (folder / "runtime.toml").write_text(CONFIG)
    seen: list[float] = []
    for count in (5, 20, 40):
        with Running(folder, command) as running:  # it is killed when it is left

            def scheduled(running: Running = running) -> list[float]:
                return [unix(event["time"]) for event in listing(running, type="tick", status="done")]

            until(lambda: len(scheduled()) >= count)  # noqa: B023 - called at once
            seen = scheduled()
            assert running.api.get("/api/stats").json()["duplicates"] == 0
    return [later - time for time, later in pairwise(seen)]


def test_a_real_process_that_is_killed_goes_on_without_a_gap_and_without_a_repetition(tmp_path: Path) -> None:
    found = pauses(tmp_path)
    assert found == pytest.approx([0.1] * len(found), abs=1e-5)


def test_a_cursor_that_is_not_recorded_would_be_noticed(tmp_path: Path) -> None:
    assert max(pauses(tmp_path, broken.command("aimless"))) > 0.11


def test_wrong_options_end_the_start_with_their_place(tmp_path: Path) -> None:
    (tmp_path / "functions").mkdir()
    (tmp_path / "runtime.toml").write_text('[sources.tick]\nplugin = "cron"\ntype = "tick"\nevery = 0\n')
    done = run(tmp_path, "check")
    assert done.returncode == 2
    assert "runtime.toml [sources.tick] every: expected a number >= 0.001" in done.stdout + done.stderr
