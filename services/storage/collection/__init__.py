"""The collector: purges what was deleted long enough ago, and gives back the room of what nothing names."""
