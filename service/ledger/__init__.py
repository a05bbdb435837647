"""The ledger: who was sent what, who received it and when, and who has not.

A connection's filter never changes and it receives in ``seq`` order, so what it was sent is one range of the log,
``(after_seq, sent_seq]``, seen through its filter: the ledger keeps a range a connection, not a row a delivery.
``ledger.py`` collects the facts (``facts.py``) in memory and flushes them in one transaction, ``janitor.py`` settles
the connections of nodes that died, ``queries.py`` and ``routes.py`` answer over REST, and the schema ``audit`` holds
the views that operators read.
"""
