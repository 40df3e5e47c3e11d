"""What couriers to mail servers have in common: the line of what waits, connections, pace.

of a protocol it knows what ``protocol`` says; ``smtp`` and ``imap`` have one each.
"""
