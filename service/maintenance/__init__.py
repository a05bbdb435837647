"""Periodic clean-up: connections of lost nodes, expired keys and revocations."""
