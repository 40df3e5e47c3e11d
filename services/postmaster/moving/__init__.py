"""Moving in from another program, and out again: its configuration, and which messages it has.

``bring_in`` and ``take_out`` are the commands. Each program has a reader of its files
(``fetchmail``, ``getmail``, ``mpop``) that makes accounts of them (``found``), by tables of its
options (``options``); ``records`` reads and writes what the programs remember of each maildrop.
"""
