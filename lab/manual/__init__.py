"""Man pages and shell completion, made from the parsers and tables that the commands run by."""
