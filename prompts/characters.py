"""Characters that no file can hold, which JSON may bring: half of a surrogate pair."""


def writable(text: str) -> str:
    """The text with each half of a surrogate pair as U+FFFD."""
    return text if text.isascii() else text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
