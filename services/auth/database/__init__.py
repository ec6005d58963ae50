"""The database of auth: engine, session, migrations."""
