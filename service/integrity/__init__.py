"""Integrity: every batch of the log and every flush of the ledger is checked against its chain of hashes."""
