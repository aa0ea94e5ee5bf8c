"""Run flows over aiohttp: the asynchronous client of triggerers."""

from __future__ import annotations

import asyncio
import ssl
import time
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import aiohttp
import tenacity
from yarl import URL

from airflow_provider_atscale.api.flow import Effect, FetchToken, Flow, Pause, Request, Response
from airflow_provider_atscale.client.base import BaseClient, T, ca_bundle
from airflow_provider_atscale.client.body import READ_SIZE, Body
from airflow_provider_atscale.client.retries import TRIES, retry_policy
from airflow_provider_atscale.client.shared_tasks import FailureCache, SharedTasks
from airflow_provider_atscale.compat import time_limit
from airflow_provider_atscale.exceptions import (
    AtScaleAuthenticationError,
    AtScaleConnectionError,
    AtScaleError,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from airflow_provider_atscale.client.settings import Settings

#: How long, in seconds, a failure to get a token is raised again instead of repeating the request: after
#: refused credentials, and after anything else. A thousand waiters that log in each would lock the user out.
REFUSED_FOR, NO_TOKEN_FOR = 30.0, 5.0

#: Sends a request; no later than a time in epoch seconds.
Send: TypeAlias = "Callable[[Request, float | None], Awaitable[Response]]"

#: How many requests one triggerer sends to one server at once.
MAX_REQUESTS = 8


class ConcurrencyLimiter(asyncio.Semaphore):
    """Limit the concurrent requests to one server, whatever the number of connections to it."""

    def __init__(self, limit: int = MAX_REQUESTS) -> None:
        super().__init__(limit)
        self.limit = limit


class AsyncAtScaleClient(BaseClient):
    """
    Run flows side by side over aiohttp, on the event loop that first uses it.

    :param limiter: Limits the concurrent requests, and with them the TCP connections.
    """

    def __init__(
        self,
        settings: Settings,
        mask: Callable[[str], Awaitable[None]] | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        limiter: ConcurrencyLimiter | None = None,
    ) -> None:
        super().__init__(settings)
        self._mask = mask
        self._sleep = sleep
        self._limiter = limiter or ConcurrencyLimiter()
        self._session: aiohttp.ClientSession | None = None
        self._tasks = SharedTasks()
        self._no_token = FailureCache()

    async def run(self, flow: Flow[T], tries: int = TRIES, *, until: float | None = None) -> T:
        """
        Run a flow to its end.

        :param until: Epoch seconds by which it must end: no request is sent later, and none lasts longer.
        """
        return await self._run(flow, tries, until, self._send)

    async def _run(self, flow: Flow[T], tries: int, until: float | None, send: Send) -> T:
        outcome: Any = None
        while True:
            effect, value = self._step(flow, outcome)
            if effect is None:
                return value  # type: ignore[no-any-return]
            try:
                outcome = await self._perform(effect, tries, until, send)
            except AtScaleError as error:
                outcome = error

    async def _perform(self, effect: Effect, tries: int, until: float | None, send: Send) -> Any:
        if isinstance(effect, Request):
            if tries <= 1 or not effect.repeatable:
                return await send(effect, until)
            retrying = tenacity.AsyncRetrying(sleep=self._sleep, **retry_policy(tries, until))
            return await retrying(send, effect, until)
        if isinstance(effect, Pause):
            return await self._sleep(effect.seconds)
        return await self._get_token(effect, tries, until)

    async def _get_token(self, effect: FetchToken, tries: int, until: float | None) -> Any:
        """Get a token for all who want it now; raise a failure again for those who want it soon after."""
        self._no_token.check()
        # It serves others too, so this caller's deadline ends only this caller's wait.
        work = self._tasks.share("token", lambda: self._fetch(effect, tries))
        try:
            async with time_limit(None if until is None else until - time.time()):
                return await work
        except asyncio.TimeoutError:
            raise AtScaleConnectionError(
                f"No token was received from {self.settings.base_url} before the deadline of the wait.",
                sent=False,
            ) from None
        except AtScaleError as error:
            is_refused = isinstance(error, AtScaleAuthenticationError)
            self._no_token.store(error, REFUSED_FOR if is_refused else NO_TOKEN_FOR)
            raise

    async def _fetch(self, effect: FetchToken, tries: int) -> Any:
        with self._counted():
            token = await self._run(effect.flow(), tries, None, self._send_at_once)
        if self._redactor.add_token(token.value) and self._mask is not None:
            await self._mask(token.value)
        effect.keep(token)
        return token

    async def _send(self, request: Request, until: float | None) -> Response:
        # The wait for a slot does not count for the timeout of the answer.
        await self._acquire(request, self._time_left(request, until))
        try:
            return await self._send_at_once(request, until)
        finally:
            self._limiter.release()

    async def _send_at_once(self, request: Request, until: float | None) -> Response:
        """Send a request without waiting for a slot: a token must not wait behind slow reads."""
        try:
            session: Any = self._session or await self._tasks.share("session", self._open_session)
        except OSError as error:
            # The CA bundle cannot be read.
            raise self._no_response(request, error, sent=False) from None
        headers, proxy = self._headers(request), self._proxy(request.url)
        timeout = self._time_left(request, until)
        progress = {"sent": False}
        try:
            async with session.request(
                request.method,
                URL(request.url).with_query(dict(request.params) or None),
                headers=headers,
                json=request.json,
                data=request.form,
                allow_redirects=False,
                proxy=proxy,
                timeout=aiohttp.ClientTimeout(total=timeout),
                trace_request_ctx=progress,
            ) as answer:
                body = Body(*answer.headers.getall("Content-Encoding", ()))
                async for piece in answer.content.iter_chunked(READ_SIZE):
                    body.add(piece)
                    if body.is_too_large:
                        break
                    if len(piece) == READ_SIZE:
                        # More may be there already, and would be read without a pause for other tasks.
                        await asyncio.sleep(0)
                return self._response(request, answer.status, answer.headers, body)
        except asyncio.TimeoutError:
            late = TimeoutError(f"the answer was not complete after {timeout:.1f} s")
            raise self._no_response(request, late, sent=progress["sent"]) from None
        except (aiohttp.ClientError, OSError, zlib.error) as error:
            raise self._no_response(request, error, sent=progress["sent"]) from None

    async def _acquire(self, request: Request, seconds: float) -> None:
        """Wait for a slot, at most as long as for an answer."""
        try:
            async with time_limit(seconds):
                await self._limiter.acquire()
        except asyncio.TimeoutError:
            raise AtScaleConnectionError(
                f"{request.method} {request.url} was not sent: {self._limiter.limit} other requests to this "
                f"server got no answer for {seconds:.0f} s. AtScale answers too slowly: check its load.",
                sent=False,
            ) from None

    async def _open_session(self) -> aiohttp.ClientSession:
        # In a thread, because reading the CA bundle blocks the event loop for long.
        context = await asyncio.to_thread(make_ssl_context, self.settings.verify)
        trace = aiohttp.TraceConfig()
        trace.on_request_headers_sent.append(_note_sent)
        self._session = aiohttp.ClientSession(
            # One more for requests that bypass the limiter.
            connector=aiohttp.TCPConnector(limit=self._limiter.limit + 1, ssl=context),
            cookie_jar=aiohttp.DummyCookieJar(),
            # The body is decompressed with a size limit.
            auto_decompress=False,
            trace_configs=[trace],
        )
        return self._session

    async def aclose(self) -> None:
        """Close the connections and cancel what is running."""
        await self._tasks.close()
        if self._session is not None:
            session, self._session = self._session, None
            await session.close()


async def _note_sent(_: aiohttp.ClientSession, context: Any, __: aiohttp.TraceRequestHeadersSentParams) -> None:
    # Called right before the first byte is written, so before it nothing has reached AtScale.
    context.trace_request_ctx["sent"] = True


def make_ssl_context(verify: bool | str) -> ssl.SSLContext | bool:
    """Return what aiohttp is to trust: the same servers as requests."""
    bundle = ca_bundle(verify)
    if bundle is False:
        return False
    if Path(str(bundle)).is_dir():
        return ssl.create_default_context(capath=str(bundle))
    return ssl.create_default_context(cafile=str(bundle))
