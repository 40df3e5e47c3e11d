"""The operator's commands: mail folders, accounts, queues, spool, state database, backup.

They trust nothing that lies in a queue, and nobody's answer but the broker's and the database's.
They import ``shared`` alone: what tries the stages' own code is ``services.check``, beside them.
"""
