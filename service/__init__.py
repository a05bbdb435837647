"""Tocsin: a JWT-secured notification service.

The path of an alert, and where each step lives:

 1. ``POST /v1/alerts``          ``alerts/routes.py``       who are you, may you, is it well-formed
    ``POST /v1/alerts/batch``    ``alerts/batch.py``        the same, for many at once
    ``POST /v1/alerts/{id}/…``   ``alerts/action_routes.py``      acknowledge, resolve, reopen, comment
    ``POST /v1/integrations/…``  ``integrations/``          the same, for Alertmanager, CloudEvents and Apprise
 2. group commit                 ``alerts/committer.py``    many requests, one transaction
 3. the log                      ``events/log.py``          lock, number, insert, notify, commit: one SQL function
 4. ``201`` with id and seq      ``alerts/routes.py``       answered only now: stored before answered
 5. wake-up                      ``database/notifications.py``        LISTEN/NOTIFY tells the other nodes
 6. fan-out                      ``stream/fanout.py``     next events from memory or the log, encoded once
 7. the hub                      ``stream/hub.py``        groups of connections with the same filter
 8. one prepared frame to each   ``stream/transports/websocket.py``  bytes straight to each socket
 9. ack from the browser         ``stream/protocol.py``   sans-I/O state machine of one connection
10. the ledger                   ``ledger/recorder.py``   a range a connection, not a row a delivery

What becomes of an alert later, acknowledged, repeated or expired, is decided by the state machine of
``alerts/lifecycle.py``; ``changes.py`` and ``book.py`` carry it to the log, on the same way as a new one.

``app.py`` puts the parts together, ``cli/`` starts them. The packages import one another only in this order
(``cli``, ``app``, ``realtime``, ``audit``, ``deliveries``, ``integrations``, ``alerts``, ``web``, ``events``, ``auth``,
``database``, and below all ``settings``, ``errors`` and ``logs``); import-linter holds them to it. ``client/`` is for
those who call the service, and imports nothing of it.
"""

__version__ = "0.1.0"
