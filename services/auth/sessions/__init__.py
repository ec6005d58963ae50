"""Logins: passwords, tokens, and what slows down who guesses."""
