"""Two configurations on one ``data_dir``: those that contradict each other are told apart."""

import os
from pathlib import Path

import pytest

from shared.errors import ConfigError
from shared.settings.load import load
from shared.settings.owner import OWNER, note_owner, require_own
from tests.unit.configurations import MINIMAL


def used(folder: Path, name: str, text: str, data: str = "data") -> Path:
    """Write a configuration, and note that it is run."""
    path = folder / f"{name}.toml"
    path.write_text(f'data_dir = "{folder}/{data}"\n{text}')
    path.chmod(0o600)
    settings = load(path, {})
    require_own(settings, path, {})
    note_owner(settings, path)
    return path


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (('username = "sales"', 'username = "info"'), "info at pop.example.net here, and sales at"),
        (("pop.example.net", "pop.example.org"), "sales at pop.example.org here"),
        (
            ("pop.example.net", 'pop.example.net"\nport = "1110'),
            "at pop.example.net:1110 here, and sales at pop.example.net:995 there",
        ),
        (("sales@corp.example", "info@corp.example"), "goes to info@corp.example here"),
        (("/srv/mail/", "/srv/other/"), "destination default is maildir:///srv/other/"),
    ],
    ids=["user", "host", "port", "mailbox", "destination"],
)
def test_one_name_for_two_things_is_refused(
    tmp_path: Path, change: tuple[str, str], said: str
) -> None:
    first = used(tmp_path, "first", MINIMAL)
    with pytest.raises(ConfigError, match=said) as caught:
        used(tmp_path, "second", MINIMAL.replace(*change))
    assert caught.value.where == "data_dir"
    assert f"{tmp_path}/data holds" in caught.value.what
    assert str(first) in caught.value.what
    assert "hunter2" not in caught.value.what
    used(tmp_path, "second", MINIMAL.replace(*change), "another")
    used(tmp_path, "first", MINIMAL)


def test_what_agrees_may_share(tmp_path: Path) -> None:
    used(tmp_path, "first", MINIMAL)
    used(tmp_path, "second", MINIMAL)
    used(tmp_path, "usual", MINIMAL.replace("pop.example.net", 'POP.example.net"\nport = "110'))
    used(tmp_path, "third", MINIMAL.replace('name = "sales"', 'name = "other"'))
    used(tmp_path, "first", MINIMAL)


def test_what_is_changed_or_moved_is_still_the_same(tmp_path: Path) -> None:
    changed = MINIMAL.replace("pop.example.net", "pop.example.org")
    first = used(tmp_path, "first", MINIMAL)
    assert used(tmp_path, "first", changed) == first
    first.rename(tmp_path / "elsewhere.toml")
    used(tmp_path, "second", MINIMAL)
    (tmp_path / "link.toml").symlink_to(tmp_path / "second.toml")
    link = tmp_path / "link.toml"
    require_own(load(link, {}), link, {})


@pytest.mark.parametrize("broken", ["", "[delivery", "data_dir = 3"])
def test_a_configuration_that_is_none_any_more_claims_nothing(tmp_path: Path, broken: str) -> None:
    used(tmp_path, "first", MINIMAL).write_text(broken)
    used(tmp_path, "second", MINIMAL.replace("pop.example.net", "pop.example.org"))


@pytest.mark.parametrize("content", [b"\0", b"", b"\xff" * 9000], ids=["nul", "empty", "long"])
def test_a_note_that_says_nothing_is_no_claim(tmp_path: Path, content: bytes) -> None:
    used(tmp_path, "first", MINIMAL)
    (tmp_path / "data" / OWNER).write_bytes(content)
    used(tmp_path, "second", MINIMAL.replace("pop.example.net", "pop.example.org"))


def test_only_this_user_may_read_the_note(tmp_path: Path) -> None:
    """Of an older version it may be one that everybody can read."""
    note = tmp_path / "data" / OWNER
    note.parent.mkdir()
    note.touch(0o644)
    used(tmp_path, "first", MINIMAL)
    assert note.stat().st_mode & 0o777 == 0o600
    assert list(note.parent.iterdir()) == [note]


def test_names_that_are_no_text_are_kept(tmp_path: Path) -> None:
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff ?%"))
    folder.mkdir()
    first = used(tmp_path, "first", MINIMAL)
    path = folder / "a.toml"
    path.write_text(first.read_text().replace("pop.example.net", "pop.example.org"))
    note_owner(load(path, {}), path)
    with pytest.raises(ConfigError, match="another configuration"):
        require_own(load(first, {}), first, {})
