"""A process in which suspects are tried: how it is started, and what it does."""
