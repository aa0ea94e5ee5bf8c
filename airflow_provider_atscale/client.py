"""
Drivers of flows: one over requests, one over aiohttp, both thin.

A driver performs a flow's effects and knows the rules that hold for every request: a timeout, no redirects,
reads repeated on trouble that passes, the start POST never. What a call is lives in ``protocol/``.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import html
import itertools
import json
import os
import re
import time
from collections import defaultdict, deque
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote, quote_plus, urlsplit

import tenacity

from airflow_provider_atscale.exceptions import (
    AtScaleAuthenticationError,
    AtScaleConfigurationError,
    AtScaleConnectionError,
    AtScaleError,
)
from airflow_provider_atscale.protocol.messages import Effect, Flow, Once, Pause, Request, Response, Secret
from airflow_provider_atscale.version import user_agent

if TYPE_CHECKING:
    import ssl
    from types import TracebackType

    import aiohttp
    import requests
    from yarl import URL

    from airflow_provider_atscale.connection import Settings

T = TypeVar("T")

#: Answers that a read is repeated after.
TRANSIENT = (429, 502, 503, 504)
#: How often a read is tried.
TRIES = 5
#: How long, in seconds, it stands for everybody that credentials were refused, or that no token was received
#: for another reason. A thousand waiters that each try to log in on their own would have the user locked out.
REFUSED_FOR, NO_TOKEN_FOR = 30.0, 5.0
#: The longest pause that a server's Retry-After is granted.
LONGEST_PAUSE = 60.0
#: Bytes of an answer that are read at once.
_PIECE = 1024
#: An answer is quick that took no more than this part of the time that it may take.
_QUICK = 0.5
#: How many addresses of a server are remembered as quick.
_REMEMBERED_QUICK = 4096
#: How many tokens of a process Airflow is told to hide in everybody's logs. It keeps each value for ever and
#: compiles all of them into one expression whenever one is added: a triggerer that renews a token every few
#: minutes would use up its memory within days, and before Airflow 3.1 get no token any more, because the
#: expression is too large. Texts of ours show no token, however many there were.
HIDDEN_BY_AIRFLOW = 32
#: How many tokens a client takes out of texts; those before have long ended.
REMEMBERED = 8
_BACKOFF = tenacity.wait_exponential(multiplier=0.5, max=15.0) + tenacity.wait_random(0, 0.5)

_tokens_of_process = itertools.count()


def _is_transient(state: tenacity.RetryCallState) -> bool:
    """Whether an outcome is worth another try: the answer says so, or there was none."""
    outcome = state.outcome
    if outcome is None:
        return False
    if outcome.failed:
        return isinstance(outcome.exception(), AtScaleConnectionError)
    return outcome.result().status in TRANSIENT


def _pause(state: tenacity.RetryCallState) -> float:
    """Return the seconds until the next try: what the server asks for, else growing ones with jitter."""
    outcome = state.outcome
    if outcome is not None and not outcome.failed:
        asked = _retry_after(outcome.result())
        if asked is not None:
            return min(asked, LONGEST_PAUSE)
    return _BACKOFF(state)


def _retry_after(response: Response) -> float | None:
    """Return the seconds of a ``Retry-After`` header, which may be a number or a date."""
    value = response.headers.get("retry-after", "").strip()
    if value.isascii() and value.isdigit():
        return float(value)
    try:
        # A date without a zone, which is no proper one, cannot be compared and is a TypeError too.
        return max((parsedate_to_datetime(value) - response.date).total_seconds(), 0.0)  # type: ignore[operator]
    except (TypeError, ValueError):
        return None


def _policy(tries: int) -> dict[str, Any]:
    """Return the retry policy of reads: the same for both drivers."""
    return {
        "retry": _is_transient,
        "wait": _pause,
        "stop": tenacity.stop_after_attempt(tries),
        # The last answer is the outcome, not an error about retries.
        "retry_error_callback": lambda state: state.outcome.result() if state.outcome else None,
    }


@dataclass(frozen=True, slots=True)
class _Answer(Response):
    """
    An answer that shows no known secret, should a server have sent one back.

    :param hide: Takes known secrets out of a text.
    """

    hide: Callable[[str], str] = str

    @property
    def excerpt(self) -> str:
        """The first characters of the body; secrets are hidden first, or half of one might be left."""
        return Response(self.status, self.headers, self.hide(self.text).encode(), self.url).excerpt


class _Driver:
    """What both drivers share: the connection's settings and the secrets that were met."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._fixed = frozenset(value for value in settings.secrets if len(value) > 3)
        self._tokens: deque[str] = deque(maxlen=REMEMBERED)
        self._last_headers: tuple[object, dict[str, str]] = None, {}

    def _headers(self, request: Request) -> dict[str, str]:
        """Return a request's headers: its own win over the connection's, however those are written."""
        own = tuple(request.headers.items())
        if own != self._last_headers[0]:
            # Most requests carry the headers of the one before.
            self._last_headers = own, self._merge_headers(request.headers)
        return self._last_headers[1]

    def _merge_headers(self, own: Mapping[str, str]) -> dict[str, str]:
        merged: dict[str, tuple[str, str]] = {}
        for source in ({"User-Agent": user_agent()}, self.settings.headers, own):
            merged.update({name.lower(): (name, value) for name, value in source.items()})
        for name, value in merged.values():
            # The libraries' own errors about it show the value, which is a token as a rule.
            if not (value.isprintable() and _is_latin(value)):
                raise AtScaleConfigurationError(
                    f"Connection {self.settings.conn_id!r}: the value of the header {name!r} has a character "
                    "that a header cannot have, such as the end of a line. Was the token, or the field "
                    "'headers', copied with it?"
                )
        return dict(merged.values())

    def _clean(self, error: AtScaleError) -> AtScaleError:
        """Take known secrets out of an error's text, should a server have sent one back."""
        text = str(error)
        cleaned = self._hide(text)
        if cleaned != text:
            error.args = (cleaned, *error.args[1:])
        return error

    def _hide(self, text: str) -> str:
        for spelling in self._spellings():
            text = text.replace(spelling, "***")
        return text

    def _learn(self, token: str) -> bool:
        """Remember a token that was received; return whether Airflow is to be told of it."""
        self._tokens.append(token)
        return next(_tokens_of_process) < HIDDEN_BY_AIRFLOW

    def _spellings(self) -> Iterator[str]:
        """Return the secrets as they are, and as servers that send them back write them in JSON, HTML, URLs."""
        for secret in sorted(self._fixed.union(self._tokens), key=len, reverse=True):
            yield from {
                secret,
                json.dumps(secret)[1:-1],
                json.dumps(secret, ensure_ascii=False)[1:-1],
                html.escape(secret),
                quote(secret),
                quote(secret, safe=""),
                quote_plus(secret),
            }

    def _response(self, request: Request, status: int, headers: Mapping[str, str], body: bytes) -> Response:
        """Return an answer as a flow sees it."""
        if status >= 300:
            # Nothing but a text for people, and a message is shortened before an error shows it.
            for spelling in self._spellings():
                body = body.replace(spelling.encode(), b"***")
        lowered = {name.lower(): value for name, value in headers.items()}
        return _Answer(status, lowered, body, request.url, self._hide)

    def _no_answer(self, request: Request, error: BaseException, *, sent: bool) -> AtScaleConnectionError:
        # Errors of proxies show the whole address of the proxy, login and password included.
        text = re.sub(r"(?<=://)[^/@\s]+@", "***@", str(error))
        what = f"{type(error).__name__}: {text}" if text else type(error).__name__
        hint = (
            "Check the connection's host (https or http?) and port, its verify setting and the network"
            if request.repeatable or not sent
            else "The request may have reached AtScale"
        )
        return AtScaleConnectionError(
            f"{request.method} {request.url} got no answer ({what}). {hint}.", sent=sent
        )


def _is_latin(text: str) -> bool:
    try:
        text.encode("latin-1")
    except UnicodeEncodeError:
        return False
    return True


def _step(flow: Flow[T], outcome: Any, error: BaseException | None) -> tuple[Effect | None, T | None]:
    """Give a flow the outcome of its last effect; return its next effect, or its value and None."""
    try:
        return (flow.throw(error) if error is not None else flow.send(outcome)), None
    except StopIteration as stop:
        return None, stop.value


class AtScaleClient(_Driver):
    """
    Run flows one after the other over requests.

    :param settings: The connection's settings.
    :param mask: Hides a value from all logs.
    :param sleep: Lets time pass.
    """

    def __init__(
        self,
        settings: Settings,
        mask: Callable[[str], None] | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        super().__init__(settings)
        self.edition = settings.protocol()
        self._mask = mask
        self._sleep = sleep
        self._session: requests.Session | None = None

    def run(self, flow: Flow[T], tries: int = TRIES) -> T:
        """
        Run a flow to its end.

        :param flow: The flow.
        :param tries: How often a read is tried at the most.
        """
        outcome: Any = None
        error: BaseException | None = None
        while True:
            try:
                effect, value = _step(flow, outcome, error)
            except AtScaleError as raised:
                raise self._clean(raised) from raised.__cause__
            if effect is None:
                return value  # type: ignore[return-value]
            outcome, error = None, None
            try:
                outcome = self._perform(effect, tries)
            except AtScaleError as raised:
                error = raised

    def _perform(self, effect: Effect, tries: int) -> Any:
        if isinstance(effect, Request):
            if not effect.repeatable:
                return self._send(effect)
            retrying = tenacity.Retrying(sleep=self._sleep, **_policy(tries))
            return retrying(self._send, effect)
        if isinstance(effect, Pause):
            return self._sleep(effect.seconds)
        if isinstance(effect, Secret):
            return self._mask(effect.value) if self._learn(effect.value) and self._mask else None
        return self.run(effect.flow(), tries)

    def _send(self, request: Request) -> Response:
        import ssl
        from http.cookiejar import DefaultCookiePolicy

        import requests
        from urllib3.exceptions import NewConnectionError

        headers = self._headers(request)
        if self._session is None:
            self._session = requests.Session()
            # No answer's cookie decides what a later request means.
            self._session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=()))
        try:
            began = time.monotonic()
            answer = self._session.request(
                request.method,
                request.url,
                params=dict(request.params) or None,
                headers=headers,
                json=request.json,
                data=dict(request.form) if request.form is not None else None,
                timeout=self.settings.timeout,
                verify=self.settings.verify,
                allow_redirects=False,
                stream=True,
                # Without it a .netrc entry of the host would replace our Authorization header.
                auth=_keep_headers,
            )
            return self._response(request, answer.status_code, answer.headers, self._read_body(answer, began))
        except requests.exceptions.ConnectTimeout as error:
            raise self._no_answer(request, error, sent=False) from None
        except requests.exceptions.RequestException as error:
            reason = getattr(error.args[0], "reason", None) if error.args else None
            refused = isinstance(reason, NewConnectionError)
            # An untrusted certificate ends the handshake; other TLS errors may come after the request.
            inner = reason.args[0] if isinstance(reason, Exception) and reason.args else None
            untrusted = isinstance(inner, ssl.SSLCertVerificationError)
            raise self._no_answer(request, error, sent=not (refused or untrusted)) from None
        except OSError as error:
            # A CA bundle that is not there or is none; nothing of the network comes unwrapped.
            raise self._no_answer(request, error, sent=False) from None

    def _read_body(self, answer: requests.Response, began: float) -> bytes:
        """Read an answer piece by piece: one that only drips must not outlast the request's time limit."""
        import requests

        pieces = []
        with answer:
            for piece in answer.iter_content(_PIECE):
                pieces.append(piece)
                if time.monotonic() - began > self.settings.timeout:
                    raise requests.exceptions.ReadTimeout(
                        f"the answer was not complete after {self.settings.timeout:.0f} s"
                    )
        return b"".join(pieces)

    def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            self._session.close()
            self._session = None

    def __enter__(self) -> AtScaleClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _keep_headers(request: requests.PreparedRequest) -> requests.PreparedRequest:
    return request


def _connect_timeout() -> type[Exception]:
    """Return aiohttp's error for a connection that took too long; older versions have none of its own."""
    import aiohttp

    found: type[Exception] = getattr(aiohttp, "ConnectionTimeoutError", aiohttp.ClientConnectorError)
    return found


@lru_cache(maxsize=4096)
def _address(url: str, query: tuple[tuple[str, str], ...]) -> URL:
    """Return an address with its query; the same ones are read again and again."""
    from yarl import URL

    return URL(url).with_query(query or None)


class StandingFailure:
    """A failure that stands for a while, so that not everybody brings it about again."""

    def __init__(self) -> None:
        self._error: AtScaleError | None = None
        self._until = 0.0

    def note(self, error: AtScaleError, seconds: float) -> None:
        """
        Let a failure stand.

        :param error: The failure.
        :param seconds: For how long.
        """
        self._error, self._until = error, time.monotonic() + seconds

    def check(self) -> None:
        """Raise the failure while it stands."""
        if self._error is not None and time.monotonic() < self._until:
            # Each raise would lengthen the traceback that it carries.
            raise self._error.with_traceback(None)


class Gate:
    """
    How many requests a server is sent at once by one event loop, whatever the number of connections to it.

    A few places are kept for the addresses that were answered quickly the last time: models that the server
    cannot tell about must not keep waiting those about which it can, however many they are.

    :param places: So many requests.
    :param kept: So many of the places.
    """

    def __init__(self, places: int = 8, kept: int = 2) -> None:
        self.places = places
        self._all = asyncio.Semaphore(places)
        self._open_to_any = asyncio.Semaphore(max(places - kept, 1))
        # In the order of the last answers.
        self._quick: dict[URL, None] = {}

    async def enter(self, address: URL, seconds: float) -> bool:
        """
        Wait for a place, and return whether it is one that is open to any address.

        :param address: What is asked.
        :param seconds: How long to wait at the most; then ``asyncio.TimeoutError`` is raised.
        """
        until = time.monotonic() + seconds
        if address in self._quick:
            await self._take(self._all, until)
            # What others learned meanwhile counts as well.
            if address in self._quick:
                return False
            self._all.release()
        await self._take(self._open_to_any, until)
        try:
            await self._take(self._all, until)
        except BaseException:
            self._open_to_any.release()
            raise
        return True

    async def _take(self, places: asyncio.Semaphore, until: float) -> None:
        if places.locked():
            await asyncio.wait_for(places.acquire(), until - time.monotonic())
        else:
            await places.acquire()

    def leave(self, address: URL, from_any: bool, is_quick: bool | None) -> None:
        """
        Give a place back.

        :param address: What was asked.
        :param from_any: What :meth:`enter` returned.
        :param is_quick: Whether the answer was quick; None where nobody waited for it.
        """
        self._all.release()
        if from_any:
            self._open_to_any.release()
        if is_quick is None:
            return
        self._quick.pop(address, None)
        if is_quick:
            self._quick[address] = None
            if len(self._quick) > _REMEMBERED_QUICK:
                del self._quick[next(iter(self._quick))]


class _Work:
    """A task that several await, and how many do."""

    def __init__(self, task: asyncio.Task[Any]) -> None:
        self.task = task
        self.waiters = 0


class AsyncAtScaleClient(_Driver):
    """
    Run flows side by side over aiohttp, on the event loop that first uses it.

    :param settings: The connection's settings.
    :param mask: Hides a value from all logs.
    :param sleep: Lets time pass.
    :param gate: Bounds the requests that are sent at once, and with them the TCP connections.
    """

    def __init__(
        self,
        settings: Settings,
        mask: Callable[[str], Awaitable[None]] | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        gate: Gate | None = None,
    ) -> None:
        super().__init__(settings)
        self.edition = settings.protocol()
        self._mask = mask
        self._sleep = sleep
        self._gate = gate or Gate()
        self._session: aiohttp.ClientSession | None = None
        self._context: ssl.SSLContext | bool | None = None
        self._proxies: dict[str, str | None] = {}
        self._under_way: dict[str, _Work] = {}
        self._failures: defaultdict[str, StandingFailure] = defaultdict(StandingFailure)

    async def prepare(self) -> None:
        """Load, in a thread, what would hold up everything else on the event loop if the first request did."""
        with contextlib.suppress(OSError):
            self._context = await asyncio.to_thread(self._tls)

    async def run(self, flow: Flow[T], tries: int = TRIES, *, past_gate: bool = False) -> T:
        """
        Run a flow to its end.

        :param flow: The flow.
        :param tries: How often a read is tried at the most.
        :param past_gate: Whether its requests wait for no place: what everybody waits for must not queue.
        """
        outcome: Any = None
        error: BaseException | None = None
        while True:
            try:
                effect, value = _step(flow, outcome, error)
            except AtScaleError as raised:
                raise self._clean(raised) from raised.__cause__
            if effect is None:
                return value  # type: ignore[return-value]
            outcome, error = None, None
            try:
                outcome = await self._perform(effect, tries, past_gate)
            except AtScaleError as raised:
                error = raised

    async def _perform(self, effect: Effect, tries: int, past_gate: bool) -> Any:
        if isinstance(effect, Request):
            if tries <= 1 or not effect.repeatable:
                return await self._send(effect, past_gate)
            retrying = tenacity.AsyncRetrying(sleep=self._sleep, **_policy(tries))
            return await retrying(self._send, effect, past_gate)
        if isinstance(effect, Pause):
            return await self._sleep(effect.seconds)
        if isinstance(effect, Secret):
            return await self._mask(effect.value) if self._learn(effect.value) and self._mask else None
        return await self._once(effect, tries)

    async def _once(self, effect: Once, tries: int) -> Any:
        """Run a flow for all who want it now; its failure stands for those who want it a little later."""
        self._failures[effect.key].check()
        try:
            return await self.share(effect.key, lambda: self.run(effect.flow(), tries, past_gate=True))
        except AtScaleError as failure:
            stands = REFUSED_FOR if isinstance(failure, AtScaleAuthenticationError) else NO_TOKEN_FOR
            self._failures[effect.key].note(failure, stands)
            raise

    async def share(self, key: str, make: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """
        Await a piece of work that others may be awaiting already.

        It is a task of its own, in an empty context (the log routing of whoever comes first would be
        inherited otherwise), and goes on as long as anybody awaits it.

        :param key: What makes two pieces of work the same.
        :param make: Makes the work.
        """
        work = self._under_way.get(key)
        if work is None:
            # ensure_future copies the context of whoever calls it; this one is empty.
            work = _Work(contextvars.Context().run(asyncio.ensure_future, make()))
            self._under_way[key] = work
            work.task.add_done_callback(lambda _: self._forget(key, work))
        work.waiters += 1
        try:
            return await asyncio.shield(work.task)
        finally:
            work.waiters -= 1
            if not work.waiters and not work.task.done():
                self._forget(key, work)
                work.task.cancel()

    def _forget(self, key: str, work: _Work) -> None:
        if self._under_way.get(key) is work:
            del self._under_way[key]
        if work.task.done() and not work.task.cancelled():
            # Marks the error as seen: each waiter raises it, and the last may have gone.
            work.task.exception()

    async def _send(self, request: Request, past_gate: bool = False) -> Response:
        headers = self._headers(request)
        address = _address(request.url, tuple(request.params.items()))
        try:
            session = self._open()
        except OSError as error:
            # A CA bundle that is not there or is none.
            raise self._no_answer(request, error, sent=False) from None
        if past_gate:
            return await self._exchange(session, request, address, headers)
        # Waiting for a place is not the server's doing, so it does not count for the time limit of the answer.
        from_any = await self._enter(request, address)
        began = time.monotonic()
        is_quick: bool | None = None
        try:
            answer = await self._exchange(session, request, address, headers)
        except AtScaleConnectionError:
            is_quick = False
            raise
        else:
            is_quick = time.monotonic() - began <= _QUICK * self.settings.timeout
            return answer
        finally:
            self._gate.leave(address, from_any, is_quick)

    async def _exchange(
        self, session: aiohttp.ClientSession, request: Request, address: URL, headers: Mapping[str, str]
    ) -> Response:
        import aiohttp

        try:
            async with session.request(
                request.method,
                address,
                headers=headers,
                json=request.json,
                data=request.form,
                allow_redirects=False,
                proxy=self._proxy(request.url),
            ) as answer:
                return self._response(request, answer.status, answer.headers, await answer.read())
        except (aiohttp.ClientConnectorError, _connect_timeout()) as error:
            raise self._no_answer(request, error, sent=False) from None
        except (aiohttp.ClientError, asyncio.TimeoutError, OSError) as error:
            raise self._no_answer(request, error, sent=True) from None

    async def _enter(self, request: Request, address: URL) -> bool:
        """Wait for a place at the gate, as long as an answer may take: a wait has a deadline to keep."""
        try:
            return await self._gate.enter(address, self.settings.timeout)
        except asyncio.TimeoutError:
            raise AtScaleConnectionError(
                f"{request.method} {request.url} was not sent: the requests before it, as many as are sent at "
                f"once, got no answer for {self.settings.timeout:.0f} s. AtScale answers too slowly: look at "
                "its load.",
                sent=False,
            ) from None

    def _open(self) -> aiohttp.ClientSession:
        import aiohttp

        if self._session is None:
            context = self._tls() if self._context is None else self._context
            self._session = aiohttp.ClientSession(
                # One more for what goes past the gate.
                connector=aiohttp.TCPConnector(limit=self._gate.places + 1, ssl=context),
                # To connect gets a little less: that nothing was sent must be known before all is over.
                timeout=aiohttp.ClientTimeout(
                    total=self.settings.timeout, sock_connect=0.95 * self.settings.timeout
                ),
                cookie_jar=aiohttp.DummyCookieJar(),
            )
        return self._session

    def _proxy(self, url: str) -> str | None:
        """Return the proxy that the environment names for an address, as requests reads it."""
        parts = urlsplit(url)
        origin = f"{parts.scheme}://{parts.netloc}"
        if origin not in self._proxies:
            # Not aiohttp's trust_env: it also reads .netrc, in a thread and for each request.
            from requests.utils import get_environ_proxies, select_proxy

            self._proxies[origin] = select_proxy(origin, get_environ_proxies(origin))
        return self._proxies[origin]

    def _tls(self) -> ssl.SSLContext | bool:
        import ssl

        # For prepare, because they take long to load.
        import aiohttp  # noqa: F401
        import requests.utils  # noqa: F401

        verify = self.settings.verify
        if verify is True:
            # What requests trusts, so both drivers accept the same servers.
            import certifi

            named = os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE")
            verify = named or certifi.where()
        if verify is False:
            return False
        from pathlib import Path

        bundle = str(verify)
        if Path(bundle).is_dir():
            return ssl.create_default_context(capath=bundle)
        return ssl.create_default_context(cafile=bundle)

    async def close(self) -> None:
        """Close the connections and end what is under way."""
        tasks = [work.task for work in self._under_way.values()]
        self._under_way.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._session is not None:
            session, self._session = self._session, None
            await session.close()

    async def __aenter__(self) -> AsyncAtScaleClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()
