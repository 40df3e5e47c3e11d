"""``pop3-connector``: reads the command line, wires, and chooses the exit status.

Exit status: 0 all well; 1 something failed, for a reason that is on standard error; 2 the command
line or the configuration is wrong, or a file is damaged; 130 interrupted. No traceback is shown
unless ``--debug`` asks.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import io
import keyword
import os
import resource
import signal
import sys
import traceback
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, NoReturn

import click

from services.postmaster.errors import NotFound, Unfit
from services.postmaster.invocation import Invocation, pass_invocation
from shared.errors import (
    BrokerLimit,
    BrokerUnavailable,
    ConfigError,
    InUse,
    MigrationRefused,
    QueueFileDamaged,
    QueueFileUnavailable,
    QueueSilent,
    Refused,
    SpoolMissing,
    SpoolUnavailable,
    StateDamaged,
    StateUnavailable,
)
from shared.log import MailLog, printable
from shared.log_lines import LogLines, configure

if TYPE_CHECKING:
    from shared.settings.model import Settings

NAME: Final = "pop3-connector"

STAGES: Final = {
    "fetcher": "Poll the POP3 accounts that are due, and fetch their mail.",
    "parser": "Read headers of fetched mail; quarantine what is corrupt.",
    "rewriter": "Direct parsed mail to local mailboxes.",
    "deliverer": "Deliver directed mail to its destinations.",
}

OPERATOR: Final = {
    "account": "account",
    "accounts": "accounts",
    "backup": "backup",
    "export": "moving.take_out",
    "failed": "folders",
    "import": "moving.bring_in",
    "providers": "providers",
    "quarantine": "folders",
    "restore": "backup",
    "spool": "spool",
    "state": "state",
    "topology": "topology",
}
"""The operator's commands, each with its module in ``services.postmaster``."""

INTERRUPTED: Final = 130
"""The exit status of a command that was told to end before it was done."""

LOADING: Final = 100_000
"""New objects before garbage is looked for: loading makes 80,000 objects, and next to no garbage.
See docs/benchmarks.md."""

ADVICE: Final[tuple[tuple[type[Exception], str], ...]] = (
    (QueueFileUnavailable, "Is its disk full? Make room on it; see state check."),
    (BrokerLimit, "Others have to disconnect first, or its operator raises the limit."),
    (InUse, "Try again when they have done."),
    (QueueSilent, "Are the nodes of the broker running, or most of them?"),
    (BrokerUnavailable, "Is the broker running, and broker.url right? See check-config."),
    (StateUnavailable, "Is the database running, its disk full? See check-config."),
    (SpoolUnavailable, "Is the spool there, and may this user read and write it?"),
    (SpoolMissing, "Its raw message is gone from the spool; was the spool cleared or moved?"),
    (MigrationRefused, ""),
    (Refused, "Does the queue exist (topology declare), and is it full?"),
    (NotFound, ""),
    (Unfit, ""),
)
"""Errors that have a cause outside this program, and what to look at."""


@click.command()
@click.option("--once", is_flag=True, help="Poll each account once, drain the pipeline, and end.")
@click.option("--json", "as_json", is_flag=True, help="Print the summary as one JSON object.")
@click.option("--quiet", is_flag=True, help="Print nothing, not even the summary, if all is well.")
@pass_invocation
def run(invocation: Invocation, once: bool, as_json: bool, quiet: bool) -> int:
    """Run all four stages in one process."""
    _end_on_signals(INTERRUPTED if once else 0)
    settings, lines = _load_settings(invocation, "WARNING" if quiet else "INFO")
    from services.run import main as run_main

    return run_main(settings, lines, once=once, as_json=as_json, quiet=quiet)


@click.command("check-config")
@click.option(
    "--connect",
    is_flag=True,
    help="Log in to each account and reach each destination, too; fetch and deliver nothing.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@pass_invocation
def check_config(invocation: Invocation, connect: bool, as_json: bool) -> int:
    """Check the configuration, and show what it means; exit 2 if it is wrong."""
    from services.check import main as check_main

    return check_main(invocation, connect=connect, as_json=as_json)


@click.command("test")
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@pass_invocation
def account_test(invocation: Invocation, name: str, as_json: bool) -> int:
    """Log in to the account NAME, and tell what the next poll would fetch and delete.

    UIDLs, sizes and some headers are asked for (UIDL, LIST, TOP). Nothing is retrieved, nothing is
    deleted, nothing is written down. Exit status 1 where that cannot be told.
    """
    settings = invocation.settings()
    lines = configure("DEBUG" if invocation.debug else "INFO")
    table = next((table for table in settings.accounts if table.name == name), None)
    if table is None:
        raise click.ClickException(f"there is no account {printable(name)}")
    from services.account_test import find
    from services.postmaster.show import as_json as print_json

    found = find(table, settings, MailLog("account test", lines=lines))
    if as_json:
        print_json(found.record())
    else:
        found.report()
    return 0 if found.failed is None else _complain(f"{printable(name)}: {found.failed}", 1)


def _stage(name: str, summary: str) -> click.Command:
    @click.command(name, help=f"{summary} Runs until SIGTERM.")
    @pass_invocation
    def stage(invocation: Invocation) -> int:
        _end_on_signals(0)
        settings, lines = _load_settings(invocation)
        wiring = importlib.import_module(f"services.{name}.wiring")
        from services.process import serve

        return serve(settings, lines, wiring.WIRING)

    return stage


@click.command("trial", hidden=True)
@click.argument("stage", type=click.Choice([name for name in STAGES if name != "fetcher"]))
@pass_invocation
def trial(invocation: Invocation, stage: str) -> int:
    """Handle what may crash its process, for the process that starts this one."""
    lines = configure("DEBUG" if invocation.debug else "WARNING")
    settings = invocation.settings()
    from services.trial.wiring import serve

    return serve(settings, lines, stage)


def _end_on_signals(status: int) -> None:
    """End at once on SIGTERM and SIGHUP while all is loaded: nothing is in hand, all is settled.

    Args:
        status: to end with.
    """

    def end(_: int, __: object) -> NoReturn:
        raise SystemExit(status)

    for name in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(name) is not signal.SIG_IGN:
            signal.signal(name, end)


def _load_settings(invocation: Invocation, level: str = "INFO") -> tuple[Settings, LogLines]:
    """Return the settings of a process that carries mail, and its log, set up.

    Args:
        invocation: of the program.
        level: what is less than this is not logged, unless all is (``--debug``).
    """
    # Not at the top, as the settings themselves.
    from shared.settings.advice import warnings
    from shared.settings.owner import note_owner

    lines = configure("DEBUG" if invocation.debug else level)
    settings = invocation.settings()
    note_owner(settings, invocation.path())
    for what in warnings(settings, invocation.path()):
        MailLog("configuration", lines=lines).trouble("questionable setting", warning=what)
    return settings, lines


class _Program(click.Group):
    """The commands by name; a module of the operator's is loaded when its command is called."""

    def list_commands(self, _: click.Context) -> list[str]:
        """Return the name of every command."""
        return sorted(("run", "check-config", *STAGES, *OPERATOR))

    def get_command(self, _: click.Context, name: str) -> click.Command | None:
        """Return the command of this name, None where there is none."""
        if name in STAGES:
            return _stage(name, STAGES[name])
        if name in OPERATOR:
            module = importlib.import_module(f"services.postmaster.{OPERATOR[name]}")
            plain = name.replace("-", "_")
            attribute = f"{plain}_" if keyword.iskeyword(plain) else plain
            command: click.Command = getattr(module, attribute)
            if name == "account" and isinstance(command, click.Group):
                command.add_command(account_test)  # it needs what wires a fetcher
            return command
        return {"run": run, "check-config": check_config, "trial": trial}.get(name)


def program() -> click.Group:
    """Return the program: its options, and every command."""

    @click.group(NAME, cls=_Program, context_settings={"help_option_names": ["-h", "--help"]})
    @click.version_option(package_name=NAME)
    @pass_invocation
    def connector(_: Invocation) -> None:
        """Move mail from POP3 mailboxes to a mail server of your own, losing none."""

    return connector


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program and return its exit status.

    Args:
        arguments: the command line without the program's name; that of this process if None.
    """
    gc.set_threshold(LOADING)
    if arguments is None:  # the process is ours, and ends after this
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # passwords are in its memory
        atexit.register(gc.freeze)  # or else Python looks through all that was loaded, for 0.08 s
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    invocation = Invocation(os.environ)
    try:
        return _run(invocation, arguments)
    except Exception as error:  # noqa: BLE001  (the last resort: a line in place of a traceback)
        if invocation.debug:
            traceback.print_exception(error)
            return 1
        said = printable(f"{type(error).__name__}: {error}")
        return _complain(f"unexpected error: {said} (--debug shows where it came from)", 1)


def _run(invocation: Invocation, arguments: Sequence[str] | None) -> int:
    try:
        return program().main(arguments, NAME, standalone_mode=False, obj=invocation) or 0
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        return INTERRUPTED
    except (ConfigError, QueueFileDamaged, StateDamaged) as error:
        click.echo(str(error), err=True)
        return 2
    except tuple(kind for kind, _ in ADVICE) as error:
        advice = next(text for kind, text in ADVICE if isinstance(error, kind))
        said = printable(str(error))
        return _complain(f"{said.rstrip('.')}. {advice}" if advice else said, 1)


def _complain(line: str, status: int) -> int:
    click.echo(f"{NAME}: {line}", err=True)
    return status
