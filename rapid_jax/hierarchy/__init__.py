"""Hierarchy drafting (HD, arXiv 2502.05609): drafts looked up in n-gram databases ordered by temporal locality."""
