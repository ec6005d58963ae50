from loupe.database import run_migrations

run_migrations()
