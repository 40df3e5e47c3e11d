"""Hostile input for all that reads bytes of others: targets, and a fuzzer guided by coverage."""
