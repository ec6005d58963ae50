"""Who may do what: Casbin's decision, its explanation, what changed, and who may give which right."""
