"""A private LMTP server of Perl's Net::Server::Mail, which offers PIPELINING and means less.

What comes along with the end of a message is text of that message to it.
"""

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.servers.process import accepts, free_port, running

_PROGRAM = r"""
use IO::Socket::INET; use Net::Server::Mail::LMTP;
my ($port, $folder) = @ARGV;
my $listening = IO::Socket::INET->new(Listen => 5, LocalAddr => '127.0.0.1', LocalPort => $port)
    or die "no port: $!";
$SIG{CHLD} = 'IGNORE';
my $number = 0;
while (my $client = $listening->accept) {
    my $connection = $number++;
    next if fork;
    my $count = 0;
    my $session = Net::Server::Mail::LMTP->new(socket => $client);
    $session->set_callback(RCPT => sub { return 1 });
    $session->set_callback(DATA => sub {
        open(my $file, '>:raw', "$folder/$connection-" . $count++) or die;
        print $file ${$_[1]};
        close $file;
        return (1, 250, 'taken');
    });
    $session->process;
    exit;
}
"""


@dataclass(frozen=True)
class NetServerMail:
    """A running instance."""

    port: int
    folder: Path

    @property
    def messages(self) -> list[bytes]:
        """What was taken for a message, in order."""
        return sorted(path.read_bytes() for path in self.folder.iterdir())


@contextlib.contextmanager
def net_server_mail(folder: Path) -> Iterator[NetServerMail]:
    """Run an instance until the block ends; skip the test where it is not installed."""
    _require()
    mail = folder / "mail"
    mail.mkdir()
    port = free_port()
    command = ["perl", "-e", _PROGRAM, str(port), str(mail)]
    with running(command, folder / "log", lambda: accepts(port)):
        yield NetServerMail(port, mail)


def _require() -> None:
    perl = shutil.which("perl")
    if perl is not None:
        asked = [perl, "-MNet::Server::Mail::LMTP", "-e", "1"]
        if subprocess.run(asked, capture_output=True, check=False).returncode == 0:
            return
    reason = "not installed here: Perl's Net::Server::Mail (scripts/test installs what it can)"
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)
