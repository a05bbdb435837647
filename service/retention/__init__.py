"""Retention: what is older than the operator wants to keep is archived and purged.

``runner.py`` runs a purge, ``partition_purge.py`` finds, detaches and drops partitions of the log,
``row_purge.py`` deletes everything else in small batches, and ``purge_log.py`` records what was
deleted. ``preview.py`` counts what a purge would delete. ``archive_process.py`` writes archives
(``archive_file.py``), and ``restore.py`` loads one beside the log.
"""
