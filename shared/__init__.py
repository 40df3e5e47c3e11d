"""What the stages share: messages, outcomes, brokers, state, spool, settings, logs."""
