"""The live stream, from a commit to every browser that may see it.

::

    notifications ─ wake ────────┐                                      ┌─► connection ─► transport ─► socket
    committer ─ committed events ┴─► fanout.py ─ prepared events ─► hub.py ─► connection ─► …
                                        │                               └─► …
                                  replay_cache.py ◄── connections that replay read their range here, or from the log

One event loop, no threads, no locks: a pass over the sockets runs to its end without a pause, and
the ledger records it in the same turn of the loop.

- A frame: ``frames.py`` encodes it, ``frame_schemas.py`` describes it, ``asyncapi.py`` documents
  it.
- A connection: ``protocol.py`` is its state machine and does no I/O; ``connection.py`` binds it to
  a transport of ``transports/``: a WebSocket, an answer of server-sent events, or a client's long
  polls.
- All connections: ``hub.py`` groups them by filter, ``ticks.py`` ticks them, ``presence.py``
  announces whose they are.
- Opening one: ``transports/websocket_handshake.py`` and ``transports/http_endpoint.py`` check the
  request, with ``admission.py`` and ``capacity.py``.
"""
