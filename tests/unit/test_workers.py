"""Several workers share tests out: singly, but for those that share what is dear to make."""

from pathlib import Path

import pytest

SERVER = '@pytest.fixture(scope="module")\ndef server(): ...\n'


def test_a_module_that_shares_a_server_starts_it_once(tmp_path: Path) -> None:
    workers = pytest.importorskip("tests.workers")
    (tmp_path / "test_server.py").write_text(SERVER)
    (tmp_path / "test_alone.py").write_text("def test_a(): pass\n")
    given = {
        workers.together(tmp_path, f"test_{module}.py::test_{test}")
        for module in ("server", "alone")
        for test in "ab"
    }
    assert given == {"test_server.py", "test_alone.py::test_a", "test_alone.py::test_b"}
