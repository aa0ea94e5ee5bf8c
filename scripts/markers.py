"""Fill the marked places of a page of the documentation."""

from __future__ import annotations


def fill(page: str, name: str, text: str) -> str:
    """
    Return a page with a text between the markers of a place.

    :param page: The page.
    :param name: The place: between the comments ``name`` and ``end of name``.
    :param text: The text.
    """
    begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
    before, _, rest = page.partition(begin)
    _, found, after = rest.partition(end)
    if not found:
        raise ValueError(f"the page has no place for {name!r}")
    return f"{before}{begin}\n\n{text}\n\n{end}{after}"
