"""Owners: who is alive, who is proven dead, and of whom nothing is known."""

import subprocess
import sys
from pathlib import Path

import pytest

from shared.state import new_owner
from shared.state.lease_owner import dead, local
from tests.servers.process import wait_until
from tests.unit.state.opening import ELSEWHERE
from tests.unit.state.processes import OWNER, line


class TestOwners:
    def test_each_is_another_and_alive(self) -> None:
        first, second = new_owner(), new_owner()
        assert first != second
        assert local(first)
        assert not dead(first)

    def test_one_of_this_machine_without_a_process_is_dead(self) -> None:
        host, pid, start, token = new_owner().rsplit(":", 3)
        assert dead(f"{host}:99999999:{start}:{token}")
        assert dead(f"{host}:{pid}:{int(start) - 1}:{token}"), "the PID was given out again"

    def test_a_zombie_is_dead(self) -> None:
        child = subprocess.Popen([sys.executable, "-c", OWNER], stdout=subprocess.PIPE)
        owner = line(child).decode().strip()
        assert local(owner)
        wait_until(lambda: _state_of(child.pid) == "Z", "the child to end")
        assert dead(owner)
        child.communicate()
        assert dead(owner)

    @pytest.mark.parametrize("owner", ["", "x", "a/b:c:d:e", ELSEWHERE.format(99999999), "::::/"])
    def test_of_others_nothing_is_known(self, owner: str) -> None:
        assert not local(owner)
        assert not dead(owner)

    def test_somebody_elses_process_is_alive(self) -> None:
        host = new_owner().rsplit(":", 3)[0]
        assert not dead(f"{host}:1:{_start_of(1)}:00000000")


def _stat(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def _state_of(pid: int) -> str:
    return _stat(pid)[0]


def _start_of(pid: int) -> str:
    return _stat(pid)[19]
