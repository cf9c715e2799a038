"""Man pages and completion."""
