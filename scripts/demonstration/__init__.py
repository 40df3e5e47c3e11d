"""The main job shown with nothing installed: what scripts/demo runs.

Trials and measurements fetch from its POP3 server, too. Runs the product as a program; may import
``shared.log`` alone, for what is printed.
"""
