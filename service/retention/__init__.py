"""Retention: what is older than the operator wants to keep is archived and purged."""
