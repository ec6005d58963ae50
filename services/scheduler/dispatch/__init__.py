"""Dispatch: waiting jobs to trainers, and every job at work driven to its end."""
