"""Logins: tokens, the keys that sign them, and where the other doors are."""
