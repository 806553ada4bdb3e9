"""Documents as people have them: text in any encoding, Markdown, HTML, PDF, DOCX, EPUB; files, several, or folders."""
