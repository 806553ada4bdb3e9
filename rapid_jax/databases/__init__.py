"""Static n-gram databases that drafts are looked up in: of a model's own text (Dm) and of a corpus (Ds)."""
