"""Who is calling, and what may they do.

``principal.py`` is the vocabulary (scopes, topics, the verified bearer) and does no I/O. ``issuers.py`` says whose
tokens are believed, ``keys.py`` what makes a key good enough, and ``jwks.py`` fetches the keys that rotate.
``tokens.py`` turns a token into a principal; ``revocations.py`` knows which are not to be believed any more.
"""
