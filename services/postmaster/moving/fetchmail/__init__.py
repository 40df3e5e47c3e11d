"""Reads the run control file of fetchmail: ``words``, then ``entries``, then ``accounts``."""
