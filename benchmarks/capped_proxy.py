"""A TCP proxy that caps the rate of each connection, as the load balancers of many clouds do.

`python benchmarks/capped_proxy.py PORT RATE` forwards to PORT on loopback, at RATE bytes a second in each
direction, prints its own port, and ends when its standard input does.
"""

import asyncio
import contextlib
import os
import subprocess
import sys
import threading
from collections.abc import Iterator

HOST = "127.0.0.1"
PIECE = 64 * 1024
RATE = 10_000_000
"""Bytes a second of each connection."""
SLACK_SECONDS = 0.05
"""How late a piece may be without a loss of rate: sleeps are longer than asked for on a busy machine."""


@contextlib.contextmanager
def capped_proxy(port: int, rate: int = RATE) -> Iterator[int]:
    """Run the proxy in front of `port` in a process of its own; provide its port."""
    words = [sys.executable, __file__, str(port), str(rate)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield int(process.stdout.readline())
        finally:
            assert process.stdin is not None
            process.stdin.close()
            process.wait()


class Proxy:
    """Forwards connections to a port of this machine."""

    def __init__(self, port: int, rate: int) -> None:
        self._port = port
        self._rate = rate

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Forward one connection until either side ends."""
        with contextlib.suppress(ConnectionError):
            to_server = await asyncio.open_connection(HOST, self._port)
            directions = [self._pass(reader, to_server[1]), self._pass(to_server[0], writer)]
            tasks = [asyncio.ensure_future(one) for one in directions]
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            to_server[1].close()
        writer.close()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        clock = asyncio.get_running_loop().time
        due = clock()
        while piece := await reader.read(PIECE):
            # When the piece is through. A sleep that lasted too long is made up for, an idle time is not.
            due = max(due, clock() - SLACK_SECONDS) + len(piece) / self._rate
            await asyncio.sleep(due - clock())
            writer.write(piece)
            await writer.drain()


async def main(port: int, rate: int) -> None:
    """Serve until the standard input ends."""
    proxy = Proxy(port, rate)
    server = await asyncio.start_server(proxy.serve, HOST, 0, limit=PIECE)
    print(server.sockets[0].getsockname()[1], flush=True)
    loop, ended = asyncio.get_running_loop(), asyncio.Event()

    def await_end() -> None:
        sys.stdin.read()
        loop.call_soon_threadsafe(ended.set)

    # A thread, since a pipe of asyncio would need a transport of its own.
    threading.Thread(target=await_end, daemon=True).start()
    await ended.wait()
    # asyncio would cancel the connections that are open, and print a traceback for each.
    os._exit(0)


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), int(sys.argv[2])))
