"""Entry points: python -m launch.<name>; flags, one call, printing."""
