"""What docs/scaling.md and docs/proof.md reckon with.

scripts/measure-scale, measure-failed and large-maildrop run it. Measures and judges nothing. Trusts
the clock of the machine. May import ``tests``, ``scripts.demonstration``, ``services``, ``shared``.
"""
