"""The audit: what the ledger says is read, proved, and in the end let go.

- Reading: ``queries.py`` asks the views of the schema ``audit``, ``schemas.py`` is what they are on the wire, and
  ``routes.py`` answers ``GET /v1/audit/…``; the commands of ``tocsin audit`` ask the same queries.
- Proving: every batch of the log and every flush of the ledger is a link of a chain (``events/chain.py`` says how the
  log's are made, ``chain.py`` how the ledger's are). ``chain.py`` also checks a range of links against the rows that
  they cover, ``walk.py`` takes a whole chain, range by range, several at once, and ``bookmark.py`` remembers how far
  that got.
- Letting go: ``retention.py`` runs on one node at a time, keeps ``books.py`` of what went, and takes whole
  ``partitions.py`` of the log, and in small ``batches.py`` what was about their events only. ``archiver.py`` writes
  what goes to a file (``archive.py``), ``restoring.py`` reads it back, ``foresight.py`` says what would go.
"""
