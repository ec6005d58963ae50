"""The tables of the storage service and what is asked of them: one class per noun, all inside one transaction."""

from services.storage.store.session import Database, Session

__all__ = ["Database", "Session"]
