"""Authentication: from a bearer token to a principal.

``principal.py`` is the vocabulary (scopes, the verified bearer) and does no I/O. ``issuers.py``
holds the trusted issuers, ``keys.py`` and ``shared_secret.py`` what makes a key acceptable, and
``jwks.py`` fetches the keys that rotate. ``shared_secret.py`` also signs tokens, ``tokens.py``
turns a token into a principal, and ``revocations.py`` holds the tokens that were revoked.
"""
