"""The log: everything that admins see, in one append-only table.

``seq`` is 1, 2, 3, … without a hole, and its order is the order of commits: every append holds one
lock to its commit, so a higher ``seq`` never becomes visible before a lower one, and ``WHERE seq >
cursor`` never skips a row. ``log.py`` reads the log and appends to it,
``hash_chain.py`` makes the chain that shows whether it was altered, ``filter.py`` decides which
events a connection may see.
"""
