"""Hours of fetchers in seconds: all of their code but threads, sockets and the passing of time."""
