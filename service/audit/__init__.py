"""Audit: reading the ledger and the log, proving them, and letting go what is old."""
