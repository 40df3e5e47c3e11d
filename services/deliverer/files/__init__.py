"""The couriers that write files: Maildirs, and folders that a mail server picks up from.

They trust the file system to keep what fsync has confirmed, and no part of an address.
They import the core of ``shared``, its disks and group commit; of the deliverer the courier
interface, addresses and line ends.
"""
