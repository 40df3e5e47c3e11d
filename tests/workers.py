"""How tests are shared out where several workers run them (``-n``, by pytest-xdist).

A test goes to whoever is idle. Only the tests of a module that shares something among them, which
says ``scope="module"`` then, go to one worker together, or it would be made once for each worker.
Nothing here keeps tests apart: each has ports, names and folders of its own, as ``tests.servers``
gives them, and may run beside any other.
"""

import functools
from pathlib import Path

from xdist.scheduler import LoadScopeScheduling


class Sharing(LoadScopeScheduling):  # type: ignore[misc]  # xdist has no types
    """Gives out what belongs together, in the order in which it stands."""

    def _split_scope(self, nodeid: str) -> str:
        return together(self.config.rootpath, nodeid)


def together(root: Path, test: str) -> str:
    """Return the name of what is given to one worker: a test by itself, or with its module.

    Args:
        root: the folder that the ids of tests start from.
        test: its id, ``tests/x.py::test_y``.
    """
    module = test.partition("::")[0]
    return module if _shares(root / module) else test


@functools.cache
def _shares(module: Path) -> bool:
    return 'scope="module"' in module.read_text()
