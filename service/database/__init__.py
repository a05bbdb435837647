"""PostgreSQL: the engine and its transactions, the embedded server of a first run, the migrations.

``base.py`` holds the metadata that every ``tables.py`` registers with. ``engine.py`` is how the service talks to the
database: pooled transactions through SQLAlchemy, and dedicated asyncpg connections for the parts that keep one (the
committer, the bus). ``embedded.py`` starts a PostgreSQL 18 where no other is configured. ``migrate.py`` runs Alembic.
"""
