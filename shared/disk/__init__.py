"""Files on disks of this machine: made durable, private or replaced whole; room; what errors mean.

It trusts the file system to keep what fsync has confirmed, and ``statvfs`` for the rest.
It imports the standard library, ``shared.log.printable``, and itself.
"""
