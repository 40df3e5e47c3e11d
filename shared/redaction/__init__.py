"""What a server says, less passwords: one filter for each connection, one collection a process.

It trusts no server; its cost grows with the length of a text, whatever that is.
It imports the standard library, and itself.
"""
