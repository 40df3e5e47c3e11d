"""Plays every dialogue below this folder: whole, byte by byte, and all that is due in one write."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.dialogues.play import Play
from tests.dialogues.script import files, read
from tests.dialogues.server import Writing

HERE = Path(__file__).parent


def plays() -> Iterator[object]:
    """Yield every dialogue in every manner of writing; and whole, without a capability, if any."""
    for path in files(HERE):
        name = path.relative_to(HERE).with_suffix("")
        for writing in Writing:
            yield pytest.param(path, writing, "", id=f"{name}-{writing.value.replace(' ', '-')}")
        for capability in read(path).without:
            yield pytest.param(path, Writing.WHOLE, capability, id=f"{name}-no-{capability}")


@pytest.mark.parametrize(("path", "writing", "without"), [*plays()])
def test_dialogue(path: Path, writing: Writing, without: str, tmp_path: Path) -> None:
    Play(read(path), tmp_path, writing, without).go()
