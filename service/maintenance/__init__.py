"""Periodic clean-up: connections of lost nodes, abandoned transactions, expired keys and revocations."""
