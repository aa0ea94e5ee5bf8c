"""
The one judge of a wait: observations in, "wait so long / ended / give up" out.

The operator's blocking wait, the sensor's poke and the trigger's loop all ask the same object, so a batch is
judged alike wherever somebody waits for it. It reads no clock, sends no request and never sleeps.

A batch is *ended* only when AtScale says one of its words for it, and green only on ``done`` or
``success``. All other answers are doubt, and doubt is borne for a bounded time:

- the batch is not in the history (yet): five minutes;
- AtScale cannot be read (connection, 5xx, 429, 401, 403, an answer that is not one): half an hour;
- AtScale says a word that nobody knows: half an hour;
- the batch is judged by its instances, because no history may be read: an end must be seen twice.

Each kind of doubt has its own clock, which runs until an answer contradicts it. So kinds that take turns, as
with two servers of which one is down and the other knows less, cannot put the end off for ever.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from airflow_provider_atscale.api.models import Batch, Phase
from airflow_provider_atscale.api.observation import Missing, Observation, ReadFailed
from airflow_provider_atscale.api.values import is_number

#: The part of the time already waited after which to look again.
GROWTH = 0.2
#: Seconds between the first looks, and until when they are the first.
FIRST = 1.0
EARLY = 1.9
#: The shortest time between two later looks, in seconds: it begins like this, grows like this, and ends there,
#: where it meets :data:`GROWTH`.
SHORTEST = 1.3
SLOPE = 0.1
SHORT = 2.6
#: No setting of the longest time makes a wait a busy loop.
FLOOR = 0.1
#: By how much a time between two looks may be drawn out; it is never cut, so that no wait asks more often.
JITTER = 0.02
#: After an estimated end, the share of the estimate by which to look later.
AFTER_ESTIMATE = 0.05
#: How many of the last answers a final error shows.
REMEMBERED = 3


def next_poll_delay(elapsed: float, estimate: float | None, cap: float, random: float) -> float:
    """
    Return the seconds until the next look at a batch.

    A fifth of the time already waited: over builds of all lengths the end is seen late by a tenth of the length
    in the median, at the most by a fifth, and a build of any length costs at most twenty requests more than a
    look each minute. That is as few as can be: both bounds are met with nothing to spare, so a number that is
    changed here misses one of them.

    :param elapsed: Seconds that the batch has been waited for.
    :param estimate: Seconds that AtScale thinks the build takes; it can only shorten the wait.
    :param cap: The longest wait, to which chance adds up to 2 %.
    :param random: A random number from 0 to 1, so that waiters never beat in step.
    """
    shortest = FIRST if elapsed < EARLY else min(SHORTEST + SLOPE * elapsed, SHORT)
    seconds = max(shortest, elapsed * GROWTH)
    if estimate is not None and estimate > elapsed:
        seconds = min(seconds, max(shortest, estimate * (1 + AFTER_ESTIMATE) - elapsed))
    return min(seconds, max(cap, FLOOR)) * (1 + JITTER * random)


@dataclass(frozen=True, slots=True)
class Tolerance:
    """
    How long doubt is borne.

    :param missing: Seconds that a batch may be missing from the history.
    :param trouble: Seconds that AtScale may be unreadable, without one good answer in between.
    :param unknown: Seconds that a batch may be in a status that nobody knows.
    :param settle: Seconds for which an end that only instances show must stay as it is.
    :param looks: Answers of doubt that are borne in any case, however long they took.
    """

    missing: float = 300.0
    trouble: float = 1800.0
    unknown: float = 1800.0
    settle: float = 30.0
    looks: int = 3


@dataclass(frozen=True, slots=True)
class Wait:
    """Look again after so many seconds."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Ended:
    """The batch has ended, well or not: its phase tells."""

    batch: Batch


@dataclass(frozen=True, slots=True)
class GaveUp:
    """
    Doubt has lasted too long.

    :param kind: ``missing``, ``trouble`` or ``unknown``.
    :param reason: What to tell the reader.
    """

    kind: str
    reason: str


@dataclass(frozen=True, slots=True)
class TimedOut:
    """
    A deadline has passed.

    :param limit: Which: ``timeout`` or ``execution_timeout``.
    :param seconds: Seconds that were waited.
    :param last_status: The batch's status when it was last seen.
    """

    limit: str
    seconds: float
    last_status: str | None = None


Decision = Wait | Ended | GaveUp
WaitResult = Ended | GaveUp | TimedOut


#: Which doubts an answer of a kind does away with: a history that was read is no trouble, and a batch that it
#: lists is not missing.
_CONTRADICTS = {
    "trouble": (),
    "missing": ("trouble",),
    "unknown": ("trouble", "missing"),
}


@dataclass(slots=True)
class Uncertainty:
    """Since when there is a doubt of one kind, and how many answers of this kind there were."""

    since: float
    looks: int = 0


@dataclass(slots=True)
class WaitPolicy:
    """
    Judge what is seen of one batch.

    :param since: Epoch seconds at which the wait began, by whichever process.
    :param cap: The longest time between two looks, in seconds.
    :param tolerance: How long doubt is borne.
    :param subject: What is waited for, for the texts.
    :param listed: Whether the history has shown the batch, to whichever process. From then on only the
        history can show its end: rights that pass for a while must not let instances end the wait.
    """

    since: float
    cap: float
    tolerance: Tolerance = field(default_factory=Tolerance)
    subject: str = "the batch"
    listed: bool = False
    batch: Batch | None = None
    _kind: str | None = None
    _uncertainties: dict[str, Uncertainty] = field(default_factory=dict)
    _answers: tuple[str, ...] = ()
    _end: tuple[frozenset[tuple[str, str]], float] | None = None

    def observe(self, observation: Observation, now: float, random: float) -> Decision:
        """
        Take one observation and decide.

        :param observation: What was seen.
        :param now: Epoch seconds.
        :param random: A random number from 0 to 1.
        """
        if isinstance(observation, ReadFailed):
            return self._tolerate("trouble", observation.reason, now, random)
        if isinstance(observation, Missing):
            return self._tolerate("missing", "the build history does not list it", now, random)
        batch = observation.batch
        if batch.instances is None:
            self.listed = True
        elif self.listed and batch.phase is not Phase.WAITING:
            return self._tolerate(
                "trouble",
                "the build history that listed it may not be read any more, and its aggregate instances alone "
                "do not prove that it has ended",
                now,
                random,
            )
        self.batch = batch
        if batch.phase is Phase.UNKNOWN:
            return self._tolerate("unknown", f"its status is {batch.status!r}", now, random)
        self._kind = None
        self._uncertainties.clear()
        self._answers = ()
        if batch.phase is Phase.WAITING:
            self._end = None
            return self._wait(now, random)
        if batch.instances is not None and not self._has_settled(batch, now):
            return Wait(min(max(SHORT, self.tolerance.settle / 2), max(self.cap, FLOOR)))
        return Ended(batch)

    @property
    def is_uncertain(self) -> bool:
        """Whether the last answer told nothing certain."""
        return self._kind is not None

    @property
    def last_answer(self) -> str | None:
        """The last doubtful answer."""
        return self._answers[-1] if self._answers else None

    def _wait(self, now: float, random: float) -> Wait:
        estimate = self.batch.estimate_ms if self.batch else None
        elapsed = max(now - self.since, 0.0)
        return Wait(next_poll_delay(elapsed, estimate / 1000 if estimate else None, self.cap, random))

    def _has_settled(self, batch: Batch, now: float) -> bool:
        picture = frozenset((each.id, each.status) for each in batch.instances or ())
        if self._end is None or self._end[0] != picture:
            self._end = (picture, now)
            return False
        return now - self._end[1] >= self.tolerance.settle

    def _tolerate(self, kind: str, reason: str, now: float, random: float) -> Decision:
        if kind != "trouble":
            self._end = None
        for contradicted in _CONTRADICTS[kind]:
            self._uncertainties.pop(contradicted, None)
        self._kind = kind
        doubt = self._uncertainties.setdefault(kind, Uncertainty(now))
        doubt.looks += 1
        self._answers = (*self._answers, reason.rstrip("."))[-REMEMBERED:]
        bound: float = getattr(self.tolerance, kind)
        if now - doubt.since >= bound and doubt.looks >= self.tolerance.looks:
            return GaveUp(kind, self._give_up_reason(kind, now - doubt.since))
        wait = self._wait(now, random).seconds
        if kind == "trouble":
            # Whatever ails the server, asking it more often as time goes on does not help.
            wait = max(wait, min(2.0 ** min(doubt.looks, 10), self.cap) * (1 + random / 5))
        left = doubt.since + bound - now
        return Wait(min(wait, max(left, FIRST)))

    def _give_up_reason(self, kind: str, seconds: float) -> str:
        minutes = f"{seconds / 60:.0f} minutes" if seconds >= 120 else f"{seconds:.0f} seconds"
        answers = "; then ".join(self._answers)
        if kind == "missing":
            return f"{self.subject} has not been in the build history for {minutes}"
        if kind == "unknown":
            return f"{self.subject} has been in an unknown status for {minutes}: {answers}"
        return (
            f"{self.subject} could not be read for {minutes}; "
            f"the last {len(self._answers)} answers were: {answers}"
        )

    # --- from process to process ---

    def memory(self) -> dict[str, Any]:
        """Return what a later process must know to go on judging, as JSON values."""
        return {
            "kind": self._kind,
            "doubts": {kind: [doubt.since, doubt.looks] for kind, doubt in self._uncertainties.items()},
            "answers": list(self._answers),
            "listed": self.listed,
        }

    def remember(self, memory: Mapping[str, Any]) -> None:
        """Go on from what an earlier process knew; what is not understood is left out."""
        self.listed = self.listed or memory.get("listed") is True
        kind, doubts, answers = memory.get("kind"), memory.get("doubts"), memory.get("answers")
        if not isinstance(doubts, Mapping) or not isinstance(answers, (list, tuple)):
            return
        known = {name: _parse_uncertainty(doubts[name]) for name in _CONTRADICTS if name in doubts}
        self._uncertainties = {name: doubt for name, doubt in known.items() if doubt is not None}
        self._kind = kind if isinstance(kind, str) and kind in self._uncertainties else None
        self._answers = tuple(answer for answer in answers if isinstance(answer, str))[-REMEMBERED:]


def _parse_uncertainty(value: Any) -> Uncertainty | None:
    if not isinstance(value, (list, tuple)) or len(value) != 2:
        return None
    since, looks = value
    if not is_number(since) or not isinstance(looks, int) or isinstance(looks, bool) or looks < 0:
        return None
    return Uncertainty(float(since), looks)
