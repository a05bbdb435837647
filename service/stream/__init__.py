"""The live stream, from a commit to every browser that may see it.

::

    bus.py ─ wake-up ─┐                                        ┌─► connection ─► transport.py ─► socket
    committer ─ events┴─► fanout.py ─ prepared frames ─► hub.py┼─► connection ─► …
                              │                                └─► …
                          recent.py ◄── connections that replay or lag read their own range, from memory or the log

One event loop, no threads, no locks: a pass over the sockets runs to its end without a pause, and what it did is told
to the ledger in the same breath. ``protocol.py`` and ``frames.py`` do no I/O: the state machine of one connection, and
the bytes of each frame. ``connection.py`` binds one protocol to one transport: a WebSocket (``transport.py``), an
answer of server-sent events (``sse.py``), or a client's long polls (``longpoll.py``). ``admission.py`` decides who is
let in; ``websocket.py`` and ``events.py`` are the endpoints.

Beside that, ``dashboard.py`` shows how the service stands to those who look (``sampler.py``, ``figures.py``).
"""
