"""The page and its requests, over HTTP on loopback."""

import secrets
import socket as sockets
from collections.abc import Awaitable, Callable
from contextlib import suppress
from importlib.resources import files
from typing import Any, NamedTuple

import msgspec
import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from dripgate.errors import StoreError, UnreadableError, UserError
from dripgate.report.colours import DARK, LIGHT
from dripgate.review.desk import Desk
from dripgate.review.guard import Guard
from dripgate.review.pictures import LARGE, SMALL
from dripgate.store import BROKEN, ORDERS, Look

_MOST_ROWS, _MOST_IDS = 1000, 10_000
_CONTENT = "default-src 'none'; img-src 'self' data:; media-src 'self'; connect-src 'self'"
_ALWAYS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Frame-Options": "DENY",
    "Cache-Control": "no-store",
}
#: A sample's id is the hash of its bytes, so what is made of them never changes.
_FOREVER = {"Cache-Control": "private, max-age=604800, immutable"}


class Address(NamedTuple):
    """Where the page is. ``token`` is new at every start."""

    host: str
    port: int
    token: str

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}/?token={self.token}"


class _Request(msgspec.Struct, forbid_unknown_fields=True):
    """What the page sends to label: a label, None to remove it, or the prediction of each."""

    ids: list[str]
    who: str
    label: str | None = None
    accept: bool = False


class _Undo(msgspec.Struct, forbid_unknown_fields=True):
    who: str
    change: int | None = None


def serve(
    desk: Desk,
    *,
    host: str = "127.0.0.1",
    port: int = 8765,
    ready: Callable[[Address], None] = lambda _: None,
) -> None:
    """Answer until Ctrl-C or SIGTERM. ready: is told the address when it can be opened.

    port: 0 is any that is free. Raises UserError where the address cannot be had.
    """
    token = secrets.token_urlsafe(24)
    config = uvicorn.Config(
        application(desk, token), host=host, port=port, log_level="warning", access_log=False,
        server_header=False, ws="none", timeout_graceful_shutdown=2,
    )  # fmt: skip
    try:
        socket = _bound(host, port)
    except OSError as error:
        raise UserError(
            f"port {port} of {host} cannot be had ({error.strerror or error}); give another with "
            "--port or --listen"
        ) from None
    address = Address(host, socket.getsockname()[1], token)
    server = _Server(config)
    server.ready = lambda: ready(address)
    try:
        server.run(sockets=[socket])
    finally:
        socket.close()
        desk.close()


class _Server(uvicorn.Server):
    """Tells when it answers."""

    ready: Callable[[], None]

    async def startup(self, sockets: Any = None) -> None:
        await super().startup(sockets)
        if self.started:
            self.ready()


def _bound(host: str, port: int) -> sockets.socket:
    # The protocol is named: asyncio sets TCP_NODELAY on no other, and each answer takes 40 ms more.
    family = sockets.AF_INET6 if ":" in host else sockets.AF_INET
    found = sockets.socket(family, sockets.SOCK_STREAM, sockets.IPPROTO_TCP)
    found.setsockopt(sockets.SOL_SOCKET, sockets.SO_REUSEADDR, 1)
    try:
        found.bind((host, port))
    except OSError:
        found.close()
        raise
    return found


def application(desk: Desk, token: str) -> Starlette:
    """The ASGI application, for a server of one's own."""
    routes = [
        Route("/", _handled(_page)),
        Route("/api/state", _handled(_state)),
        Route("/api/view", _handled(_view), methods=["POST"]),
        Route("/api/rows", _handled(_rows)),
        Route("/api/news", _handled(_news)),
        Route("/api/progress", _handled(_progress)),
        Route("/api/history", _handled(_history)),
        Route("/api/sample/{id}", _handled(_sample)),
        Route("/api/label", _handled(_label), methods=["POST"]),
        Route("/api/undo", _handled(_undo), methods=["POST"]),
        Route("/small/{id}.png", _handled(_small)),
        Route("/large/{id}.png", _handled(_large)),
        Route("/heat/{id}.png", _handled(_heat)),
        Route("/sound/{id}.wav", _handled(_sound)),
    ]
    app = Starlette(routes=routes, middleware=[Middleware(Guard, token=token)])
    app.state.desk = desk
    return app


Handler = Callable[[Request, Desk], Awaitable[Response]]


def _handled(handler: Handler) -> Callable[[Request], Awaitable[Response]]:
    """Errors as one line of text that the page shows."""

    async def handle(request: Request) -> Response:
        try:
            response = await handler(request, request.app.state.desk)
        except StoreError as error:
            response = _json({"error": str(error)}, 409)
        except UnreadableError as error:
            response = _json({"error": str(error)}, 422)
        except (msgspec.DecodeError, ValueError) as error:
            response = _json({"error": f"the request cannot be read ({error})"}, 400)
        for name, value in _ALWAYS.items():
            response.headers.setdefault(name, value)
        return response

    return handle


def _json(value: Any, status: int = 200) -> Response:
    return Response(msgspec.json.encode(value), status, media_type="application/json")


async def _page(request: Request, desk: Desk) -> Response:
    """The page: one file, whose script and style run by a number that is used once."""
    nonce = secrets.token_urlsafe(16)
    text = files("dripgate.review").joinpath("page.html").read_text(encoding="utf-8")
    for name, colours in (("light", LIGHT), ("dark", DARK)):
        values = "".join(f"--{key.replace('_', '-')}:{value};" for key, value in colours.items())
        text = text.replace(f"/*{name}*/", values)
    response = Response(text.replace("{{nonce}}", nonce), media_type="text/html")
    response.headers["Content-Security-Policy"] = (
        f"{_CONTENT}; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; base-uri 'none'; "
        "form-action 'none'; frame-ancestors 'none'"
    )
    return response


async def _state(request: Request, desk: Desk) -> Response:
    info = desk.info
    return _json(
        {
            "store": desk.path.name,
            "classes": info.classes if info else (),
            "orders": ORDERS,
            "broken": BROKEN,
            "heat": desk.has_gate,
            "warning": desk.warning,
            "tally": await desk.tally(),
            "version": await desk.version(),
        }
    )


async def _view(request: Request, desk: Desk) -> Response:
    version = await desk.version()
    view = await desk.view(msgspec.json.decode(await request.body(), type=Look))
    return _json({"view": view.number, "count": len(view.keys), "version": version})


async def _rows(request: Request, desk: Desk) -> Response:
    asked = request.query_params
    start = max(int(asked["from"]), 0)
    rows = await desk.rows(int(asked["view"]), start, min(int(asked["to"]), start + _MOST_ROWS))
    return _json({"gone": True}, 410) if rows is None else _json({"rows": rows})


async def _news(request: Request, desk: Desk) -> Response:
    """What changed elsewhere: labels by others, samples that came or went."""
    since = int(request.query_params["since"])
    version = await desk.version()
    changed = await desk.changed(since) if version[2] > since else {}
    return _json({"version": version, "labels": changed, "tally": await desk.tally()})


async def _progress(request: Request, desk: Desk) -> Response:
    return _json(await desk.progress())


async def _history(request: Request, desk: Desk) -> Response:
    return _json(await desk.history())


async def _sample(request: Request, desk: Desk) -> Response:
    detail = await desk.detail(request.path_params["id"])
    return _gone() if detail is None else _json(detail)


async def _label(request: Request, desk: Desk) -> Response:
    asked = msgspec.json.decode(await request.body(), type=_Request)
    if not 0 < len(asked.ids) <= _MOST_IDS:
        raise ValueError(f"{len(asked.ids):,} samples, expected 1 to {_MOST_IDS:,}")
    label = asked.label.strip() if asked.label is not None else None
    if label == "":
        raise ValueError("an empty label; to remove one, send null")
    if asked.accept:
        done = await desk.accept(asked.ids, asked.who)
    else:
        done = await desk.label(asked.ids, label, asked.who)
    return _json(done._asdict())


async def _undo(request: Request, desk: Desk) -> Response:
    asked = msgspec.json.decode(await request.body(), type=_Undo)
    done = await desk.undo(None if asked.change else asked.who, asked.change)
    return _json({"nothing": True} if done is None else done._asdict())


async def _small(request: Request, desk: Desk) -> Response:
    return _file(await desk.picture(request.path_params["id"], SMALL), "image/png")


async def _large(request: Request, desk: Desk) -> Response:
    return _file(await desk.picture(request.path_params["id"], LARGE), "image/png")


async def _heat(request: Request, desk: Desk) -> Response:
    return _file(await desk.heat(request.path_params["id"]), "image/png")


async def _sound(request: Request, desk: Desk) -> Response:
    found = await desk.sound(request.path_params["id"])
    return _file(found, "audio/wav", request.headers.get("range"))


def _gone() -> Response:
    return _json({"error": "the sample is not in the store any more"}, 404)


def _file(data: bytes | None, kind: str, asked: str | None = None) -> Response:
    """A file; a part of it where a player asks for one, or it could not be wound back."""
    if data is None:
        return _gone()
    headers = dict(_FOREVER) | {"Accept-Ranges": "bytes"}
    if asked and asked.startswith("bytes="):
        with suppress(ValueError):
            first, _, last = asked.removeprefix("bytes=").partition("-")
            start, stop = int(first), min(int(last or len(data)), len(data) - 1)
            headers["Content-Range"] = f"bytes {start}-{stop}/{len(data)}"
            return Response(data[start : stop + 1], 206, headers, kind)
    return Response(data, 200, headers, kind)
