"""Tocsin: a JWT-secured notification service.

The path of an alert, and the module of each step:

 1. ``POST /v1/alerts``           ``alerts/routes.py``        authenticate, authorize, validate
    ``POST /v1/alerts/batch``     ``alerts/batch_request.py``         the same, for many alerts at once
    ``POST /v1/alerts/{id}/…``    ``alerts/action_routes.py`` acknowledge, resolve, reopen, comment
    ``POST /v1/integrations/…``   ``integrations/``           Alertmanager, CloudEvents and Apprise
 2. group commit                  ``alerts/committer.py``     many requests, one transaction
 3. the log                       ``events/log.py``           lock, number, insert, notify, commit
 4. ``201`` with id and seq       ``alerts/routes.py``        only now: stored before answered
 5. wake-up                       ``database/``               LISTEN/NOTIFY wakes the other nodes
 6. fan-out                       ``stream/fanout.py``        next events from memory or the log
 7. the hub                       ``stream/hub.py``           groups of connections by filter
 8. one frame to each socket      ``stream/transports/``      WebSocket, SSE, long poll
 9. ack from the client           ``stream/protocol.py``      sans-I/O state machine of a connection
10. the ledger                    ``ledger/recorder.py``      a range per connection, not a row each

Later changes of an alert, such as acknowledge, repeat or expire, are decided by the state machine
in ``alerts/lifecycle.py``; ``alerts/commands.py`` and ``alerts/unit_of_work.py`` write them to the
log in the same way.

``app.py`` makes the parts of a node and ``cli/`` starts it. ``periodic.py`` runs everything that
repeats. Packages import each other in one direction only, which import-linter checks: its list of
layers in ``pyproject.toml`` begins with what imports all others. ``client/`` is for programs that
call the service, and imports nothing else of it.
"""

__version__ = "0.1.0"
