"""Where data lies when nobody says: the same place from everywhere, and never an empty ledger."""

import os
from pathlib import Path

import pytest

from shared.settings.advice import warnings
from shared.settings.load import load
from tests.unit.configurations import MINIMAL, refusal, written


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)


def place(tmp_path: Path, text: str = "", **environ: str) -> Path:
    environ = {"HOME": str(tmp_path / "home"), **environ}
    return load(written(tmp_path, text + MINIMAL), environ).data_dir


def used(folder: Path, name: str = "state.db") -> Path:
    """Make this a folder that a connector has used."""
    folder.mkdir(parents=True)
    (folder / name).touch()
    return folder


def test_it_is_the_state_directory_of_the_user(tmp_path: Path) -> None:
    assert place(tmp_path) == tmp_path / "home/.local/state/pop3-connector"
    assert place(tmp_path, XDG_STATE_HOME="/x") == Path("/x/pop3-connector")
    assert place(tmp_path, XDG_STATE_HOME="x") == tmp_path / "home/.local/state/pop3-connector"


def test_or_that_of_the_service_or_the_system(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    units = "/var/lib/mail:/var/lib/other"
    assert place(tmp_path, STATE_DIRECTORY=units) == Path("/var/lib/mail")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert place(tmp_path, XDG_STATE_HOME="/x") == Path("/var/lib/pop3-connector")
    assert place(tmp_path, STATE_DIRECTORY=units) == Path("/var/lib/mail")


def test_it_is_not_used_where_something_is_set(tmp_path: Path) -> None:
    assert place(tmp_path, 'data_dir = "/srv/mine"\n') == Path("/srv/mine")
    used(Path("connector-data"))
    assert place(tmp_path, 'data_dir = "/srv/mine"\n') == Path("/srv/mine")
    assert place(tmp_path, POP3_CONNECTOR__DATA_DIR="/srv/mine") == Path("/srv/mine")


@pytest.mark.parametrize("name", ["state.db", "queue.db", "spool"])
def test_what_an_older_version_left_in_the_working_directory_is_used_on(
    tmp_path: Path, name: str
) -> None:
    here = used(Path("connector-data"), name).absolute()
    path = written(tmp_path, MINIMAL)
    settings = load(path, {"HOME": str(tmp_path / "home")})
    assert settings.queue_file.absolute() == here / "queue.db"
    (said,) = warnings(settings, path)
    assert f'Write data_dir = "{here}"' in said
    assert "delivers again" in said


def test_an_empty_folder_of_that_name_is_none(tmp_path: Path) -> None:
    Path("connector-data").mkdir()
    assert place(tmp_path) == tmp_path / "home/.local/state/pop3-connector"


def test_what_lies_in_the_home_directory_is_found_when_a_variable_points_elsewhere(
    tmp_path: Path,
) -> None:
    mine = used(tmp_path / "home/.local/state/pop3-connector")
    assert place(tmp_path, XDG_STATE_HOME=str(tmp_path / "x")) == mine


def test_of_two_places_with_data_the_user_has_to_say_which(tmp_path: Path) -> None:
    mine = used(tmp_path / "home/.local/state/pop3-connector")
    here = used(Path("connector-data")).absolute()
    with pytest.raises(Exception, match="write which one counts") as caught:
        place(tmp_path)
    assert f"{mine} and {here}" in str(caught.value)
    remote = '[broker]\nurl = "amqp://h"\n[state]\nurl = "sqlite:////x"\n[spool]\nurl = "/srv/s"\n'
    assert not load(
        written(tmp_path, MINIMAL + remote), {"HOME": str(tmp_path / "home")}
    ).uses_data_dir


def test_where_there_is_no_home_it_is_that_of_the_system(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    settings = load(written(tmp_path, MINIMAL), {})
    assert settings.data_dir == Path("/var/lib/pop3-connector")


def test_the_home_of_nobody_is_refused(tmp_path: Path) -> None:
    """A folder named so would be made in the working directory."""
    (said,) = refusal(tmp_path, 'data_dir = "~nosuchuser/data"\n' + MINIMAL)
    assert "data_dir: expected the path of a file or directory: nobody knows this home" in said
