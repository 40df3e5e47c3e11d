"""The operator's side: failed mail, quarantine, topology, configuration check."""
