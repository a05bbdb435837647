"""Alerts: accepted over REST, stored by the committer, listed from their current state."""
