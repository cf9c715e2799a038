"""The error base of everything that hostkit raises."""


class HostkitError(Exception):
    """Base of all errors of this package; the message is fit for an operator."""


def cut(text: str, limit: int = 800) -> str:
    """Shorten *text* to *limit* characters for a log line, keeping its beginning and its end."""
    text = text.strip()
    if len(text) <= limit:
        return text
    half = (limit - 5) // 2
    return f"{text[:half]} ... {text[-half:]}"
