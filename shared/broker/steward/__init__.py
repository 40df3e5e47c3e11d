"""The operator's side of RabbitMQ, over kombu: declare, look, move, drop, migrate. Blocking.

It trusts the broker's confirms and nothing else.
It alone, with ``shared.broker.topology``, imports kombu and amqp.
"""
