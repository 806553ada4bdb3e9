"""Drafts copied from what was read and said: the longest match of the text's end, as long as copies pay."""
