"""Alerts: taken over REST, stored by the committer, listed from the table of their current state."""
