"""The audit: proving what the log and the ledger say.

Every batch of the log and every flush of the ledger is a link of a chain (``events/chain.py`` says how the log's are
made, ``chain.py`` how the ledger's are). ``chain.py`` also checks a range of links against the rows that they cover,
``walk.py`` takes a whole chain, range by range, several at once, and ``bookmark.py`` remembers how far that got.
"""
