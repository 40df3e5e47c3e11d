"""All of the program as a process: ``python -m services``. Begins, and nothing else."""

import sys

if __name__ == "__main__":  # before anything is loaded
    from pop3_connector import main

    sys.exit(main())
