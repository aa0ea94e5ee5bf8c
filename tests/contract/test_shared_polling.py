"""Waiting together: what all waiters of one event loop share, and what is left when they go."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import gc
import logging
import time
from dataclasses import replace

import pytest

from airflow_provider_atscale.api.models import ModelRef
from airflow_provider_atscale.api.observation import Missing, ReadFailed, Seen
from airflow_provider_atscale.client import shared_connection as shared_module
from airflow_provider_atscale.client.aiohttp_client import AsyncAtScaleClient, ConcurrencyLimiter
from airflow_provider_atscale.client.editions import make_edition
from airflow_provider_atscale.client.shared_connection import SharedConnection, shared_connection
from airflow_provider_atscale.exceptions import AtScaleConnectionError
from airflow_provider_atscale.waiting.shared import Subscription, or_read_failed

from .conftest import TOKEN_ROUTE, listing, routes, settings_of, until

#: An hour is never waited for: who is due then is only there.
LATER = 3600.0


class Lookup:
    """Read the engine's connection as it is now, and count how often that was asked for."""

    def __init__(self, engine, auth="auto") -> None:
        self.engine = engine
        self.connection = engine.connection(auth)
        self.count = 0

    async def __call__(self, conn_id: str):
        self.count += 1
        await asyncio.sleep(0)
        return settings_of(self.connection)


@pytest.fixture
def lookup(engine):
    return Lookup(engine)


@pytest.fixture
def batch(engine, ref):
    return engine.start_batch(None, ref.model_id).id


def ref_of(model) -> ModelRef:
    return ModelRef(model.catalog_id, model.id, "Finance", model.caption)


@contextlib.asynccontextmanager
async def entered(lookup):
    """Open a shared connection as ``shared_connection`` does, but for the look-up of its Airflow connection."""
    async with SharedConnection("test", load=lookup) as shared:
        yield shared


async def look(shared, ref, batch_id, seconds=0.0):
    async with Subscription(shared, ref, batch_id) as subscription:
        return await subscription.next(seconds)


def run(test):
    """Run a test in an event loop of its own; nothing may be left in it, and nothing be complained of."""
    complaints = []

    async def main():
        asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
        await asyncio.wait_for(test(), 20)
        gc.collect()
        await asyncio.sleep(0)
        left = asyncio.all_tasks() - {asyncio.current_task()}
        assert not left
        assert not shared_module._loops

    asyncio.run(main())
    assert not complaints


# --- sharing ----------------------------------------------------------------------------------------------


def test_waiters_of_one_model_ride_on_one_read(engine, lookup, ref, batch):
    async def test():
        async with entered(lookup) as shared:
            seen = await asyncio.gather(*(look(shared, ref, batch, 0.01) for _ in range(500)))
            assert {each.batch.id for each in seen} == {batch}
        assert routes(engine).count("history") == 1
        assert engine.stats.token_exchanges == 1
        assert engine.stats.connections_opened <= len(engine.urls)
        assert lookup.count == 1

    run(test)


def test_many_models_share_connections_and_the_token(engine, lookup):
    """A thousand waiters over 50 models: one read per model and round, nine connections, one exchange."""
    models = [engine.add_model("Finance", f"model {number}") for number in range(50)]
    batches = {model.id: engine.start_batch(None, model).id for model in models}

    async def test():
        async with entered(lookup) as shared, contextlib.AsyncExitStack() as stack:
            subscriptions = [
                await stack.enter_async_context(Subscription(shared, ref_of(model), batches[model.id]))
                for model in models
                for _ in range(20)
            ]

            async def one_round():
                return await asyncio.gather(*(each.next(0.05) for each in subscriptions))

            for number in (1, 2):
                seen = await one_round()
                assert all(isinstance(each, Seen) for each in seen)
                assert engine.stats.routes["history"] == 50 * number
            assert engine.stats.token_exchanges == 1
            assert engine.stats.connections_opened <= 9 * len(engine.urls)
            assert engine.stats.max_in_flight <= 8

            engine.expire_tokens()
            seen = await one_round()
            assert all(isinstance(each, Seen) for each in seen)
            assert engine.stats.token_exchanges == 2
            assert engine.stats.routes["history"] <= 50 * 3 + 50
            assert engine.stats.connections_opened <= 9 * len(engine.urls)
        assert lookup.count == 1

    run(test)


def test_token_that_ends_soon_is_renewed_by_one(engine, lookup):
    models = [engine.add_model("Finance", f"model {number}") for number in range(30)]
    now = [time.time()]

    def connect(settings):
        client = AsyncAtScaleClient(settings)
        client.edition = make_edition(settings, lambda: now[0])
        return client

    async def test():
        async with SharedConnection("test", load=lookup, connect=connect) as shared:
            for exchanges in (1, 2):
                await asyncio.gather(*(look(shared, ref_of(model), "b1") for model in models))
                assert engine.stats.token_exchanges == exchanges
                now[0] += 3600

    run(test)


def test_what_people_call_a_model_does_not_matter(engine, lookup, ref, batch):
    other = ModelRef(ref.catalog_id, ref.model_id, ref.catalog_id, ref.model_id)

    async def test():
        async with entered(lookup) as shared:
            await asyncio.gather(*(look(shared, each, batch, 0.01) for each in (ref, other)))
        assert routes(engine).count("history") == 1

    run(test)


def test_each_sees_its_own_batch(engine, lookup, ref, batch):
    async def test():
        async with entered(lookup) as shared:
            wanted = (batch, "nobody", None)
            seen = await asyncio.gather(*(look(shared, ref, each, 0.01) for each in wanted))
        assert [type(each) for each in seen] == [Seen, Missing, Seen]
        assert seen[0].batch.id == seen[2].batch.id == batch

    run(test)


def test_who_looks_looks_for_all(engine, lookup, ref, batch):
    """Somebody who is due much later gets the observation that another's cadence has asked for."""

    async def test():
        async with entered(lookup) as shared:
            seen = await asyncio.gather(look(shared, ref, batch, LATER), look(shared, ref, batch, 0.0))
        assert all(isinstance(each, Seen) for each in seen)
        assert routes(engine).count("history") == 1

    run(test)


def test_slow_model_delays_no_other(engine, lookup, ref, batch):
    other = ref_of(engine.model("General Ledger"))
    hold = engine.hold("received", route="history", query=ref.model_id)

    async def test():
        async with entered(lookup) as shared:
            slow = asyncio.ensure_future(look(shared, ref, batch))
            await until(lambda: engine.hold_status(hold)["held"])
            assert isinstance(await look(shared, other, "nobody"), Missing)
            assert not slow.done()
            engine.release(hold)
            assert isinstance(await slow, Seen)

    run(test)


def test_what_everybody_waits_for_does_not_queue(engine, ref):
    """A new token is not behind models that hang."""
    settings = settings_of(engine.connection())
    hold = engine.hold("received", route="history", times=None)
    limiter = ConcurrencyLimiter(1)

    async def test():
        async with (
            contextlib.aclosing(AsyncAtScaleClient(settings, limiter=limiter)) as one,
            contextlib.aclosing(AsyncAtScaleClient(settings, limiter=limiter)) as two,
        ):
            reads = []
            for number, client in enumerate((one, two), 1):
                reads.append(asyncio.ensure_future(client.run(client.edition.history(ref))))
                await until(lambda expected=number: engine.stats.token_exchanges == expected)
                await until(lambda: engine.hold_status(hold)["seen"] == 1)
            engine.release(hold)
            await asyncio.gather(*reads)

    run(test)


def test_all_connections_to_a_server_share_its_limiter(engine, monkeypatch, ref):
    """Twenty requests at once are too many for AtScale, over however many connections they come."""
    hold = engine.hold("received", route="history", times=None)
    for number in range(3):
        monkeypatch.setenv(f"AIRFLOW_CONN_ONE_{number}", engine.connection_json())

    async def test():
        async with contextlib.AsyncExitStack() as stack:
            connections = [
                await stack.enter_async_context(shared_connection(f"one_{number}")) for number in range(3)
            ]
            reads = [
                asyncio.ensure_future(or_read_failed(shared.run(lambda client: client.edition.history(ref))))
                for shared in connections
                for _ in range(8)
            ]
            await until(lambda: engine.hold_status(hold)["seen"] == 8)
            await asyncio.sleep(0.1)
            assert engine.hold_status(hold)["seen"] == 8
            engine.release(hold)
            assert not any(isinstance(each, ReadFailed) for each in await asyncio.gather(*reads))

    run(test)


def test_failing_read_is_the_same_failure_for_all(engine, lookup, ref, batch):
    engine.fault(503, route="history", times=None)

    async def test():
        async with entered(lookup) as shared:
            seen = await asyncio.gather(*(look(shared, ref, batch, 0.01) for _ in range(20)))
        assert len(set(seen)) == 1
        assert isinstance(seen[0], ReadFailed)
        assert "HTTP 503" in seen[0].reason
        assert engine.stats.routes["history"] == 1, "who waits looks again by its cadence, not at once"

    run(test)


def test_trouble_of_the_newest_is_not_everybodys(engine, lookup, ref, batch):
    engine.fault(500, route="history", query="limit=100", times=None)

    async def test():
        async with entered(lookup) as shared:
            seen = await asyncio.gather(look(shared, ref, batch, 0.01), look(shared, ref, None, 0.01))
        assert [type(each) for each in seen] == [Seen, ReadFailed]

    run(test)


@pytest.mark.usefixtures("new_process")
def test_shared_read_says_nothing_and_knows_nobody(engine, lookup, ref, batch, caplog):
    """A task inherits the context of whoever makes it, and with it the log file of one trigger."""
    whose = contextvars.ContextVar("whose", default="nobody's")
    seen = []

    async def load(conn_id):
        seen.append(whose.get())
        return await lookup(conn_id)

    def connect(settings):
        async def mask(_):
            seen.append(whose.get())

        seen.append(whose.get())
        return AsyncAtScaleClient(settings, mask=mask)

    async def test():
        whose.set("a trigger's")
        async with SharedConnection("test", load=load, connect=connect) as shared:
            await look(shared, ref, batch)
            engine.fault(500, route="history")
            await look(shared, ref, batch)

    with caplog.at_level(logging.DEBUG, "airflow_provider_atscale"):
        run(test)
    assert seen == ["nobody's"] * 3
    ours = [r for r in caplog.records if not r.name.startswith("airflow_provider_atscale.testing")]
    assert [r for r in ours if r.name.startswith("airflow_provider_atscale")] == []


def test_the_read_itself_knows_nobody(engine, lookup, ref, batch):
    whose = contextvars.ContextVar("whose", default="nobody's")
    seen = []

    class Client(AsyncAtScaleClient):
        async def _send(self, request, *more):
            seen.append(whose.get())
            return await super()._send(request, *more)

    async def test():
        whose.set("a trigger's")
        async with SharedConnection("test", load=lookup, connect=Client) as shared:
            await look(shared, ref, batch)

    run(test)
    assert set(seen) == {"nobody's"}


def test_finding_a_model_knows_nobody_either(engine, lookup, ref, batch):
    """A trigger that does not know its model asks by itself, and is the first to open the connection."""
    whose = contextvars.ContextVar("whose", default="nobody's")
    seen = []

    async def load(conn_id):
        seen.append(whose.get())
        return await lookup(conn_id)

    async def test():
        whose.set("a trigger's")
        async with (
            SharedConnection("test", load=load) as shared,
            Subscription(shared, ModelRef("", "", ref.catalog, ref.model), batch) as subscription,
        ):
            assert isinstance(await subscription.next(0.0), Seen)

    run(test)
    assert seen == ["nobody's"]


@pytest.mark.usefixtures("new_process")
def test_shared_work_of_a_client_knows_nobody(engine, ref):
    whose = contextvars.ContextVar("whose", default="nobody's")
    seen = []

    async def mask(_):
        seen.append(whose.get())

    async def test():
        whose.set("a caller's")
        async with contextlib.aclosing(
            AsyncAtScaleClient(settings_of(engine.connection()), mask=mask)
        ) as client:
            await client.run(client.edition.history(ref))

    run(test)
    assert seen == ["nobody's"]


# --- coming and going -------------------------------------------------------------------------------------


def test_who_comes_while_a_read_is_under_way_is_served_next(engine, lookup, ref, batch):
    """Also where somebody who has much time comes after it."""
    hold = engine.hold("received", route="history")

    async def test():
        async with entered(lookup) as shared:
            first = asyncio.ensure_future(look(shared, ref, batch))
            await until(lambda: engine.hold_status(hold)["held"])
            second = asyncio.ensure_future(look(shared, ref, "another batch", 0.0))
            await asyncio.sleep(0.05)
            third = asyncio.ensure_future(look(shared, ref, "a third batch", LATER))
            await asyncio.sleep(0)
            engine.release(hold)
            assert isinstance(await first, Seen)
            assert isinstance(await asyncio.wait_for(second, 5), Missing)
            assert isinstance(await asyncio.wait_for(third, 5), Missing)
        assert engine.stats.routes["history"] <= 4

    run(test)


def test_who_has_time_does_not_hurry_the_next_read(engine, lookup, ref, batch):
    hold = engine.hold("received", route="history")

    async def test():
        async with entered(lookup) as shared:
            first = asyncio.ensure_future(look(shared, ref, batch))
            await until(lambda: engine.hold_status(hold)["held"])
            second = asyncio.ensure_future(look(shared, ref, "another batch", LATER))
            await asyncio.sleep(0)
            engine.release(hold)
            await first
            await asyncio.sleep(0.05)
            assert not second.done()
            assert engine.stats.routes["history"] == 1
            second.cancel()
            await asyncio.gather(second, return_exceptions=True)

    run(test)


def test_nobody_looks_for_one_who_has_left(engine, lookup, ref, batch):
    async def test():
        async with entered(lookup) as shared:
            patient = asyncio.ensure_future(look(shared, ref, batch, LATER))
            eager = asyncio.ensure_future(look(shared, ref, batch, 0.02))
            await asyncio.sleep(0)
            eager.cancel()
            await asyncio.sleep(0.1)
            assert engine.requests == []
            patient.cancel()
            await asyncio.gather(eager, patient, return_exceptions=True)

    run(test)


def test_cancelled_waiter_leaves_at_once_and_takes_nobody_along(engine, lookup, ref, batch):
    hold = engine.hold("received", route="history")

    async def test():
        async with entered(lookup) as shared:
            first, second = (asyncio.ensure_future(look(shared, ref, batch)) for _ in range(2))
            await until(lambda: engine.hold_status(hold)["held"])
            first.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asyncio.wait_for(first, 1)
            engine.release(hold)
            assert isinstance(await second, Seen)
        assert engine.stats.routes["history"] == 1

    run(test)


def test_who_leaves_while_the_connection_is_looked_up(engine, lookup, ref, batch):
    other = ref_of(engine.model("General Ledger"))
    may_go_on = asyncio.Event()

    async def load(conn_id):
        await may_go_on.wait()
        return await lookup(conn_id)

    async def test():
        async with entered(load) as shared:
            first = asyncio.ensure_future(look(shared, ref, batch))
            second = asyncio.ensure_future(look(shared, other, "nobody"))
            await until(lambda: shared._opening is not None)
            first.cancel()
            await asyncio.gather(first, return_exceptions=True)
            may_go_on.set()
            assert isinstance(await second, Missing)

    run(test)
    assert lookup.count == 1


@pytest.mark.parametrize("others", [1, 0], ids=["others wait for it", "nobody else does"])
def test_who_leaves_while_a_token_is_fetched(engine, edition, lookup, ref, others):
    """The token is for all models of the connection, and for nobody where all have left."""
    models = [ref_of(model) for model in (engine.model("General Ledger"), engine.model("Reseller Sales"))]
    hold = engine.hold("received", route=TOKEN_ROUTE[edition])

    async def test():
        tasks = len(asyncio.all_tasks())
        async with entered(lookup) as shared:
            leaving = asyncio.ensure_future(look(shared, models[0], "b1"))
            await until(lambda: engine.hold_status(hold)["held"])
            staying = [asyncio.ensure_future(look(shared, models[1], "b1")) for _ in range(others)]
            await asyncio.sleep(0.05)
            leaving.cancel()
            await asyncio.gather(leaving, return_exceptions=True)
            await asyncio.sleep(0.05)
            if not others:
                assert len(asyncio.all_tasks()) == tasks
            engine.release(hold)
            for each in await asyncio.gather(*staying):
                assert isinstance(each, Missing)
        await until(lambda: not engine.stats.in_flight)
        assert engine.stats.token_exchanges == 1

    run(test)


@pytest.fixture
def connected(engine, monkeypatch):
    """Make the engine the connection that Airflow itself looks up."""
    monkeypatch.setenv("AIRFLOW_CONN_ENGINE", engine.connection_json())
    return "engine"


async def wait_for(conn_id, ref, batch_id, seconds=0.0):
    """Wait as a trigger does."""
    async with Subscription(shared_connection(conn_id), ref, batch_id) as subscription:
        return await subscription.next(seconds)


def test_all_waiters_of_a_connection_share_a_line(engine, connected, ref, batch):
    async def test():
        seen = await asyncio.gather(*(wait_for(connected, ref, batch, 0.05) for _ in range(50)))
        assert {type(each) for each in seen} == {Seen}
        assert engine.stats.routes["history"] == 1
        assert engine.stats.token_exchanges == 1

    run(test)


def test_last_one_out_closes(engine, connected, ref, batch):
    async def test():
        async with shared_connection(connected) as first:
            async with shared_connection(connected) as second:
                assert second is first
                await look(second, ref, batch)
            assert isinstance(await look(first, ref, batch), Seen)
            assert engine.stats.connections_open > 0
        assert not shared_module._loops
        await until(lambda: engine.stats.connections_open == 0)
        assert isinstance(await wait_for(connected, ref, batch), Seen)

    run(test)


#: Where waiters are cancelled, and what the engine holds there: (route, how many wait).
CANCELLED_AT = {
    "while the history is read": "history",
    "while a token is fetched": "token",
    "before anything is read": None,
}


@pytest.mark.parametrize("route", CANCELLED_AT.values(), ids=CANCELLED_AT)
def test_nothing_is_left_of_cancelled_waiters(engine, edition, connected, ref, batch, route):
    held = TOKEN_ROUTE[edition] if route == "token" else route or "nothing"
    hold = engine.hold("received", route=held, times=None)

    async def test():
        seconds = 0.0 if route else LATER
        waiters = [asyncio.ensure_future(wait_for(connected, ref, batch, seconds)) for _ in range(10)]
        await (until(lambda: engine.hold_status(hold)["held"]) if route else asyncio.sleep(0.01))
        for waiter in waiters:
            waiter.cancel()
        outcomes = await asyncio.wait_for(asyncio.gather(*waiters, return_exceptions=True), 5)
        assert {type(each) for each in outcomes} == {asyncio.CancelledError}
        await until(lambda: engine.stats.connections_open == 0)

    run(test)
    engine.release(hold)


@pytest.mark.parametrize("is_cancelled", [True, False], ids=["cancelled", "failed"])
def test_nothing_is_left_of_a_look_up(lookup, ref, is_cancelled):
    hanging = asyncio.Event()

    async def load(conn_id):
        hanging.set()
        if is_cancelled:
            await asyncio.Event().wait()
        raise RuntimeError("the secrets backend is away")

    async def test():
        async with SharedConnection("test", load=load) as shared:
            waiters = [asyncio.ensure_future(look(shared, ref, "b1")) for _ in range(5)]
            await hanging.wait()
            if is_cancelled:
                for waiter in waiters:
                    waiter.cancel()
            seen = await asyncio.gather(*waiters, return_exceptions=True)
            expected = asyncio.CancelledError if is_cancelled else ReadFailed
            assert {type(each) for each in seen} == {expected}

    run(test)


def test_a_loop_that_is_closed_makes_room_for_another(engine, connected, ref, batch):
    for number in (1, 2, 3):
        assert isinstance(asyncio.run(wait_for(connected, ref, batch)), Seen)
        assert not shared_module._loops
        assert engine.stats.token_exchanges == number


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")
def test_a_loop_that_dies_is_forgotten(engine, connected, ref, batch):
    """Not as asyncio ends one: its tasks are still in it."""
    loop = asyncio.new_event_loop()
    task = loop.create_task(wait_for(connected, ref, batch, LATER))
    loop.run_until_complete(asyncio.sleep(0.01))
    loop.close()
    assert loop in shared_module._loops
    assert isinstance(asyncio.run(wait_for(connected, ref, batch)), Seen)
    assert loop not in shared_module._loops
    task._log_destroy_pending = False


def test_long_runs_leave_nothing(engine, lookup, ref, batch):
    async def test():
        async with entered(lookup) as shared, Subscription(shared, ref, batch) as subscription:
            tasks = set()
            for _ in range(300):
                assert isinstance(await subscription.next(0.0), Seen)
                tasks.add(len(asyncio.all_tasks()))
            assert max(tasks) <= 2
        assert engine.stats.connections_opened <= len(engine.urls)
        assert engine.stats.token_exchanges == 1

    run(test)


# --- the connection ---------------------------------------------------------------------------------------


REFUSED_TOKEN = {"container": "refuses the API token", "installer": "is wrong or has expired"}


class TestRotatedToken:
    @pytest.fixture(autouse=True)
    def _soon(self, monkeypatch):
        monkeypatch.setattr(shared_module, "RELOAD_INTERVAL", 0.0)

    @pytest.fixture
    def lookup(self, engine):
        return Lookup(engine, "api_token")

    def rotate(self, engine, lookup, *, is_known=True):
        engine.rotate_api_token()
        engine.expire_tokens()
        if is_known:
            lookup.connection = engine.connection("api_token")

    def test_reaches_all_waiters_by_one_look_up(self, engine, lookup):
        models = [engine.add_model("Finance", f"model {number}") for number in range(10)]

        async def test():
            async with entered(lookup) as shared:
                refs = [ref_of(model) for model in models]
                await asyncio.gather(*(look(shared, ref, "b1") for ref in refs))
                self.rotate(engine, lookup)
                seen = await asyncio.gather(*(look(shared, ref, "b1") for ref in refs))
                assert {type(each) for each in seen} == {Missing}
                assert lookup.count == 2

        run(test)

    @pytest.mark.parametrize("who", ["a batch", "the newest"])
    def test_reaches_whoever_waits(self, engine, lookup, ref, batch, who):
        """A history that may not be read is no error; on the installer edition not even with a wrong token."""
        wanted = batch if who == "a batch" else None

        async def test():
            async with entered(lookup) as shared:
                assert isinstance(await look(shared, ref, wanted), Seen)
                self.rotate(engine, lookup)
                assert isinstance(await look(shared, ref, wanted), Seen)

        run(test)

    def test_old_connections_are_closed_when_the_last_read_over_them_has_ended(
        self, engine, lookup, ref, batch
    ):
        other = ref_of(engine.model("General Ledger"))

        async def test():
            async with entered(lookup) as shared:
                await look(shared, ref, batch)
                hold = engine.hold("received", route="history", query=other.model_id)
                slow = asyncio.ensure_future(look(shared, other, "nobody"))
                await until(lambda: engine.hold_status(hold)["held"])
                old = shared._client
                self.rotate(engine, lookup)
                assert isinstance(await look(shared, ref, batch), Seen)
                assert (shared._client is not old, old in shared._running) == (True, True)
                engine.release(hold)
                await slow
                assert (shared._running, old._session) == ({}, None)
            await until(lambda: engine.stats.connections_open == 0)

        run(test)

    def test_a_connection_that_has_not_changed_is_kept(self, engine, lookup, ref, batch):
        async def test():
            async with entered(lookup) as shared:
                await look(shared, ref, batch)
                old = shared._client
                self.rotate(engine, lookup, is_known=False)
                assert isinstance(await look(shared, ref, batch), ReadFailed)
                assert (lookup.count, shared._client is old) == (2, True)

        run(test)

    def test_that_nobody_entered_is_trouble(self, engine, edition, lookup, ref, batch):
        async def test():
            async with entered(lookup) as shared:
                await look(shared, ref, batch)
                self.rotate(engine, lookup, is_known=False)
                seen = await look(shared, ref, batch)
                assert REFUSED_TOKEN[edition] in seen.reason
                lookup.connection = engine.connection("api_token")
                assert isinstance(await look(shared, ref, batch), Seen)

        run(test)

    def test_is_not_looked_for_all_the_time(self, engine, lookup, ref, batch, monkeypatch):
        monkeypatch.setattr(shared_module, "RELOAD_INTERVAL", LATER)

        async def test():
            async with entered(lookup) as shared:
                await look(shared, ref, batch)
                self.rotate(engine, lookup, is_known=False)
                for _ in range(5):
                    assert isinstance(await look(shared, ref, batch), ReadFailed)
            assert lookup.count == 1

        run(test)


def test_refused_credentials_are_tried_by_one_for_all(engine, edition, ref, batch):
    """A thousand logins in a row would have the user locked out."""
    lookup = Lookup(engine)
    models = [engine.add_model("Finance", f"model {number}") for number in range(10)]
    engine.fault(401, route=TOKEN_ROUTE[edition], times=None)

    async def test():
        async with entered(lookup) as shared:
            for model in models:
                assert isinstance(await look(shared, ref_of(model), batch), ReadFailed)
            assert routes(engine).count(TOKEN_ROUTE[edition]) == 1

    run(test)


def test_connection_that_cannot_be_read_is_looked_up_by_one_for_all(engine, ref, batch):
    tries = []

    async def load(conn_id):
        tries.append(conn_id)
        raise AtScaleConnectionError("the secrets backend is away", sent=False)

    async def test():
        async with entered(load) as shared:
            for _ in range(10):
                assert (await look(shared, ref, batch)).reason == "the secrets backend is away"

    run(test)
    assert len(tries) == 1


def test_nobody_waits_for_a_connection_longer_than_for_an_answer(engine, lookup, ref):
    """A wait has a deadline to keep, whatever ails the server."""
    settings = replace(settings_of(engine.connection()), timeout=0.5)
    engine.hold("received", route="history", times=None)

    async def test():
        async with contextlib.aclosing(AsyncAtScaleClient(settings, limiter=ConcurrencyLimiter(1))) as client:
            began = time.monotonic()
            reads = [client.run(client.edition.history(ref), tries=1) for _ in range(6)]
            errors = await asyncio.gather(*reads, return_exceptions=True)
            assert time.monotonic() - began < 5
            engine.reset()
            # Those that gave up have kept no slot.
            await client.run(client.edition.history(ref), tries=1)
        assert {type(each) for each in errors} == {AtScaleConnectionError}
        assert sum("was not sent: 1 other requests" in str(each) for each in errors) >= 3

    run(test)


def test_connection_that_cannot_be_read_is_trouble_and_read_again(engine, monkeypatch, ref, batch):
    monkeypatch.setattr(shared_module, "UNREADABLE_FOR", 0.0)

    async def test():
        async with shared_connection("not_there") as shared:
            seen = await look(shared, ref, batch)
            assert "'not_there' could not be read" in seen.reason
            monkeypatch.setenv("AIRFLOW_CONN_NOT_THERE", engine.connection_json())
            assert isinstance(await look(shared, ref, batch), Seen)

    run(test)


def test_connection_that_is_wrong_is_trouble(engine, monkeypatch, ref, batch):
    monkeypatch.setenv("AIRFLOW_CONN_ENGINE", engine.connection_json(edition="other"))

    async def test():
        seen = await wait_for("engine", ref, batch)
        assert "'edition' is 'other'" in seen.reason

    run(test)


# --- a model that could not be found out before -----------------------------------------------------------


@pytest.mark.parametrize(
    ("catalog", "model"), [("", ""), ("Sales Insights", "Internet Sales")], ids=["by the batch", "by names"]
)
def test_seat_finds_the_model_first(engine, connected, ref, batch, catalog, model):
    async def test():
        async with (
            Subscription(shared_connection(connected), ModelRef("", "", catalog, model), batch) as subscription,
        ):
            for route in ("catalogs", "instances"):
                engine.fault(503, route=route)
            assert isinstance(await subscription.next(0.0), ReadFailed)
            assert isinstance(await subscription.next(0.0), Seen)
            assert (subscription.ref.catalog_id, subscription.ref.model_id) == (ref.catalog_id, ref.model_id)
        for request in engine.requests:
            assert request.query.get("modelId", "-") != "", "a history of no model is one of all models"

    run(test)


def test_many_seats_find_a_model_by_one_look(engine, connected, ref, batch):
    async def test():
        async with shared_connection(connected) as shared:
            for _ in range(10):
                async with Subscription(
                    shared, ModelRef("", "", "Sales Insights", "Internet Sales"), batch
                ) as subscription:
                    assert isinstance(await subscription.next(0.0), Seen)
        assert routes(engine).count("catalogs") == 1

    run(test)


def test_seat_waits_for_a_batch_that_has_no_instances_yet(engine, edition, connected, ref, batch):
    engine.fault(200, route="instances", body=listing(edition, []))

    async def test():
        async with Subscription(shared_connection(connected), ModelRef("", "", "", ""), batch) as subscription:
            assert isinstance(await subscription.next(0.0), Missing)
            assert isinstance(await subscription.next(0.0), Seen)

    run(test)
