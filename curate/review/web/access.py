"""Lets only those browsers into the pages of the review that opened a link of `likeness review`.

The link that `likeness review` prints contains a token, and each token opens the pages one time. The browser then gets
a cookie with a secret. All later requests need the cookie. A page of another site cannot use the cookie, because the
cookie is SameSite=Strict, and because the Host and the Origin of every request are checked.
"""

from __future__ import annotations

import hmac
import ipaddress
import secrets
from collections.abc import Callable
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qs, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

TOKEN = "token"  # the name of the parameter in the link
_LOOPBACK = ("127.0.0.1", "localhost", "::1")
# The pages contain no inline script and no inline style, and load nothing from other sites.
_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "form-action 'self'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
    )
)
_HEADERS = {
    "content-security-policy": _POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
    "cache-control": "no-store",  # the browser must not keep pictures of faces in its cache
}
_NO_COOKIE = "Open the link that `likeness review` printed in its terminal. Each link opens the pages one time."
_SAFE = ("GET", "HEAD")


class Access:
    """An ASGI middleware that passes only requests from browsers that opened a link."""

    def __init__(self, app: ASGIApp, host: str, port: int, announce: Callable[[str], None] = lambda link: None) -> None:
        """`host` is the address that the server listens on. `announce` is called with each new link."""
        self._app = app
        self._host, self._port = host, port
        # A browser sends a cookie to all ports of a host, so the name of the cookie contains the port.
        self._cookie_name = f"likeness_review_{port}"
        self._secret = secrets.token_urlsafe(32)
        self._token = secrets.token_urlsafe(32)
        self._announce = announce

    @property
    def link(self) -> str:
        """The link that opens the pages one time. After its use, the link has a new token."""
        host = "127.0.0.1" if _is_unspecified(self._host) else self._host
        return f"http://{f'[{host}]' if ':' in host else host}:{self._port}/?{TOKEN}={self._token}"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":  # the pages use no websocket
            await send({"type": "websocket.close", "code": 1008})
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers[name] = value
            await send(message)

        answer = self._refuse(scope) or self._let_in(scope)
        await (answer or self._app)(scope, receive, send_with_headers)

    def _refuse(self, scope: Scope) -> Response | None:
        """Returns a refusal if the Host or the Origin of the request is not the address of this server."""
        headers = Headers(scope=scope)
        if len(headers.getlist("host")) != 1 or not self._is_own_host(headers["host"]):
            return PlainTextResponse("The Host of the request is not the address of this review.", 421)
        origin = headers.get("origin")
        if origin is None and scope["method"] not in _SAFE:
            return PlainTextResponse("A request that changes something must name its Origin.", 403)
        if origin is not None and origin != f"http://{headers['host']}":
            return PlainTextResponse("The request comes from a page of another site.", 403)
        site = headers.get("sec-fetch-site", "same-origin")
        if site not in ("same-origin", "none") and scope["path"] != "/":
            return PlainTextResponse("The request comes from a page of another site.", 403)
        return None

    def _let_in(self, scope: Scope) -> Response | None:
        """Returns None if the request has the cookie.

        For a valid token, returns a redirection that sets the cookie. Refuses all other requests.
        """
        headers = Headers(scope=scope)
        try:
            cookies = SimpleCookie(headers.get("cookie", ""))
        except CookieError:
            cookies = SimpleCookie()
        cookie = cookies.get(self._cookie_name)
        has_cookie = cookie is not None and _are_equal(cookie.value, self._secret)
        query = scope.get("query_string", b"").decode("latin-1")
        tokens = parse_qs(query).get(TOKEN, []) if scope["path"] == "/" and scope["method"] == "GET" else []
        if has_cookie:
            # The redirection removes the token from the address bar.
            return RedirectResponse("/", 303) if tokens else None
        if len(tokens) != 1 or not _are_equal(tokens[0], self._token):
            return PlainTextResponse(_NO_COOKIE, 403)
        self._token = secrets.token_urlsafe(32)
        self._announce(self.link)
        answer = RedirectResponse("/", 303)
        answer.set_cookie(self._cookie_name, self._secret, httponly=True, samesite="strict", path="/")
        return answer

    def _is_own_host(self, host: str) -> bool:
        """Returns whether the value of a Host header is an address of this server.

        A server that listens on all addresses accepts every numeric address. A numeric address is safe, because an
        attack by DNS rebinding needs a name.
        """
        try:
            parts = urlsplit(f"//{host}")
            name, port = parts.hostname or "", parts.port or 80
        except ValueError:
            return False
        if port != self._port or parts.username is not None or parts.path:
            return False
        if _is_unspecified(self._host):
            return name == "localhost" or _is_address(name)
        return name == self._host.lower() or (self._host in _LOOPBACK and name in _LOOPBACK)


def is_loopback(host: str) -> bool:
    """Returns whether only this machine can reach a server that listens on `host`."""
    return host in _LOOPBACK or (_is_address(host) and ipaddress.ip_address(host).is_loopback)


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _is_unspecified(host: str) -> bool:
    return _is_address(host) and ipaddress.ip_address(host).is_unspecified


def _are_equal(word: str, secret: str) -> bool:
    return hmac.compare_digest(word.encode("utf-8", "surrogatepass"), secret.encode())
