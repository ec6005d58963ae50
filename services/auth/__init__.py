"""The auth service: accounts, groups, logins, and the decision who may do what."""
