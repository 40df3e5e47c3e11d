"""Reads header blocks: ``incoming`` to ``parsed``, or to quarantine."""
