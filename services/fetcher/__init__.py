"""The POP3 side: polls accounts that are due and puts their new messages into ``incoming``."""
