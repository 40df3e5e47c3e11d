"""Access tokens of OAuth 2.0: had from an authorization server, kept encrypted, renewed in time.

``client`` says as what we are registered there, ``token_server`` asks it, ``token_answer`` reads
what it says. ``renewal`` is the story: one process renews, the others read. ``sealing`` encrypts
what is stored. ``code_flow``, ``loopback`` and ``device_flow`` are for a person who authorizes us.

It trusts an authorization server to be who its certificate says, and nothing that it answers.
``token_server`` alone imports Authlib and httpx2, and takes its time to load: import it only where
there is an account, or a destination, with an oauth table.
"""
