"""The source `cron`: an event at the times of a crontab line, or every so many seconds.

Its cursor is the planned time up to which all is settled, at first the time of the first start. What was planned since
then and has passed, because nothing ran or because the clock was moved, is missed; `missed` says what becomes of it.
"""

from __future__ import annotations

import asyncio
import difflib
import math
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, tzinfo
from itertools import count, islice, takewhile
from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo, available_timezones

import msgspec
from cronsim import CronSim, CronSimError

from runtime import Event, Inlet, Source, hookimpl

SLICE = 30.0  # seconds to wait at once, so that a clock that was moved is noticed
LATE = 60.0  # seconds after which a firing that comes late is a missed one
BATCH = 100  # events accepted at once
NICKNAMES = {"@hourly": "0 * * * *", "@daily": "0 0 * * *", "@weekly": "0 0 * * 0", "@monthly": "0 0 1 * *", "@yearly": "0 0 1 1 *"}
NICKNAMES |= {"@midnight": NICKNAMES["@daily"], "@annually": NICKNAMES["@yearly"]}


class Schedule(msgspec.Struct, frozen=True):
    """A crontab line; `cronsim` treats both edges of daylight saving time as Debian's cron does."""

    line: str
    zone: tzinfo

    def after(self, time: float) -> Iterator[float]:
        """Yield the planned times later than `time`, in order; in an hour that comes twice `cronsim` may begin before it."""
        planned = (moment.timestamp() for moment in CronSim(self.line, datetime.fromtimestamp(time, self.zone)))
        return (moment for moment in planned if moment > time)

    def last(self, _: float, until: float) -> float:
        """Return the last planned time not later than `until`."""
        backwards = CronSim(self.line, datetime.fromtimestamp(math.floor(until) + 1, self.zone), reverse=True)
        return next((time for moment in backwards if (time := moment.timestamp()) <= until), 0.0)


class Interval(msgspec.Struct, frozen=True):
    """Every so many seconds from the last firing on, to the microsecond."""

    seconds: float

    def after(self, time: float) -> Iterator[float]:
        """Yield the planned times later than `time`, in order."""
        return (round(time + number * self.seconds, 6) for number in count(1))

    def last(self, time: float, until: float) -> float:
        """Return the last planned time not later than `until`, when the last firing was at `time`."""
        return round(time + (until - time) // self.seconds * self.seconds, 6)


class Cron(Source):
    """Brings an event at the times of a crontab line, or every so many seconds; one that a crash repeats has the same id."""

    class Options(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
        """Exactly one of `schedule`, a crontab line in `timezone`, and `every`, in seconds; `data` replaces the planned time."""

        type: Annotated[str, msgspec.Meta(min_length=1)]
        schedule: Annotated[str, msgspec.Meta(examples=["30 2 * * *"])] | None = None
        timezone: str = "UTC"
        every: Annotated[float, msgspec.Meta(ge=0.001, le=1e9)] | None = None
        missed: Literal["skip", "once", "all"] = "skip"
        data: Any = None

    finite = False
    offline = True

    def __init__(self, name: str, options: Options) -> None:
        super().__init__(name, options)
        self._plan = _plan(options)
        self._text = f"{options.schedule} {options.timezone}" if options.every is None else f"every {options.every}"
        self._began = math.inf  # when it first ran: what was planned before and is not settled, is missed

    async def run(self, inlet: Inlet) -> None:
        """Fire until cancelled."""
        time = await self._start(inlet, self.clock.time())
        while True:
            now = self.clock.time()
            self._began = min(self._began, now)
            time = min(time, now) if isinstance(self._plan, Interval) else time  # the seconds count anew on a clock that was put back
            planned, missed = next(self._plan.after(time)), max(self._began, now - LATE)
            if planned > now:
                await self.clock.sleep(min(planned - now, SLICE))
            elif planned > missed or self.options.missed == "all":
                time = await self._fire(inlet, list(takewhile(now.__ge__, islice(self._plan.after(time), BATCH))))
            else:
                time = max(planned, self._plan.last(time, missed))
                if self.options.missed == "once":
                    await self._fire(inlet, [time])
                else:
                    self.log.info("skipped what was planned from %s to %s", _shown(planned), _shown(time))

    async def _start(self, inlet: Inlet, now: float) -> float:
        """Return the time up to which all is settled; a new plan begins now."""
        match inlet.cursor:
            case {"plan": self._text, "time": int() | float() as time}:
                if time > now + LATE:
                    self.log.warning("the clock stands before the last firing, planned for %s; correct it, or wait", _shown(time))
                return time
        await inlet.put([], cursor={"plan": self._text, "time": now})
        return now

    async def _fire(self, inlet: Inlet, due: list[float]) -> float:
        await inlet.put([self._event(planned) for planned in due], cursor={"plan": self._text, "time": due[-1]})
        await asyncio.sleep(0)  # others have their turn, also when there is much to make up for
        return due[-1]

    def _event(self, planned: float) -> Event:
        id, time = f"{self.name}-{_shown(planned)}", datetime.fromtimestamp(planned, UTC)
        data = {"scheduled": _shown(planned)} if self.options.data is None else self.options.data
        return Event(type=self.options.type, source=f"source/{self.name}", id=id, time=time, data=data, datacontenttype="application/json")


@hookimpl
def register_sources() -> Mapping[str, type[Source]]:
    """Offer the source."""
    return {"cron": Cron}


def _plan(options: Cron.Options) -> Schedule | Interval:
    """Return the plan that the options say; raises ValueError with what is wrong with them."""
    if (options.schedule is None) == (options.every is None):
        raise ValueError(f"expected exactly one of `schedule` and `every`, found {'neither' if options.every is None else 'both'}")
    if options.schedule is None:
        return Interval(options.every or math.inf)
    if options.timezone not in (zones := available_timezones()):
        close = "".join(f' (did you mean "{name}"?)' for name in difflib.get_close_matches(options.timezone, zones, 1))
        raise ValueError(f'`timezone`: no such zone{close}; expected an IANA name, as in "Europe/Berlin"')
    plan = Schedule(NICKNAMES.get(options.schedule, options.schedule), ZoneInfo(options.timezone))
    try:
        next(plan.after(0.0))
        why = "" if len(plan.line.split()) == 5 else "wrong number of fields"
    except (CronSimError, StopIteration) as error:
        why = str(error).lower() or "no such day"
    if why:
        raise ValueError(f'`schedule`: {why}; expected five fields, as in "30 2 * * *", or @daily')
    return plan


def _shown(time: float) -> str:
    return datetime.fromtimestamp(time, UTC).isoformat().replace("+00:00", "Z")
