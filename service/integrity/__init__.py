"""Integrity: the log and the ledger are verified against their hash chains.

``link_checks.py`` checks the links of a range, ``verifier.py`` a whole chain, in several processes;
``chain_sources.py`` says where the chains are, and ``checkpoint.py`` keeps how far a verification got.
"""
