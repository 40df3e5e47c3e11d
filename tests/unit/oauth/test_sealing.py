"""Tokens encrypted: with the first key, read with any; a file that is its owner's alone."""

import base64
import os
import stat
import threading
from pathlib import Path

import pytest

from shared.errors import ConfigError
from shared.oauth.sealing import KeyFile, KeyVariable, OtherKey, Sealing, new_key


def test_a_key_is_made_where_there_is_none_and_nobody_else_can_read_it(tmp_path: Path) -> None:
    path = tmp_path / "data" / "oauth.key"
    sealing = Sealing(KeyFile(path))
    sealed = sealing.seal(b"a token")
    assert "token" not in sealed
    assert sealing.open(sealed) == b"a token"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [p.name for p in path.parent.iterdir()] == ["oauth.key"]


def test_of_those_that_make_a_key_at_once_all_get_the_same(tmp_path: Path) -> None:
    source = KeyFile(tmp_path / "oauth.key")
    start = threading.Barrier(8)
    sealed: list[str] = []

    def seal() -> None:
        start.wait()
        sealed.append(Sealing(source).seal(b"x"))

    threads = [threading.Thread(target=seal) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [Sealing(source).open(each) for each in sealed] == [b"x"] * 8


def test_a_new_key_in_front_is_what_is_written_with_and_old_ones_are_read(tmp_path: Path) -> None:
    source = KeyFile(tmp_path / "oauth.key")
    sealing = Sealing(source)
    before = sealing.seal(b"before")
    source.put_first(new_key())
    after = sealing.seal(b"after")
    assert sealing.open(before) == b"before"
    assert source.keep_first() == 1
    assert sealing.open(after) == b"after"
    with pytest.raises(OtherKey):
        sealing.open(before)
    assert stat.S_IMODE(source.path.stat().st_mode) == 0o600


def test_a_key_in_a_variable(tmp_path: Path) -> None:
    key = base64.urlsafe_b64encode(os.urandom(32)).decode()
    sealing = Sealing(KeyVariable("TOKENS", {"TOKENS": f"{new_key()}, {key}"}))
    assert sealing.open(sealing.seal(b"x")) == b"x"
    assert sealing.open(Sealing(KeyVariable("OLD", {"OLD": key})).seal(b"old")) == b"old"
    with pytest.raises(ConfigError, match="there is no key in it"):
        Sealing(KeyVariable("NONE", {})).seal(b"x")


@pytest.mark.parametrize("text", ["hunter2", "käse", "AAAA", "=" * 44])
def test_what_is_no_key_is_said_and_not_shown(tmp_path: Path, text: str) -> None:
    path = tmp_path / "oauth.key"
    path.write_text(text)
    with pytest.raises(ConfigError, match="this is no key") as error:
        Sealing(KeyFile(path)).seal(b"x")
    assert text not in str(error.value)


def test_what_was_changed_is_not_read(tmp_path: Path) -> None:
    sealing = Sealing(KeyFile(tmp_path / "oauth.key"))
    sealed = sealing.seal(b"x" * 50)
    for at in (10, 40, len(sealed) - 5):
        changed = sealed[:at] + ("A" if sealed[at] != "A" else "B") + sealed[at + 1 :]
        with pytest.raises(OtherKey):
            sealing.open(changed)


def test_where_no_key_can_be_made_it_is_said_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "data").symlink_to(tmp_path / "nowhere" / "at all")
    with pytest.raises(ConfigError, match=r"cannot make the key of the tokens: .*oauth.key_env"):
        Sealing(KeyFile(tmp_path / "data" / "oauth.key")).seal(b"x")


def test_a_file_that_is_not_there_hides_what_was_encrypted_with_it(tmp_path: Path) -> None:
    sealing = Sealing(KeyFile(tmp_path / "oauth.key"))
    sealed = sealing.seal(b"x")
    (tmp_path / "oauth.key").unlink()
    with pytest.raises(OtherKey, match=r"there is no key in .*oauth.key"):
        sealing.open(sealed)
    assert not (tmp_path / "oauth.key").exists()  # looking makes none
