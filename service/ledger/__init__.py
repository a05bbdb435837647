"""The ledger: who was sent what, who received it and when, and who has not.

A connection's filter never changes and it receives in ``seq`` order, so what it was sent is one
range of the log, ``(after_seq, sent_seq]``, seen through its filter: the ledger stores a range per
connection, not a row per delivery. ``recorder.py`` collects records (``records.py``) in memory,
``flusher.py`` writes them in one transaction, ``lost_nodes.py`` closes the connections of nodes
that died, and ``queries.py`` and ``routes.py`` answer over REST. Operators read the views of the
schema ``audit``.
"""
