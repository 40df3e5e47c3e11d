"""Secrets: where they come from, that they stay secret, and what is said about careless ones."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from shared.errors import ConfigError
from shared.settings.advice import warnings
from shared.settings.load import load
from shared.settings.model import Settings
from tests.servers.process import wait_until
from tests.unit.configurations import CONTRACT, MINIMAL, loaded, refusal, written


def ended(pid: int) -> bool:
    """Return whether a process is at nothing any more; nobody may be there to reap it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


class TestSecrets:
    def password(self, tmp_path: Path, line: str, environ: Mapping[str, str] | None = None) -> str:
        text = MINIMAL.replace('password = "hunter2"', line)
        secret = loaded(tmp_path, text, environ).accounts[0].secret
        assert secret is not None
        return secret.reveal()

    def test_come_from_four_places(self, tmp_path: Path) -> None:
        path = tmp_path / "secret"
        path.write_bytes(b" p\xc3\xa4ss word \r\n")
        assert self.password(tmp_path, 'password = " literal "') == " literal "
        assert self.password(tmp_path, f'password_file = "{path}"') == " päss word "
        assert self.password(tmp_path, 'password_env = "PW"', {"PW": "from env"}) == "from env"
        command = "password_command = \"printf '%s\\\\n' 'a  b'\""
        assert self.password(tmp_path, command) == "a  b"

    def test_a_file_may_lie_in_the_home_directory(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("HOME", str(tmp_path))
        (tmp_path / "secret").write_text("at home\n")
        assert self.password(tmp_path, 'password_file = "~/secret"') == "at home"
        with pytest.raises(ConfigError, match="cannot read it: No such file"):
            self.password(tmp_path, 'password_file = "~nosuchuser/secret"')

    def test_a_byte_order_mark_is_no_part_of_it(self, tmp_path: Path) -> None:
        path = tmp_path / "secret"
        path.write_bytes(b"\xef\xbb\xbfp\xc3\xa4ss\r\n")
        assert self.password(tmp_path, f'password_file = "{path}"') == "päss"
        assert self.password(tmp_path, f'password_command = "cat {path}"') == "päss"

    @pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
    def test_utf16_is_named(self, tmp_path: Path, encoding: str) -> None:
        path = tmp_path / "secret"
        path.write_bytes("\ufeffhunter2".encode(encoding))
        with pytest.raises(ConfigError, match="it is UTF-16 text; write it as UTF-8"):
            self.password(tmp_path, f'password_file = "{path}"')

    def test_a_rotated_file_counts(self, tmp_path: Path) -> None:
        path = tmp_path / "secret"
        path.write_text("old")
        text = MINIMAL.replace('password = "hunter2"', f'password_file = "{path}"')
        secret = loaded(tmp_path, text).accounts[0].secret
        assert secret is not None
        assert secret.reveal() == "old"
        path.write_text("new")
        assert secret.reveal() == "new"

    @pytest.mark.parametrize(
        ("line", "said"),
        [
            ('password_file = "/nowhere/x"', "password_file /nowhere/x: cannot read it: No such"),
            ('password_file = "/dev/null"', "password_file /dev/null: it is empty"),
            ('password_file = "/dev/zero"', "/dev/zero: more than 65536 bytes"),
            ('password_env = "NOPE"', "password_env NOPE: there is no such environment variable"),
            ('password_env = "ODD"', "password_env ODD: it is not UTF-8 text"),
            ('password_command = "/nowhere/x"', "/nowhere/x: cannot run it: No such file"),
            (
                "password_command = \"sh -c 'echo hunter2; echo hunter2 >&2; exit 3'\"",
                "the command ended with status 3",
            ),
        ],
    )
    def test_that_cannot_be_had(self, tmp_path: Path, line: str, said: str) -> None:
        with pytest.raises(ConfigError) as caught:
            self.password(tmp_path, line, {"ODD": "a\udcffb"})
        assert said in str(caught.value)
        assert caught.value.what.count("hunter2") == 0

    def test_a_command_that_hangs_is_given_up_on(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("shared.settings.secret.COMMAND_SECONDS", 0.05)
        with pytest.raises(ConfigError, match="took more than"):
            self.password(tmp_path, 'password_command = "sleep 60"')

    @pytest.mark.parametrize("goes_on", ["sleep 600", "yes hunter2"])
    def test_what_a_command_has_started_is_killed_with_it(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, goes_on: str
    ) -> None:
        monkeypatch.setattr("shared.settings.secret.COMMAND_SECONDS", 1.0)
        script = tmp_path / "password"
        script.write_text(f"{goes_on} &\necho $! >{tmp_path}/child\nwait\n")
        with pytest.raises(ConfigError) as caught:
            self.password(tmp_path, f'password_command = "sh {script}"')
        wanted = "took more than" if goes_on.startswith("sleep") else "more than 65536 bytes"
        assert wanted in caught.value.what
        assert "hunter2" not in str(caught.value)
        wait_until(lambda: ended(int((tmp_path / "child").read_text())), "its child to be gone")

    def test_what_a_command_has_started_and_left_behind_keeps_no_password(
        self, tmp_path: Path
    ) -> None:
        """It holds the output open: without a look at the command itself, 10 s passed in vain."""
        script = tmp_path / "password"
        script.write_text(f"sleep 600 &\necho $! >{tmp_path}/child\nprintf hunter2\n")
        assert self.password(tmp_path, f'password_command = "sh {script}"') == "hunter2"
        wait_until(lambda: ended(int((tmp_path / "child").read_text())), "its child to be gone")

    def test_a_command_line_is_checked_when_it_is_read(self, tmp_path: Path) -> None:
        text = MINIMAL.replace('password = "hunter2"', 'password_command = "sh -c \'x"')
        assert "a quotation mark is not closed" in refusal(tmp_path, text)[0]

    def test_are_masked_wherever_settings_are_shown(self, tmp_path: Path) -> None:
        text = MINIMAL + (
            '[broker]\nurl = "amqp://me:hunter2@host"\n'
            '[state]\nurl = "postgresql://me@host/db?password=hunter2"\n'
            '[spool.options]\nsecret = "hunter2"\n'
            '[destinations.x]\nurl = "smtp://me@mail"\npassword = "hunter2"\n'
        )
        settings = loaded(tmp_path, text)
        assert settings.destinations["x"].address() == "smtp://me:hunter2@mail"
        for shown in (repr(settings), str(settings), repr(settings.accounts[0].secret)):
            assert "hunter2" not in shown
        assert "amqp://me:***@host" in repr(settings)
        assert "/db?password=***" in repr(settings)

    @pytest.mark.parametrize(
        "text",
        [
            'mailbox = ["hunter2"]',
            'password = ["hunter2"]',
            '[broker]\nurl = "hunter2"',
            '[broker]\nurl = "amqp://me:hunter2/@host"',
            '[broker]\npassword = "hunter2"',
            'broker = "hunter2"',
            'keep = "hunter2"\n[retry]\ntiers = "hunter2"',
            '[spool]\ninline_limit = "hunter2"\noptions = "hunter2"',
            'x = "hunter2',
        ],
    )
    def test_no_error_repeats_a_value(self, tmp_path: Path, text: str) -> None:
        base = MINIMAL.replace('mailbox = "sales@corp.example"\n', "")
        with pytest.raises(ConfigError) as caught:
            loaded(tmp_path, base + text)
        error: BaseException | None = caught.value
        while error is not None:
            assert "hunter2" not in f"{error} {error!r}"
            error = error.__cause__ or error.__context__

    def test_pydantic_itself_is_told_to_hide_them(self) -> None:
        with pytest.raises(ValueError, match="data_dir") as caught:
            Settings.model_validate({"data_dir": ["hunter2"]})
        assert "hunter2" not in str(caught.value)

    def test_a_password_beside_a_url_is_put_into_it(self, tmp_path: Path) -> None:
        (tmp_path / "pw").write_text("p@ss/w:rd\n")
        text = MINIMAL + (
            f'[broker]\nurl = "amqps://rabbit:5671/v"\nusername = "a@b"\n'
            f'password_file = "{tmp_path}/pw"'
        )
        address = loaded(tmp_path, text).broker.address()
        assert address == "amqps://a%40b:p%40ss%2Fw%3Ard@rabbit:5671/v"


class TestWarnings:
    def about(self, tmp_path: Path, text: str) -> list[str]:
        path = written(tmp_path, text)
        return warnings(load(path, {}), path)

    def test_nothing_to_say(self, tmp_path: Path) -> None:
        assert self.about(tmp_path, MINIMAL) == []

    def test_files_with_secrets_that_everybody_can_read(self, tmp_path: Path) -> None:
        secret = tmp_path / "secret"
        secret.write_text("x")
        secret.chmod(0o644)
        text = MINIMAL.replace('password = "hunter2"', f'password_file = "{secret}"')
        path = written(tmp_path, text)
        path.chmod(0o644)
        said = f"{secret} holds a secret and everybody can read it; chmod o-r {secret}"
        assert warnings(load(path, {}), path) == [said]
        path.write_text(MINIMAL)
        assert warnings(load(path, {}), path) == [said.replace(str(secret), str(path))]

    def test_nothing_of_files_that_an_engine_or_a_kernel_provides(self, tmp_path: Path) -> None:
        text = MINIMAL.replace('password = "hunter2"', 'password_file = "/dev/null"')
        assert self.about(tmp_path, text) == []
        secret = loaded(tmp_path, CONTRACT).accounts[0].secret
        assert secret is not None
        assert secret.managed

    def test_a_password_in_clear(self, tmp_path: Path) -> None:
        text = MINIMAL + 'tls = "none"'
        (said,) = self.about(tmp_path, text)
        assert "reads the mail, and the password where the server offers nothing" in said
        for here in ("localhost", "LocalHost.", "127.0.0.2"):
            assert self.about(tmp_path, text.replace("pop.example.net", here)) == []

    @pytest.mark.parametrize(
        ("auth", "words"),
        [
            ("plain", "reads the mail and the password"),
            ("user", "reads the mail and the password"),
            ("scram-sha-256", "reads the mail; the password stays hidden"),
            ("apop", "reads the mail; the password stays hidden"),
        ],
    )
    def test_what_is_read_without_tls_by_a_mechanism(
        self, tmp_path: Path, auth: str, words: str
    ) -> None:
        (said,) = self.about(tmp_path, MINIMAL + f'tls = "none"\nauth = "{auth}"')
        assert words in said

    def test_no_accounts(self, tmp_path: Path) -> None:
        assert "nothing will be fetched" in self.about(tmp_path, "")[0]
