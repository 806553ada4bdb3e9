"""Speed alone: methods, and other engines beside them, over context lengths, batch sizes and draft lengths."""
