"""The parser as a process: ``python -m services.parser``. Begins, and nothing else."""

import sys

if __name__ == "__main__":  # before anything is loaded
    from pop3_connector import main

    sys.exit(main("parser"))
