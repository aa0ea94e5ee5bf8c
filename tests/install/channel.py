"""
Mask a secret as a trigger does, over a triggerer's own channel to a supervisor; print what each side has seen.

A triggerer whose channel is out of step with its supervisor dies, and all its triggers with it.
"""

import asyncio
import json
import socket
import sys

import msgspec
from airflow.jobs.triggerer_job_runner import TriggerCommsDecoder
from airflow.sdk.execution_time import task_runner
from airflow.sdk.execution_time.comms import GetVariable, VariableResult

from airflow_provider_atscale.compat import amask_secret

SECRET = "a-secret-of-the-connection"


async def supervise(reader, writer, heard):
    """Answer each message, as the supervisor does."""
    while True:
        size = int.from_bytes(await reader.readexactly(4), "big")
        number, body = msgspec.msgpack.decode(await reader.readexactly(size))[:2]
        heard.append(body["type"])
        answer = (
            VariableResult(key="key", value="value").model_dump() if body["type"] == "GetVariable" else None
        )
        frame = msgspec.msgpack.encode([number, answer, None])
        writer.write(len(frame).to_bytes(4, "big") + frame)


async def main():
    """Mask three times at once, then ask for something."""
    ours, theirs = socket.socketpair()
    heard = []
    supervisor = asyncio.ensure_future(supervise(*await asyncio.open_connection(sock=theirs), heard))
    reader, writer = await asyncio.open_connection(sock=ours)
    channel = TriggerCommsDecoder(async_writer=writer, async_reader=reader, socket=ours)
    if hasattr(channel, "start_reader"):
        await channel.start_reader()
    task_runner.SUPERVISOR_COMMS = channel
    await asyncio.gather(*(amask_secret(f"{SECRET}-{number}") for number in range(3)))
    answer = await channel.asend(GetVariable(key="key"))
    supervisor.cancel()
    told = {"heard": heard, "answer": type(answer).__name__}
    sys.stdout.write("\n" + json.dumps(told) + "\n")


asyncio.run(asyncio.wait_for(main(), 60))
