"""Documents on disk: read once, opened later without a prefill (cache-augmented generation, arXiv 2412.15605)."""
