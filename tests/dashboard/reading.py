"""A browser without scripts: what it is sent, it reads."""

from __future__ import annotations

import html
import re
from dataclasses import dataclass, field
from http.cookies import SimpleCookie
from urllib.parse import urlencode

import urllib3
from serving import PASSWORD, Client, Server


@dataclass
class Reader:
    """Keeps cookies, follows nothing, runs nothing."""

    server: Server
    cookies: dict[str, str] = field(default_factory=dict)

    def call(self, method: str, path: str, form: dict[str, str] | None = None, **headers: str) -> urllib3.BaseHTTPResponse:
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        if self.cookies:
            given["Cookie"] = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        body = None
        if form is not None:
            body = urlencode(form).encode()
            given["Content-Type"] = "application/x-www-form-urlencoded"
        response = Client(self.server).pool.urlopen(method, path, body=body, headers=given, redirect=False)
        for text in response.headers.getlist("set-cookie"):
            for name, morsel in SimpleCookie(text).items():
                self.cookies[name] = morsel.value
        return response

    def text(self, path: str, status: int = 200) -> str:
        response = self.call("GET", path)
        assert response.status == status, response.data[:2000]
        return response.data.decode()

    def token(self, path: str = "/") -> str:
        """Of the forms on a page."""
        return html.unescape(re.findall(r'name="csrf" value="([^"]*)"', self.text(path))[0])

    def send(self, path: str, **fields: str) -> urllib3.BaseHTTPResponse:
        return self.call("POST", path, {"csrf": self.token(), **fields})

    def log_in(self, user: str, password: str = PASSWORD, back: str = "/") -> urllib3.BaseHTTPResponse:
        return self.call("POST", "/login", {"user": user, "password": password, "back": back})


@dataclass
class Person:
    api: Client
    reader: Reader
