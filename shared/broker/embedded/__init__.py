"""The embedded broker: the queues of one machine in one SQLite file, without a server.

It trusts nothing about a file that is there already, and no lease to be still its own.
It imports the broker protocol, ``shared.disk`` and ``shared.sqlite``; nothing of RabbitMQ.
"""
