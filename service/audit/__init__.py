"""The audit: what the views of the schema ``audit`` say, as JSON and as reports.

``queries.py`` asks the views, ``schemas.py`` is what they are on the wire, and ``routes.py`` answers
``GET /v1/audit/…``; the commands of ``tocsin audit`` ask the same queries.
"""
