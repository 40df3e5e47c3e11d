"""The connector beside mpop, getmail6 and fetchmail, and beside itself: what scripts/bench runs.

Measures and judges nothing. Trusts the servers of tests/servers, and the clock of the machine. May
import ``tests`` and, for what the product does inside one process, ``services`` and ``shared``.
"""
