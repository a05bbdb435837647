"""Integrity: every batch of the log and every flush of the ledger is verified against its hash chain.

``link_checks.py`` checks the links of a range, ``verifier.py`` a whole chain, in several processes;
``chain_sources.py`` says where the chains are, and ``checkpoint.py`` keeps how far a verification got.
"""
