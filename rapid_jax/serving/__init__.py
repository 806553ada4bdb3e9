"""The server: one engine behind the HTTP interface of OpenAI, with documents that are read once (docs/serving.md)."""
