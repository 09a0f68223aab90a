"""Help as prose: paragraphs that a terminal of any width breaks by itself."""

__all__ = ["paragraphs"]


def paragraphs(text: str) -> str:
    """Return ``text`` with each paragraph on one line; typer would keep the breaks of the source beside its own."""
    return "\n\n".join(paragraph.replace("\n", " ") for paragraph in text.strip().split("\n\n"))
