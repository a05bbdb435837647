"""Who is calling, and what may they do.

``principal.py`` is the vocabulary (scopes, topics, the verified bearer) and does no I/O. ``keys.py`` finds the key
that a token must be signed with; rotation by ``kid`` and JWKS sources belong there. ``tokens.py`` turns a token into a
principal; revocations will be asked for there, after the cache.
"""
