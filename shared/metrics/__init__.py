"""What is measured: a closed set of names, and how Prometheus reads them.

One thread writes the numbers, and the monitor's only reads.
``registry`` needs the standard library alone; ``exposition`` alone knows prometheus_client.
"""
