"""Whether a request is let in: by what its caller may ask for, and by what there is room for.

It is decided when the head is there, before a byte of the body is read, and without asking anybody: each
gateway counts by itself, and tells the others a few times a second. While Redis is away the limits hold for
each gateway by itself.
"""

import asyncio
import logging
import time
from collections.abc import Callable, MutableMapping
from typing import Any, Final, NamedTuple, Protocol, TypeVar

from starlette.requests import Request

from gateway.errors import Problem
from gateway.limits import standing as standings
from gateway.limits.bucket import BURST_SECONDS
from gateway.limits.counters import COMPARE_SECONDS, Counters
from gateway.limits.daily import Daily, day_of, seconds_left
from gateway.limits.gauge import Gauge
from gateway.limits.load import Load, overloaded
from gateway.limits.standing import Standing, headers, tightest, whole_seconds
from gateway.ports import Book
from gateway.scope import ANSWER_HEADERS, announced
from mayfly.errors import ReadModelUnavailable
from mayfly.identity.keys import Allowance
from mayfly.identity.principal import Principal
from mayfly.identity.usage import Heard, Told
from mayfly.settings import Settings
from mayfly.waking import woken

log = logging.getLogger(__name__)

PERIOD_SECONDS: Final = 0.25
"""Between two exchanges with the other gateways, at the least."""
CEILING_SECONDS: Final = 1.0
"""The same where nobody is limited, and only the tasks of all are counted."""
RECOUNT_SECONDS: Final = 2
"""When to ask again where tasks are too many: some may have ended by then."""
FORGET_SECONDS: Final = 10.0
"""Between two looks at what says nothing any more."""
REMEMBERED: Final = 10_000
"""Callers whose limits are known without a look at the book."""
_ADMISSION: Final = "mayfly.admission"
_KEY: Final = "key:"
_NONE: Final = Allowance()
Asgi = MutableMapping[str, Any]
Number = TypeVar("Number", int, float)


class Counts(Protocol):
    """What all gateways together have let in, and how many tasks there are."""

    async def exchange(self, told: Told) -> Heard:
        """One round trip. Raises `ReadModelUnavailable`: it may have been taken even so."""


class Caller(NamedTuple):
    """Who asks, as limits see it: each limit's number, and the name that it is counted under. A key's own
    is counted for the key, any other for its tenant; tasks are the tenant's always."""

    tenant: str
    rate: tuple[str, float] | None = None
    waiting: int | None = None
    running: int | None = None
    bytes: tuple[str, int] | None = None


class Limits:
    """`exempt` is the id of a key that no limit holds for: the operator's way in."""

    def __init__(
        self,
        settings: Settings,
        book: Book,
        counts: Counts | None,
        *,
        exempt: str | None = None,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.load = Load(settings.max_in_flight, shared=settings.auth)
        self.defaults = Allowance(
            settings.limit_requests_per_second,
            settings.limit_waiting_tasks,
            settings.limit_running_tasks,
            settings.limit_payload_bytes_per_day,
        )
        self.counters = Counters()
        self._limited = settings.auth
        self._ceiling = settings.max_waiting_tasks
        self._book = book
        self._counts = counts
        self._exempt = None if exempt is None else _KEY + exempt
        self._clock = clock
        self._wall = wall
        self._seen = book.keys, book.tenants
        self._callers: dict[tuple[str, str], Caller] = {}
        self._used = asyncio.Event()
        self._away = False

    def admit(self, scope: Asgi, principal: Principal, *, submits: bool) -> "Admission | None":
        """Let a request in, which `submits` a task or more, or raise `Problem`. What is given back is to be
        closed when it is answered."""
        caller = self.caller(principal) if self._limited else Caller(principal.tenant)
        now = self._clock()
        held = []
        if caller.rate is not None:
            self._used.set()
            held.append(self._request(scope, *caller.rate, now))
        admission = None
        if submits:
            admission = self._submission(scope, caller, now, held)
            scope[_ADMISSION] = admission
        if held:
            _tell(scope, tightest(held))
        return admission

    def caller(self, principal: Principal) -> Caller:
        """A key's own allowance, else its tenant's, else what is set for all; of each limit by itself."""
        # The book's mappings are replaced when something has changed, and not before.
        if self._book.keys is not self._seen[0] or self._book.tenants is not self._seen[1]:
            self._seen = self._book.keys, self._book.tenants
            self._callers.clear()
        who = principal.subject, principal.tenant
        if (caller := self._callers.get(who)) is None:
            if len(self._callers) >= REMEMBERED:
                self._callers.clear()
            caller = self._callers[who] = self._find(*who)
        return caller

    def _find(self, subject: str, tenant: str) -> Caller:
        if subject == self._exempt:
            return Caller(tenant)
        key = self._book.keys.get(subject[len(_KEY) :]) if subject.startswith(_KEY) else None
        own = _NONE if key is None else key.allowance
        theirs, rest = self._book.tenants.get(tenant, _NONE), self.defaults
        together = f"tenant:{tenant}"
        rate: tuple[str, float] | None = None
        size: tuple[str, int] | None = None
        if (limit := own.requests_per_second) is not None:
            rate = subject, limit
        elif (limit := _first(theirs.requests_per_second, rest.requests_per_second)) is not None:
            rate = together, limit
        if (most := own.payload_bytes_per_day) is not None:
            size = subject, most
        elif (most := _first(theirs.payload_bytes_per_day, rest.payload_bytes_per_day)) is not None:
            size = together, most
        return Caller(
            tenant,
            rate,
            _first(own.waiting_tasks, theirs.waiting_tasks, rest.waiting_tasks),
            _first(own.running_tasks, theirs.running_tasks, rest.running_tasks),
            size,
        )

    def _request(self, scope: Asgi, name: str, rate: float, now: float) -> Standing:
        bucket = self.counters.bucket(name, rate, now)
        wait = bucket.take(now)
        one = Standing(
            standings.REQUESTS, int(bucket.size), int(max(0.0, bucket.tokens)), bucket.seconds_to_full(now)
        )
        if wait:
            detail = f"{rate:g} requests a second are allowed, and {BURST_SECONDS:g} s' worth at once."
            raise _refused(scope, one, wait, detail)
        return one

    def _submission(self, scope: Asgi, caller: Caller, now: float, held: list[Standing]) -> "Admission":
        gauges = []
        if caller.waiting is not None or caller.running is not None:
            self._used.set()
            gauge = self.counters.gauge(caller.tenant, now)
            gauges.append(gauge)
            held += tasks_within(scope, caller, gauge, 1)
        daily, expected, most = None, 0, 0
        if caller.bytes is not None:
            self._used.set()
            name, most = caller.bytes
            daily = self.counters.day(name, day_of(self._wall()))
            expected = announced(scope)
            held.append(self.bytes_within(scope, daily, most, expected))
        if self._ceiling:
            self._used.set()
            everybody = self.counters.all_tasks()
            gauges.append(everybody)
            self.below_ceiling(1)
        self.load.check(caller.tenant)
        return Admission(self, scope, caller, gauges, daily, expected)

    def bytes_within(self, scope: Asgi, daily: Daily, most: int, more: int) -> Standing:
        """Raises `Problem` where so many bytes more are too many."""
        left = most - daily.total
        one = Standing(standings.BYTES, most, max(0, left - more), seconds_left(self._wall()))
        if more > left or (not more and left <= 0):
            detail = f"{most} bytes of payload are allowed in a day, UTC; {max(0, left)} are left."
            raise _refused(scope, one, one.reset, detail)
        return one

    def below_ceiling(self, tasks: int) -> None:
        """Raises `Problem` where so many tasks more are too many for all that there are."""
        if self._ceiling and self.counters.everybody.waiting + tasks > self._ceiling:
            raise overloaded(f"{self._ceiling} tasks wait already, which is as many as may")

    # --- with the other gateways

    async def follow(self) -> None:
        """Runs as long as the process does."""
        period = PERIOD_SECONDS if self._limited else CEILING_SECONDS
        forget_at = self._clock() + FORGET_SECONDS
        while True:
            await woken(self._used, COMPARE_SECONDS if self.counters.buckets else None)
            self._used.clear()
            await self.exchange()
            if self._clock() > forget_at:
                forget_at = self._clock() + FORGET_SECONDS
                self.counters.forget(self._clock(), day_of(self._wall()))
            await asyncio.sleep(period)

    async def exchange(self) -> None:
        """Tell what was used here, and hear what was used everywhere."""
        if self._counts is None or not (told := self.counters.tell(self._clock())):
            return
        try:
            heard = await self._counts.exchange(told)
        except ReadModelUnavailable as error:
            self.counters.lose()
            if not self._away:
                self._away = True
                log.warning("limits hold for each gateway by itself now", extra={"reason": str(error)})
        else:
            self._away = False
            self.counters.hear(heard, told, self._clock())


class Admission:
    """A request that may bring tasks, from its head to its answer."""

    __slots__ = (
        "_caller",
        "_closed",
        "_daily",
        "_gauges",
        "_held",
        "_left",
        "_limits",
        "_scope",
        "_tasks",
    )

    def __init__(
        self,
        limits: Limits,
        scope: Asgi,
        caller: Caller,
        gauges: list[Gauge],
        daily: Daily | None,
        announced: int,
    ) -> None:
        self._limits = limits
        self._scope = scope
        self._caller = caller
        self._gauges = gauges
        self._daily = daily
        self._left = announced
        """Bytes that were announced and have not come."""
        self._tasks = 1
        self._held = 0
        self._closed = False
        for gauge in gauges:
            gauge.reserve(1)
        if daily is not None:
            daily.reserved += announced

    def claim(self, tasks: int) -> None:
        """It brings so many tasks. Raises `Problem` where they are too many; none of them may be taken."""
        more = tasks - self._tasks
        if more <= 0:
            return
        for gauge in self._gauges:
            if gauge is not self._limits.counters.everybody:
                tasks_within(self._scope, self._caller, gauge, more)
        self._limits.below_ceiling(more)
        self._tasks = tasks
        for gauge in self._gauges:
            gauge.reserve(more)

    def came(self, size: int) -> None:
        """A piece of the body, which is kept. Raises `Problem` where it is one too many."""
        self.hold(size)
        self.passed(size)

    def passed(self, size: int) -> None:
        """The same of a piece that is not kept."""
        if self._daily is None or self._caller.bytes is None:
            return
        announced = min(size, self._left)
        self._left -= announced
        self._daily.reserved -= announced
        most = self._caller.bytes[1]
        self._daily.own += size
        if size > announced and self._daily.total > most:
            self._limits.bytes_within(self._scope, self._daily, most, 1)

    def hold(self, size: int) -> None:
        """So many bytes more are in memory until it is answered. Raises `Problem`."""
        self._limits.load.hold(self._caller.tenant, size)
        self._held += size

    def close(self, *, accepted: bool) -> None:
        """It is answered, or will be when its tasks have ended; `accepted`, if those are in the log."""
        if self._closed:
            return
        self._closed = True
        # A scope and its admission name each other: what is no circle needs no collector.
        self._scope.pop(_ADMISSION, None)
        self._limits.load.go(self._caller.tenant, self._held)
        if self._daily is not None:
            self._daily.reserved -= self._left
        for gauge in self._gauges:
            gauge.settle(self._tasks, accepted=accepted)


def admission_of(request: Request) -> Admission | None:
    """That of a request which may bring tasks."""
    admission: Admission | None = request.scope.get(_ADMISSION)
    return admission


def claim_tasks(request: Request, tasks: int) -> None:
    """Count a request as so many tasks: for a route that takes several at once, before the first of them is
    stored. Raises `Problem` where they are more than may wait."""
    if (admission := admission_of(request)) is not None:
        admission.claim(tasks)


def tasks_within(scope: Asgi, caller: Caller, gauge: Gauge, more: int) -> list[Standing]:
    """Raises `Problem` where so many tasks more are too many."""
    found = []
    if caller.running is not None:
        left = caller.running - gauge.running
        one = Standing(standings.RUNNING, caller.running, max(0, left), RECOUNT_SECONDS)
        if left <= 0:
            detail = f"{gauge.running} tasks of the tenant are running, and {caller.running} may."
            raise _refused(scope, one, RECOUNT_SECONDS, detail)
        found.append(one)
    if caller.waiting is not None:
        left = caller.waiting - gauge.waiting
        one = Standing(standings.WAITING, caller.waiting, max(0, left - more), RECOUNT_SECONDS)
        if more > left:
            detail = f"{gauge.waiting} tasks of the tenant are waiting, and {caller.waiting} may."
            raise _refused(scope, one, RECOUNT_SECONDS, detail)
        found.append(one)
    return found


def _refused(scope: Asgi, one: Standing, wait: float, detail: str) -> Problem:
    _tell(scope, one)
    after = str(max(1, whole_seconds(wait)))
    return Problem("too_many_requests", detail, headers={"retry-after": after}, limit=one.name)


def _tell(scope: Asgi, one: Standing | None) -> None:
    if one is not None:
        scope[ANSWER_HEADERS] = headers(one)


def _first(*numbers: Number | None) -> Number | None:
    return next((number for number in numbers if number is not None), None)
