"""Accounts: who may log in, with which password, and what slows down who guesses."""
