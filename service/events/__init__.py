"""The log: everything that admins see, in one append-only table.

``seq`` is 1, 2, 3, … without a hole, and its order is the order of commits: every append happens under one advisory
lock that is held to the commit, so a higher ``seq`` never becomes visible before a lower one and ``WHERE seq >
cursor`` never skips a row. ``log.py`` reads it and appends to it, ``chain.py`` proves that it was not altered,
``filter.py`` says which events a connection may see.
"""
