"""A deployment, tried on a Docker engine: what scripts/test-compose, -procedures and -upgrade run.

Trusts the engine, and nothing that the containers say of themselves. May import nothing but Python
and ``scripts.demonstration``, as it runs without the project's packages.
"""
