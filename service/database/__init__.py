"""PostgreSQL: connections and transactions, migrations, notifications, locks.

``base.py`` holds the metadata with which the tables of all packages are registered. ``engine.py``
has pooled transactions through SQLAlchemy, and dedicated asyncpg connections for the parts that
keep one (the committer, the notification listener). ``durability.py`` verifies each connection, and
``pooler.py`` holds the transactions behind a connection pooler to the same. ``embedded.py`` starts
a PostgreSQL 18 if no other is configured, ``migrate.py`` runs Alembic, ``locks.py`` lists the
locks, and ``lock_holder.py`` holds one for longer than a transaction should last.
"""
