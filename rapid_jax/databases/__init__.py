"""N-gram databases that decoding only reads: a model's own n-grams, and suffix arrays over a corpus."""
