"""Who is calling, and what may they do.

``principal.py`` is the vocabulary (scopes, topics, the verified bearer) and does no I/O. ``issuers.py`` says whose
tokens are believed, ``keys.py`` and ``shared_secret.py`` what makes a key good enough, and ``jwks.py`` fetches the keys
that rotate. ``shared_secret.py`` also mints tokens, ``tokens.py`` turns a token into a principal, and
``revocations.py`` knows which are not to be believed any more.
"""
