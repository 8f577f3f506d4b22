"""The links of a server's listings of folders, below one address, within limits."""

from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from urllib.error import URLError
from urllib.parse import urldefrag, urljoin, urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from dripgate.errors import DataError
from dripgate.text import one_line

#: Bytes of one listing; a page of 100,000 links has about ten million.
LARGEST_PAGE = 64 << 20
#: Folders below the first one, and folders in all: a listing may link in circles, or for ever.
DEEPEST, MOST_FOLDERS = 32, 100_000
_LONGEST = 2048
_SECONDS = 60.0


def links(source: str, told: Callable[[str], object]) -> Iterator[str]:
    """Addresses of files below ``source``, folder by folder, in the order of the listings.

    What leads elsewhere is passed over. A folder further down that cannot be listed is told;
    raises DataError where the first one cannot.
    """
    top = source if source.endswith("/") else source + "/"
    waiting, seen = [(top, 0)], {top}
    while waiting:
        folder, depth = waiting.pop()
        try:
            found = _links(folder, top)
        except (OSError, ValueError) as error:
            cause = one_line(str(error))[:200]
            if folder == top:
                raise DataError(
                    f"{source}: cannot be listed ({cause}); give the address of a listing, or a "
                    "table with a column of addresses"
                ) from None
            told(f"{folder}: cannot be listed ({cause}); what is in it is not seen")
            continue
        folders = []
        for link in dict.fromkeys(found):
            if not link.endswith("/"):
                yield link
            elif link not in seen:
                if depth == DEEPEST or len(seen) >= MOST_FOLDERS:
                    told(f"{one_line(link)}: more folders than are followed; not seen")
                    continue
                seen.add(link)
                folders.append((link, depth + 1))
        waiting += reversed(folders)


def _links(folder: str, top: str) -> list[str]:
    """Absolute links of one page that lead below ``top``."""
    request = Request(folder, headers={"Accept": "text/html", "User-Agent": "dripgate"})  # noqa: S310
    with build_opener(_Within(top)).open(request, timeout=_SECONDS) as answer:
        page = answer.read(LARGEST_PAGE + 1)
    if len(page) > LARGEST_PAGE:
        raise ValueError(f"the listing has more than {LARGEST_PAGE:,} bytes")
    parser = _Anchors()
    parser.feed(page.decode("utf-8", "replace"))
    found = (urldefrag(urljoin(folder, link)).url for link in parser.found if len(link) <= _LONGEST)
    # Links with a query sort the listing another way; the shorter ones lead up.
    return [one for one in found if one.startswith(top) and one != top and not urlsplit(one).query]


class _Anchors(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "a":
            self.found += [value.strip() for name, value in attrs if name == "href" and value]


class _Within(HTTPRedirectHandler):
    """Follows no redirection away from the place that was asked for: it could lead inside."""

    def __init__(self, top: str) -> None:
        self._top = urlsplit(top)[:2]

    def redirect_request(self, req, fp, code, msg, headers, newurl):  # type: ignore[no-untyped-def]
        """None for what leads to another host or scheme."""
        if urlsplit(newurl)[:2] != self._top:
            raise URLError(f"redirected to {one_line(newurl)[:100]}, another server")
        return super().redirect_request(req, fp, code, msg, headers, newurl)
