"""Who may do what: Casbin's decision, its explanation, and what changed."""
