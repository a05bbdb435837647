"""Baseline (b), the kernel's ceiling: a plain loop that sends prepared bytes to every socket.

``python -m benchmarks.peers.send_loop PORT FRAME_FILE``: a connection whose first byte is ``S`` is a subscriber, and is
answered ``+``; on any other each byte ``1`` sends the frame to every subscriber, and each ``5`` fifty frames joined.

The same loop was written in C: 140,000 sends/s to 500 sockets where this one makes 136,000 (medians of four trials, the
order of the two not the same in each). The time is the kernel's, so there is no C here.
"""

from __future__ import annotations

import socket
import sys
from pathlib import Path

JOINED = 50


def main(port: int, frame: bytes) -> None:
    """Serve for ever."""
    joined = frame * JOINED
    listener = socket.create_server(("127.0.0.1", port), backlog=2048)
    subscribers = []
    while True:
        connection, _ = listener.accept()
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while command := connection.recv(1):
            if command == b"S":
                subscribers.append(connection)
                connection.sendall(b"+")
                break
            data = joined if command == b"5" else frame
            for subscriber in subscribers:
                subscriber.sendall(data)
        else:
            connection.close()


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]).read_bytes())
