"""The broker over RabbitMQ: publishes with confirms, consumes, settles, and survives every loss.

It trusts the broker's confirms and nothing else.
It alone imports pika; of the embedded broker and of the operator's side nothing.
"""
