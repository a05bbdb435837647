"""What speaks another language than ours: Alertmanager, CloudEvents and Apprise, each posting to its own address.

A module a language reads what comes and maps it onto alerts; ``fitting.py`` makes foreign text fit our limits, because
a caller that knows nothing of them is not served by a refusal; ``routes.py`` has the addresses. What is stored, and
that it is stored before it is answered, is ``alerts/committer.py``'s as for every other alert.
"""
