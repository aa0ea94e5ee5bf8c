"""
Wait policy: given an observation of a batch, decide to poll again, finish or give up.

The operator's blocking wait, the sensor and the trigger all use it, so they agree on every batch. It reads no
clock, sends no request and never sleeps.

A batch has *ended* only if AtScale reports a status that says so, and succeeded only with ``done`` or
``success``. Any other answer is inconclusive and tolerated for a limited time:

- the batch is not in the history (yet): five minutes;
- AtScale cannot be read (connection, 5xx, 429, 401, 403, an answer that is no JSON): half an hour;
- AtScale reports an unknown status: half an hour;
- only the batch's aggregate instances can be read: an end must be seen twice.

Each kind of uncertainty has its own clock, which runs until an answer contradicts it. Alternating kinds of
failure therefore cannot extend the wait without bound.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from airflow_provider_atscale.api.models import Batch, Phase
from airflow_provider_atscale.api.observation import Missing, Observation, ReadFailed
from airflow_provider_atscale.api.stored_json import read_json

#: A delay is this share of the time already waited.
GROWTH = 0.2
#: The delay, in seconds, until so many seconds have been waited.
FIRST_DELAY = 1.0
FIRST_DELAY_UNTIL = 1.9
#: The shortest delay after that: this many seconds, plus a share of the time already waited, up to a limit.
LATER_DELAY = 1.3
LATER_DELAY_GROWTH = 0.1
LATER_DELAY_LIMIT = 2.6
#: The smallest poll interval, so that no setting makes a wait a busy loop.
MIN_POLL_INTERVAL = 0.1
#: The share of a delay that jitter may add. It never shortens a delay, so no wait polls more often.
JITTER = 0.02
#: How many of the last answers an error shows.
MAX_ANSWERS = 3


def next_poll_delay(elapsed: float, poll_interval: float, random: float) -> float:
    """
    Return the seconds until the next poll: a fifth of the time already waited, up to the poll interval.

    In the median the end of a build is noticed a tenth of its length late. A build costs at most twenty polls
    more than one each minute would. Do not change the constants without running ``tests/budgets``: both
    bounds are tight. AtScale's estimate is not used, because it is unreliable.

    :param poll_interval: The longest delay in seconds, without jitter.
    :param random: A random number from 0 to 1.
    """
    if elapsed < FIRST_DELAY_UNTIL:
        shortest = FIRST_DELAY
    else:
        shortest = min(LATER_DELAY + LATER_DELAY_GROWTH * elapsed, LATER_DELAY_LIMIT)
    seconds = max(shortest, elapsed * GROWTH)
    return min(seconds, max(poll_interval, MIN_POLL_INTERVAL)) * (1 + JITTER * random)


@dataclass(frozen=True, slots=True)
class Tolerance:
    """
    How long uncertainty is tolerated.

    :param missing: Seconds that a batch may be missing from the history.
    :param trouble: Seconds that AtScale may be unreadable, without one good answer in between.
    :param unknown: Seconds that a batch may have an unknown status.
    :param confirm_end_after: Seconds that an end which only instances show must stay the same.
    :param attempts: How many uncertain answers are tolerated in any case, however long they took.
    """

    missing: float = 300.0
    trouble: float = 1800.0
    unknown: float = 1800.0
    confirm_end_after: float = 30.0
    attempts: int = 3


@dataclass(frozen=True, slots=True)
class Wait:
    """Poll again after so many seconds."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Ended:
    """The batch has ended; its phase tells whether it succeeded."""

    batch: Batch


@dataclass(frozen=True, slots=True)
class GaveUp:
    """Uncertainty of a kind has lasted too long, for the reason that the error tells."""

    kind: str
    reason: str


@dataclass(frozen=True, slots=True)
class TimedOut:
    """
    A deadline has passed.

    :param seconds: Seconds waited.
    :param last_status: The batch's status when it was last seen.
    :param last_answer: Why the last poll told nothing certain, if it did not.
    """

    limit: str
    seconds: float
    last_status: str | None = None
    last_answer: str | None = None


Decision = Wait | Ended | GaveUp
WaitResult = Ended | GaveUp | TimedOut
Kind = Literal["missing", "trouble", "unknown"]

#: Which uncertainties an answer of a kind ends: a history that was read is no trouble, and a batch that it
#: lists is not missing.
_CONTRADICTS: dict[Kind, tuple[Kind, ...]] = {
    "trouble": (),
    "missing": ("trouble",),
    "unknown": ("trouble", "missing"),
}


@dataclass(slots=True)
class Uncertainty:
    """Since when answers of one kind have been uncertain, and how many there were."""

    since: float
    attempts: int = 0


@dataclass(slots=True)
class WaitState:
    """
    What a later process must know to continue a wait.

    :param seen_in_history: Whether the history has listed the batch.
    :param kind: How the last answer was uncertain.
    :param uncertainties: All uncertainties that no answer has contradicted.
    :param answers: The last uncertain answers.
    """

    seen_in_history: bool = False
    kind: Kind | None = None
    uncertainties: dict[Kind, Uncertainty] = field(default_factory=dict)
    answers: tuple[str, ...] = ()


class WaitPolicy:
    """
    Decide after each observation of one batch.

    :param since: Epoch seconds at which the wait began, in any process.
    :param poll_interval: The longest time between two polls, in seconds.
    :param subject: What is waited for, for the texts.
    :param seen_in_history: Whether the history has listed the batch, in any process. From then on only the
        history can show its end: a lost permission must not let instances end the wait.
    """

    __slots__ = ("_end", "_state", "batch", "poll_interval", "since", "subject", "tolerance")

    def __init__(
        self,
        since: float,
        poll_interval: float,
        tolerance: Tolerance | None = None,
        subject: str = "the batch",
        *,
        seen_in_history: bool = False,
    ) -> None:
        self.since = since
        self.poll_interval = poll_interval
        self.tolerance = tolerance or Tolerance()
        self.subject = subject
        self.batch: Batch | None = None
        self._state = WaitState(seen_in_history)
        self._end: tuple[frozenset[tuple[str, str]], float] | None = None

    def observe(self, observation: Observation, now: float, random: float) -> Decision:
        """Take one observation and decide."""
        if isinstance(observation, ReadFailed):
            return self._tolerate("trouble", observation.reason, now, random)
        if isinstance(observation, Missing):
            return self._tolerate("missing", "the build history does not list it", now, random)
        batch, phase = observation.batch, observation.batch.phase
        if batch.instances is None:
            self._state.seen_in_history = True
        elif self.seen_in_history and phase is not Phase.WAITING:
            reason = (
                "no permission to read the build history any more, and aggregates alone do not prove the end"
            )
            return self._tolerate("trouble", reason, now, random)
        self.batch = batch
        if phase is Phase.UNKNOWN:
            return self._tolerate("unknown", f"its status is {batch.status!r}", now, random)
        self._state = WaitState(self.seen_in_history)
        if phase is Phase.WAITING:
            self._end = None
            return Wait(self._next_delay(now, random))
        if batch.instances is not None and not self._is_confirmed(batch, now):
            seconds = max(LATER_DELAY_LIMIT, self.tolerance.confirm_end_after / 2)
            return Wait(min(seconds, max(self.poll_interval, MIN_POLL_INTERVAL)))
        return Ended(batch)

    @property
    def began(self) -> float:
        """Epoch seconds at which the batch began, by the server's clock if it says so."""
        began = self.batch.began if self.batch else None
        return began.timestamp() if began else self.since

    def is_late(self, late_after: float | None, now: float) -> bool:
        """Return whether the batch runs for longer than it should; no if it is not known how long it should."""
        if late_after is None or now - self.began <= late_after:
            return False
        return self.batch is None or self.batch.is_running

    @property
    def seen_in_history(self) -> bool:
        """Whether the history has listed the batch."""
        return self._state.seen_in_history

    @property
    def is_uncertain(self) -> bool:
        """Whether the last answer was uncertain."""
        return self._state.kind is not None

    @property
    def last_answer(self) -> str | None:
        """Why the last poll told nothing certain; None if it did."""
        return self._state.answers[-1] if self._state.answers else None

    def to_json(self) -> dict[str, Any]:
        """Return the state for a later process, as JSON values."""
        return {**asdict(self._state), "answers": list(self._state.answers)}

    def restore(self, value: Any) -> None:
        """Continue from the state of an earlier process; a value that is not such a state changes nothing."""
        try:
            self._state = read_json(WaitState, value)
        except ValueError:
            return

    def _next_delay(self, now: float, random: float) -> float:
        return next_poll_delay(max(now - self.since, 0.0), self.poll_interval, random)

    def _is_confirmed(self, batch: Batch, now: float) -> bool:
        instances = frozenset((each.id, each.status) for each in batch.instances or ())
        if self._end is None or self._end[0] != instances:
            self._end = (instances, now)
            return False
        return now - self._end[1] >= self.tolerance.confirm_end_after

    def _tolerate(self, kind: Kind, reason: str, now: float, random: float) -> Decision:
        if kind != "trouble":
            self._end = None
        state = self._state
        for contradicted in _CONTRADICTS[kind]:
            state.uncertainties.pop(contradicted, None)
        state.kind = kind
        state.answers = (*state.answers, reason.rstrip("."))[-MAX_ANSWERS:]
        current = state.uncertainties.setdefault(kind, Uncertainty(now))
        current.attempts += 1
        bound: float = getattr(self.tolerance, kind)
        if now - current.since >= bound and current.attempts >= self.tolerance.attempts:
            return GaveUp(kind, self._give_up_reason(kind, now - current.since))
        seconds = self._next_delay(now, random)
        if kind == "trouble":
            # A server in trouble is polled less and less often.
            backoff = min(2.0 ** min(current.attempts, 10), self.poll_interval)
            seconds = max(seconds, backoff * (1 + random / 5))
        return Wait(min(seconds, max(current.since + bound - now, FIRST_DELAY)))

    def _give_up_reason(self, kind: Kind, seconds: float) -> str:
        duration = f"{seconds / 60:.0f} minutes" if seconds >= 120 else f"{seconds:.0f} seconds"
        answers = self._state.answers
        if kind == "missing":
            return f"{self.subject} has not been in the build history for {duration}"
        if kind == "unknown":
            return f"{self.subject} has been in an unknown status for {duration}: {'; then '.join(answers)}"
        return (
            f"{self.subject} could not be read for {duration}; "
            f"the last {len(answers)} answers were: {'; then '.join(answers)}"
        )
