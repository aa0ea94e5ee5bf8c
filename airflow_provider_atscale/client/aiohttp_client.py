"""Run flows over aiohttp: the asynchronous client of triggerers."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import os
from collections import defaultdict
from functools import lru_cache
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import tenacity

from airflow_provider_atscale.api.flow import Effect, Flow, MaskSecret, Pause, Request, Response, SingleFlight
from airflow_provider_atscale.client.editions import make_edition
from airflow_provider_atscale.exceptions import (
    AtScaleAuthenticationError,
    AtScaleConnectionError,
    AtScaleError,
)

if TYPE_CHECKING:
    import ssl
    from collections.abc import Awaitable, Callable, Coroutine, Mapping
    from types import TracebackType

    import aiohttp
    from yarl import URL

    from airflow_provider_atscale.client.settings import Settings
from airflow_provider_atscale.client.base import BaseClient, T, _step
from airflow_provider_atscale.client.failures import FailureCache
from airflow_provider_atscale.client.limiter import ConcurrencyLimiter
from airflow_provider_atscale.client.retries import TRIES, _policy

#: How long, in seconds, it stands for everybody that credentials were refused, or that no token was received
#: for another reason. A thousand waiters that each try to log in on their own would have the user locked out.
REFUSED_FOR, NO_TOKEN_FOR = 30.0, 5.0


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


class SharedTask:
    """A task that several await, and how many do."""

    def __init__(self, task: asyncio.Task[Any]) -> None:
        self.task = task
        self.waiters = 0


class AsyncAtScaleClient(BaseClient):
    """
    Run flows side by side over aiohttp, on the event loop that first uses it.

    :param settings: The connection's settings.
    :param mask: Hides a value from all logs.
    :param sleep: Lets time pass.
    :param limiter: Limits the requests that are sent at once, and with them the TCP connections.
    """

    def __init__(
        self,
        settings: Settings,
        mask: Callable[[str], Awaitable[None]] | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        limiter: ConcurrencyLimiter | None = None,
    ) -> None:
        super().__init__(settings)
        self.edition = make_edition(settings)
        self._mask = mask
        self._sleep = sleep
        self._limiter = limiter or ConcurrencyLimiter()
        self._session: aiohttp.ClientSession | None = None
        self._context: ssl.SSLContext | bool | None = None
        self._proxies: dict[str, str | None] = {}
        self._under_way: dict[str, SharedTask] = {}
        self._failures: defaultdict[str, FailureCache] = defaultdict(FailureCache)

    async def preload_tls(self) -> None:
        """Load, in a thread, what would hold up everything else on the event loop if the first request did."""
        with contextlib.suppress(OSError):
            self._context = await asyncio.to_thread(self._tls)

    async def run(self, flow: Flow[T], tries: int = TRIES, *, bypass_limiter: bool = False) -> T:
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
                raise self._redact_error(raised) from raised.__cause__
            if effect is None:
                return value  # type: ignore[return-value]
            outcome, error = None, None
            try:
                outcome = await self._perform(effect, tries, bypass_limiter)
            except AtScaleError as raised:
                error = raised

    async def _perform(self, effect: Effect, tries: int, bypass_limiter: bool) -> Any:
        if isinstance(effect, Request):
            if tries <= 1 or not effect.repeatable:
                return await self._send(effect, bypass_limiter)
            retrying = tenacity.AsyncRetrying(sleep=self._sleep, **_policy(tries))
            return await retrying(self._send, effect, bypass_limiter)
        if isinstance(effect, Pause):
            return await self._sleep(effect.seconds)
        if isinstance(effect, MaskSecret):
            return await self._mask(effect.value) if self._remember_token(effect.value) and self._mask else None
        return await self._once(effect, tries)

    async def _once(self, effect: SingleFlight, tries: int) -> Any:
        """Run a flow for all who want it now; its failure stands for those who want it a little later."""
        self._failures[effect.key].check()
        try:
            return await self.share(effect.key, lambda: self.run(effect.flow(), tries, bypass_limiter=True))
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
            work = SharedTask(contextvars.Context().run(asyncio.ensure_future, make()))
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

    def _forget(self, key: str, work: SharedTask) -> None:
        if self._under_way.get(key) is work:
            del self._under_way[key]
        if work.task.done() and not work.task.cancelled():
            # Marks the error as seen: each waiter raises it, and the last may have gone.
            work.task.exception()

    async def _send(self, request: Request, bypass_limiter: bool = False) -> Response:
        headers = self._headers(request)
        address = _address(request.url, tuple(request.params.items()))
        try:
            session = self._open()
        except OSError as error:
            # A CA bundle that is not there or is none.
            raise self._no_answer(request, error, sent=False) from None
        if bypass_limiter:
            return await self._exchange(session, request, address, headers)
        # Waiting for a slot is not the server's doing, so it does not count for the timeout of the answer.
        await self._acquire(request)
        try:
            return await self._exchange(session, request, address, headers)
        finally:
            self._limiter.release()

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

    async def _acquire(self, request: Request) -> None:
        """Wait for a slot, at most as long as an answer may take: a wait has a deadline to keep."""
        try:
            await self._limiter.acquire(self.settings.timeout)
        except asyncio.TimeoutError:
            raise AtScaleConnectionError(
                f"{request.method} {request.url} was not sent: {self._limiter.limit} other requests to this "
                f"server got no answer for {self.settings.timeout:.0f} s. AtScale answers too slowly: check "
                "its load.",
                sent=False,
            ) from None

    def _open(self) -> aiohttp.ClientSession:
        import aiohttp

        if self._session is None:
            context = self._tls() if self._context is None else self._context
            self._session = aiohttp.ClientSession(
                # One more for requests that bypass the limiter.
                connector=aiohttp.TCPConnector(limit=self._limiter.limit + 1, ssl=context),
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
