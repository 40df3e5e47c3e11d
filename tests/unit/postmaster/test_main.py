"""The program as a whole: which configuration it takes, how it fails, its exit status."""

import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from services.command_line import STAGES, main
from shared.queues import plan
from tests.servers.process import free_port, wait_until
from tests.unit.postmaster.conftest import TIERS, Office

COMMANDS = (
    ("run",),
    *((stage,) for stage in STAGES),
    ("topology", "declare"),
    ("topology", "show"),
    ("accounts",),
    ("spool", "list"),
    ("spool", "sweep"),
    ("failed", "list"),
    ("quarantine", "list"),
    ("check-config",),
)


class TestTopology:
    def test_is_declared_and_shown(self, office: Office) -> None:
        names = [queue.name for queue in plan(TIERS)]
        assert office("topology", "declare", "--json").json == {"declared": names}
        assert office("topology", "declare").out == f"declared: {len(names)} queues\n"
        office.put("a1", queue="parsed.failed")
        rows = office("topology", "show", "--json").json
        assert [row["queue"] for row in rows] == names
        counts = {row["queue"]: row["messages"] for row in rows}
        assert counts.pop("parsed.failed") == 1
        assert set(counts.values()) == {0}
        shown = office("topology", "show").out
        assert all(name in shown for name in names)


class TestCheckConfig:
    def test_says_what_was_understood_without_the_password(self, office: Office) -> None:
        printed = office("check-config")
        assert (printed.status, printed.err) == (0, "")
        for part in ("embedded", "localhost:995", "sales@corp.example", "forever", "password ***"):
            assert part in printed.out
        assert "hunter2" not in printed.out

    def test_in_the_words_of_the_configuration(self, office: Office) -> None:
        lines = office("check-config").out.splitlines()
        for line in (
            f"spool:          {office.data}/spool",
            "inline_limit:   128KiB",
            "retry:          30s, 5m, 30m, 2h, 6h",
            "give_up_after:  5d",
            (
                "limits:         8 connections to one POP3 host, 1000000 messages of a maildrop,"
                " 200 MiB (or 25 %) free on each disk"
            ),
            "monitor:        off",
        ):
            assert line in lines
        assert lines[-1] == "The configuration is valid."
        office.config.write_text(
            office.config.read_text()
            + 'poll_every = "90s"\ntimeout = "1500ms"\n[monitor]\nlisten = "127.0.0.1:9108"\n'
            + '[retry]\ntiers = ["1s", "2m"]\ngive_up_after = "36h"\n'
            + '[spool]\nurl = "s3://mail/spool"\ninline_limit = 1000000\n'
        )
        found = office("check-config", "--json").json
        assert found["spool"] == "s3://mail/spool"
        assert (found["retry"], found["give_up_after"]) == (["1s", "2m"], "36h")
        assert found["monitor"] == "127.0.0.1:9108"
        account = found["accounts"][0]
        assert (account["poll_every"], account["timeout"]) == ("90s", "1500ms")
        assert found["inline_limit"] == "1000000B"

    def test_as_json(self, office: Office) -> None:
        found = office("check-config", "--json").json
        assert found["accounts"][0]["server"] == "localhost:995"
        assert found["warnings"] == []
        assert "hunter2" not in json.dumps(found)

    def test_tries_passwords_that_stand_elsewhere(self, office: Office) -> None:
        text = office.config.read_text()
        office.config.write_text(text.replace('password = "hunter2"', 'password_file = "/no/pw"'))
        printed = office("check-config")
        assert (printed.status, printed.out) == (2, "")
        assert printed.err == (
            "account sales: password_file /no/pw: cannot read it: No such file or directory\n"
        )

    def test_warns(self, office: Office) -> None:
        office.config.chmod(0o644)
        assert "warning: " in office("check-config").err


class TestWrongConfiguration:
    @pytest.mark.parametrize("command", COMMANDS)
    def test_is_exit_status_2_and_a_line_for_each_problem(
        self, office: Office, command: tuple[str, ...]
    ) -> None:
        office.config.write_text('[delivery]\nurll = "smtp://x"\nurl = "x"\n')
        printed = office(*command)
        assert (printed.status, printed.out) == (2, "")
        assert printed.err.splitlines() == [
            f"{office.config}:3: delivery.url: expected a URL",
            f"{office.config}:2: delivery.urll: unknown key; did you mean 'url'?",
        ]

    def test_none_at_all(
        self,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capfd: pytest.CaptureFixture[str],
    ) -> None:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr("services.postmaster.invocation.PLACES", (Path("connector.toml"),))
        assert main(["check-config"]) == 2
        assert capfd.readouterr().err.startswith("--config: no configuration: expected a file")

    def test_an_unknown_command(self, office: Office) -> None:
        assert office("frobnicate").status == 2


def test_a_run_warns_in_its_log_and_keeps_standard_output_for_the_summary(office: Office) -> None:
    office.config.write_text(office.config.read_text() + "enabled = false")
    office.config.chmod(0o644)
    command = [sys.executable, "-m", "services", "run", "--once", "--json"]
    done = subprocess.run(
        [*command, "--config", str(office.config)], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, json.loads(done.stdout)["fetched"]) == (0, 0)
    assert "holds a secret and everybody can read it" in done.stderr
    assert "hunter2" not in done.stderr


class TestWhereTheConfigurationComesFrom:
    @pytest.fixture(autouse=True)
    def elsewhere(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr("services.postmaster.invocation.PLACES", (Path("connector.toml"),))

    def file(self, capfd: pytest.CaptureFixture[str], *arguments: str) -> object:
        capfd.readouterr()
        assert main([*arguments, "check-config", "--json"]) == 0
        return json.loads(capfd.readouterr().out)["file"]

    def test_option_then_variable_then_directory_then_environment_alone(
        self,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capfd: pytest.CaptureFixture[str],
    ) -> None:
        for name in ("given.toml", "named.toml", "connector.toml"):
            (tmp_path / name).touch()
        monkeypatch.setenv("POP3_CONNECTOR_CONFIG", "named.toml")
        assert self.file(capfd, "--config", "given.toml") == "given.toml"
        assert main(["check-config", "--json", "--config", "given.toml"]) == 0
        assert json.loads(capfd.readouterr().out)["file"] == "given.toml"
        assert self.file(capfd) == "named.toml"
        monkeypatch.delenv("POP3_CONNECTOR_CONFIG")
        assert self.file(capfd) == "connector.toml"
        (tmp_path / "connector.toml").unlink()
        monkeypatch.setenv("POP3_CONNECTOR__DATA_DIR", str(tmp_path))
        assert self.file(capfd) is None


class TestFailures:
    def test_a_broker_that_is_away(self, office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
        url = f"amqp://me:hunter2@127.0.0.1:{free_port()}"
        monkeypatch.setenv("POP3_CONNECTOR__BROKER__URL", url)
        printed = office("failed", "list")
        assert (printed.status, printed.out, printed.err.count("\n")) == (1, "", 1)
        assert "Is the broker running" in printed.err
        assert "hunter2" not in printed.err

    def test_the_unexpected_is_one_line_unless_debugging(
        self,
        office: Office,
        monkeypatch: pytest.MonkeyPatch,
        capfd: pytest.CaptureFixture[str],
    ) -> None:
        def boom(*_: object) -> None:
            raise ZeroDivisionError("\x1b[31mboom")

        monkeypatch.setattr("services.check.warnings", boom)
        printed = office("check-config")
        assert (printed.status, printed.err) == (
            1,
            (
                "pop3-connector: unexpected error: ZeroDivisionError: \\x1b[31mboom"
                " (--debug shows where it came from)\n"
            ),
        )
        assert main(["--debug", "--config", str(office.config), "check-config"]) == 1
        assert "in boom" in capfd.readouterr().err

    def test_an_interrupt_is_130_and_silent(self, tmp_path: Path) -> None:
        # A configuration that never ends keeps the program waiting for as long as we like.
        fifo = tmp_path / "connector.toml"
        os.mkfifo(fifo)
        # In the background of a script SIGINT is ignored, and would be here.
        command = ["env", "--default-signal=INT", sys.executable, "-m", "services"]
        writer = -1

        def opened() -> bool:
            nonlocal writer
            with suppress(OSError):
                writer = os.open(fifo, os.O_WRONLY | os.O_NONBLOCK)
            return writer >= 0

        command += ["--config", str(fifo), "check-config"]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
            try:
                wait_until(opened, "the program to read its configuration")
                process.send_signal(signal.SIGINT)
                _, err = process.communicate(timeout=30)
            finally:
                process.kill()
        os.close(writer)
        assert (process.returncode, err.strip()) == (130, "")

    def test_a_terminal_that_knows_ascii_only(self, office: Office) -> None:
        office.put("a1", subject="größer ☃")
        command = [sys.executable, "-m", "services", "--config", str(office.config)]
        done = subprocess.run(
            [*command, "failed", "list"],
            capture_output=True,
            env={**os.environ, "PYTHONIOENCODING": "ascii"},
        )
        assert done.returncode == 0
        assert rb"gr\xf6\xdfer \u2603" in done.stdout


def test_version(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capfd.readouterr().out.startswith("pop3-connector, version ")
