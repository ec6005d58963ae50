"""The collector: purges accounts that were deleted long enough ago."""
