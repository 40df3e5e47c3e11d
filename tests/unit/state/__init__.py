"""The state: one suite for every database, and what is SQLite's or an owner's alone."""

import pytest

for _part in ("leases", "deliveries", "ledger", "schedule", "tokens", "trouble", "values"):
    pytest.register_assert_rewrite(f"{__name__}.{_part}")
