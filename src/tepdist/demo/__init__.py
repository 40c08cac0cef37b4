"""The demo: a small GPT trained over 8 virtual CPU devices, through a server."""
