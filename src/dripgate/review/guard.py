"""Who may ask: this machine's own page, with the token of this start.

A page from elsewhere in the same browser must neither read nor label: it does not know the token,
its requests name another origin, and a name that was pointed at this machine (DNS rebinding) is not
a Host that is answered.
"""

import hmac
import ipaddress
import socket

from starlette.datastructures import Headers, QueryParams
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

#: Largest body of a request: ids of 10,000 samples.
LARGEST_BODY = 1_000_000


class Guard:
    """ASGI middleware: Host, origin, token and size are checked before anything is looked at."""

    def __init__(self, app: ASGIApp, token: str) -> None:
        self._app, self._token = app, token
        self._names = {"localhost", socket.gethostname().lower()}
        self._names |= {f"{name}.local" for name in self._names}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or refuse it with 403, 413 or 421."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        refused = self._refused(headers, QueryParams(scope["query_string"]))
        if refused:
            status, text = refused
            await PlainTextResponse(f"{text}\n", status)(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _refused(self, headers: Headers, query: QueryParams) -> tuple[int, str] | None:
        host = headers.get("host", "")
        if not self._knows(host):
            return 421, f"dripgate review does not answer to the host {host[:80]!r}"
        origin = headers.get("origin")
        site = headers.get("sec-fetch-site", "none")
        if (origin and origin != f"http://{host}") or site not in ("same-origin", "none"):
            return 403, "refused: the request comes from another site"
        given = headers.get("x-token") or query.get("token", "")
        if not hmac.compare_digest(given.encode(), self._token.encode()):
            return 403, "refused: wrong token; open the address that 'dripgate review' printed"
        if not headers.get("content-length", "0").isdigit() or (
            int(headers.get("content-length", "0")) > LARGEST_BODY or "transfer-encoding" in headers
        ):
            return 413, f"refused: more than {LARGEST_BODY:,} bytes, or of unknown length"
        return None

    def _knows(self, host: str) -> bool:
        """An address in digits cannot be pointed elsewhere; names are those of this machine."""
        name = host.rpartition(":")[0] if ":" in host and not host.endswith("]") else host
        try:
            ipaddress.ip_address(name.strip("[]"))
        except ValueError:
            return name.lower() in self._names
        return True
