"""The audit: who was sent what and who received it, from the views of the schema ``audit``.

``queries.py`` queries the views (``views.py``), ``report.py`` sums up a period, ``schemas.py`` and
``report_schemas.py`` are the answers, and ``routes.py`` serves ``GET /v1/audit/…``. The commands of
``tocsin audit`` use the same queries.
"""
