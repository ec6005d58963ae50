"""Projects: a row here, groups and an owner in auth."""
