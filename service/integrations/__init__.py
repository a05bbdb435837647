"""Webhooks of other systems: Alertmanager, CloudEvents and Apprise, each with its own address.

A module per format maps what is posted to alerts; ``sanitize.py`` cuts foreign text to the limits
of alerts, because a source that does not know them gains nothing from a refusal; ``routes.py`` has
the addresses. Storing, and answering only what is stored, is the job of ``alerts/committer.py``, as
for every other alert.
"""
