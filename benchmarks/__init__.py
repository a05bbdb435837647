"""What Tocsin does on the machine at hand, beside what others do on it: ``make bench``.

Every figure stands beside baselines that run in the same invocation, in turns with it, because machines differ and are
shared: the ratios are what to look at. Each server has a process (or several) of its own, PostgreSQL a folder of its
own, and each node a database of its own. Everything that costs is on: durable storage, limits (raised: they count and
refuse nobody), heartbeats, access control, the ledger; only a log line for each request is off, as it is for the
baselines.

Where to look:

- ``publish.py``, ``fanout.py``, ``latency.py``, ``connections.py``, ``ledger.py``, ``workers.py``, ``growth.py``,
  ``hostile.py``: the scenarios, with their targets
- ``nodes.py``, ``servers.py``, ``baselines.py``, ``peers/``: what is measured, and what it is compared with
- ``load.py``: sources, in this process; ``readers.py``, ``reader_process.py``, ``reading.py``: connections, in another
- ``cpu.py``, ``report.py``: who used the processor; the table and the JSON

How we know that the figures are true:

- No frame is assumed: every connection must have exactly as many as the others and as were posted, and some connections
  are parsed to the last byte, with a ``seq`` that follows one upon the other.
- Latency counts from when a POST was due by a fixed schedule, not from when a busy client got round to it, to the
  arrival at each client; percentiles are taken from every frame, not from a sample.
- The client is not the bottleneck: the CPU of server, PostgreSQL, readers, sources, and of whatever else ran, is taken
  in each trial and printed, beside the rate at which the same readers drain a bare send loop.
"""
