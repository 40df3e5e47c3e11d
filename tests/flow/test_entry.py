"""The console script as it is installed: whose packages it runs, and what it says if not ours."""

import os
import shlex
import shutil
import signal
import subprocess
import sys
import tomllib
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
START = "import sys; from pop3_connector import main; sys.exit(main())"


def run(*path: Path, arguments: tuple[str, ...] = ("--version",)) -> tuple[int, str, str]:
    """Run what the console script runs, with these places in front of all others."""
    done = subprocess.run(
        [sys.executable, "-P", "-c", START, *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, path))},
        cwd="/",
    )
    return done.returncode, done.stdout, done.stderr


def package(folder: Path, name: str) -> Path:
    """Make a package of this name that is somebody else's; return where it can be imported."""
    (folder / name).mkdir(parents=True)
    (folder / name / "__init__.py").write_text("VERSION = 1\n")
    return folder


def site(folder: Path) -> Path:
    """Make a place where everything of ours is installed."""
    folder.mkdir()
    shutil.copy(ROOT / "pop3_connector.py", folder)
    for name in ("services", "shared"):
        shutil.copytree(ROOT / name, folder / name)
    return folder


def test_the_console_script_is_the_program() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    (entry,) = project["project"]["scripts"].values()
    module, _, function = entry.partition(":")
    assert callable(getattr(import_module(module), function))
    status, out, err = run(ROOT)
    assert (status, err) == (0, "")
    assert out.startswith("pop3-connector, version ")


def test_a_package_in_front_of_ours_is_named(tmp_path: Path) -> None:
    for name in ("services", "shared"):
        front = package(tmp_path / name, name)
        status, out, err = run(front, ROOT)
        assert (status, out) == (1, "")
        assert err.count("\n") == 1
        assert f"another package '{name}' is in front of ours: {front}/{name}" in err
        assert "PYTHONPATH" in err


def test_a_module_in_front_of_ours_is_named(tmp_path: Path) -> None:
    (tmp_path / "shared.py").write_text("")
    status, _, err = run(tmp_path, ROOT)
    assert status == 1
    assert f"another package 'shared' is in front of ours: {tmp_path}/shared.py" in err


def test_a_folder_without_a_package_in_it_is_in_nobodys_way(tmp_path: Path) -> None:
    (tmp_path / "shared").mkdir()
    assert run(tmp_path, ROOT)[0] == 0


def test_who_has_replaced_files_of_ours_is_named(tmp_path: Path) -> None:
    """As pip does it: two distributions with one package in the same place."""
    ours = site(tmp_path / "site")
    (ours / "shared" / "__init__.py").write_text("VERSION = 1\n")
    info = ours / "acme_tools-2.3.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-tools\nVersion: 2.3\n")
    (info / "RECORD").write_text("shared/__init__.py,,\nacme_tools-2.3.dist-info/METADATA,,\n")
    status, out, err = run(ours)
    assert (status, out) == (1, "")
    assert "files of its package 'shared' were replaced by those of acme-tools 2.3" in err


def test_where_a_package_is_missing_it_is_named(tmp_path: Path) -> None:
    ours = site(tmp_path / "site")
    shutil.rmtree(ours / "services")
    command = [sys.executable, "-S", "-P", "-c", START]
    environ = {**os.environ, "PYTHONPATH": str(ours)}
    done = subprocess.run(command, capture_output=True, text=True, env=environ, cwd="/")
    assert done.returncode == 1
    assert f"its package 'services' is missing in {ours}" in done.stderr


def starts(*arguments: str) -> list[list[str]]:
    """Return every command line that means the same."""
    found = [["-P", "-c", START, *arguments], ["-m", "services", *arguments]]
    if arguments[0] == "fetcher":
        found.append(["-m", "services.fetcher", *arguments[1:]])
    return found


@pytest.mark.parametrize(
    ("name", "arguments", "status"),
    [
        ("SIGTERM", ("run",), 0),
        ("SIGHUP", ("run",), 0),
        ("SIGTERM", ("fetcher",), 0),
        ("SIGTERM", ("run", "--once"), 130),
        ("SIGTERM", ("accounts",), -15),
        ("SIGINT", ("run",), 130),
        ("SIGINT", ("accounts",), 130),
    ],
)
def test_a_signal_while_the_program_loads_ends_it_well(
    tmp_path: Path, name: str, arguments: tuple[str, ...], status: int
) -> None:
    # The first thing that is loaded sends it, and would say so if the process went on.
    (tmp_path / "click.py").write_text(
        f"import os, signal\nos.kill(os.getpid(), signal.{name})\nprint('went on')\n"
    )
    environ = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    for start in starts(*arguments):
        done = subprocess.run(
            [sys.executable, *start],
            capture_output=True,
            text=True,
            env=environ,
            cwd="/",
            # Ignored where a script has put the tests into the background.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        assert (done.returncode, done.stdout, done.stderr) == (status, "", ""), start


def configured(folder: Path) -> str:
    """Write a configuration without accounts; return its path."""
    config = folder / "connector.toml"
    config.write_text(f'data_dir = "{folder}/data"\n[delivery]\nurl = "maildir://{folder}/mail"\n')
    return str(config)


@pytest.mark.parametrize("stage", ["run", "parser"])
def test_more_signals_change_no_exit_status(tmp_path: Path, stage: str) -> None:
    """The last moment at which a test can send one is when Python ends."""
    late = "import atexit, os, signal\n"
    late += "for s in ('SIGTERM', 'SIGHUP', 'SIGINT'):"
    late += " atexit.register(os.kill, os.getpid(), getattr(signal, s))\n"
    command = [sys.executable, "-P", "-c", late + START, "--config", configured(tmp_path), stage]
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, stderr=subprocess.PIPE, env=environ, cwd="/") as process:
        assert process.stderr is not None
        said = b""
        while b'"started"' not in said:
            said = process.stderr.readline()
            assert said, "it ended before it had started"
        process.terminate()
        assert b"Traceback" not in process.stderr.read()
    assert process.returncode == 0


@pytest.mark.parametrize("closed", ["2>&-", ">&-", "<&-", "<&- >&- 2>&-"])
def test_closed_descriptors_do_no_harm(tmp_path: Path, closed: str) -> None:
    # What is opened next would have the number of a closed one.
    code = "import os, sys; from pop3_connector import main; status = main();"
    code += "sys.exit(status or 100 * (os.open(os.devnull, os.O_RDONLY) < 3))"
    arguments = ["--config", configured(tmp_path), "run", "--once", "--json"]
    done = subprocess.run(
        f"exec {shlex.join([sys.executable, '-P', '-c', code, *arguments])} {closed}",
        shell=True,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert (done.returncode, "Error" in done.stderr) == (0, False)
    assert ('"accounts": 0' in done.stdout) == (" >&-" not in f" {closed}")
