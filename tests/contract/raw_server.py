"""A server that answers each connection with bytes, not with HTTP."""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import ssl


class RawServer:
    """
    Accept connections one after the other, and talk to each.

    :param context: For TLS.
    """

    def __init__(self, context: ssl.SSLContext | None = None) -> None:
        self._context = context
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.place = f"127.0.0.1:{self._socket.getsockname()[1]}"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                peer, _ = self._socket.accept()
                with contextlib.suppress(OSError), peer:
                    self._talk(self._context.wrap_socket(peer, server_side=True) if self._context else peer)

    def _talk(self, peer: socket.socket) -> None:
        raise NotImplementedError

    def close(self) -> None:
        self._socket.close()
