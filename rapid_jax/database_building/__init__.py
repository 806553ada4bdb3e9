"""Makes the databases that rapid_jax.databases reads: a model's own text counted, a corpus sorted."""
