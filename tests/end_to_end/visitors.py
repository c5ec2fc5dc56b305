"""People at browsers: what keeps somebody from using a page is noticed, and what is on it becomes a picture of the documentation."""

from __future__ import annotations

import io
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from PIL import Image
from playwright.sync_api import Browser, Download, Page, ViewportSize, expect
from tests.browser import barriers

PASSWORD = "correct horse battery"
SECONDS = 60
_EVERYTHING = "['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa', 'best-practice']"
# What is not colour is the same in the dark.
_COLOURS = "{type: 'rule', values: ['color-contrast']}"
_SIZE: ViewportSize = {"width": 1240, "height": 800}
_TELEPHONE: ViewportSize = {"width": 360, "height": 780}
_MOST_PIXELS_HIGH = 1500
_COLOURS_KEPT = 96


@dataclass
class Camera:
    """Takes pictures into a folder, where one is named; it always knows which there would be."""

    folder: Path | None
    taken: list[str] = field(default_factory=list)

    def take(self, page: Page, name: str) -> None:
        self.taken.append(f"{name}.png")
        if self.folder is None:
            return
        self.folder.mkdir(exist_ok=True)
        tall = min(int(page.evaluate("document.documentElement.scrollHeight")), _MOST_PIXELS_HIGH)
        page.mouse.move(0, 0)
        shot = page.screenshot(full_page=True, clip={"x": 0, "y": 0, "width": _SIZE["width"], "height": tall}, animations="disabled")
        image = Image.open(io.BytesIO(shot)).convert("RGB").quantize(_COLOURS_KEPT, dither=Image.Dither.NONE)
        image.save(self.folder / f"{name}.png", optimize=True)


class Visitor:
    """One person in a browser of their own, at a coordinator's pages or at a console."""

    def __init__(self, browser: Browser, camera: Camera, base: str) -> None:
        self.context = browser.new_context(
            ignore_https_errors=True, base_url=base, accept_downloads=True, viewport=_SIZE, color_scheme="light", locale="en-GB"
        )
        self.page: Page = self.context.new_page()
        self.page.set_default_timeout(SECONDS * 1000)
        self.camera = camera
        self.faults: list[str] = []
        self.looked_at: set[str] = set()
        self.page.on("pageerror", lambda error: self.faults.append(f"a script failed: {error}"))
        self.page.on("console", lambda said: self.faults.append(f"{self.page.url}: {said.text}") if said.type == "error" else None)

    def look(self, path: str = "", picture: str = "") -> None:
        """Goes there, or stays; nothing on it keeps anybody out, light or dark."""
        if path:
            answer = self.page.goto(path, wait_until="domcontentloaded")
            assert answer is not None and answer.ok, path
        self.looked_at.add(urlsplit(self.page.url).path)
        if picture:
            self.camera.take(self.page, picture)
        found = barriers(self.page, _EVERYTHING)
        self.page.emulate_media(color_scheme="dark")
        found += barriers(self.page, _COLOURS)
        self.page.emulate_media(color_scheme="light")
        self.faults += [f"{self.page.url}: {one}" for one in found]

    def fits_a_telephone(self) -> bool:
        """Whether nothing of the page stands out sideways there."""
        self.page.set_viewport_size(_TELEPHONE)
        wide = int(self.page.evaluate("document.documentElement.scrollWidth"))
        self.page.set_viewport_size(_SIZE)
        return wide <= _TELEPHONE["width"]

    def fill(self, **fields: str) -> None:
        """By label, '_' for a space."""
        for label, value in fields.items():
            self.page.get_by_label(label.replace("_", " "), exact=True).first.fill(value)

    def press(self, name: str) -> None:
        self.page.get_by_role("button", name=name, exact=True).first.click()

    def sees(self, text: str) -> None:
        expect(self.page.get_by_text(text).first).to_be_visible(timeout=SECONDS * 1000)

    def waits_for(self, text: str, path: str = "") -> None:
        """Asks for the page anew until it has this text."""
        if path:
            self.page.goto(path)
        until(lambda: self.page.get_by_text(text).count() or (self.page.reload() and None), f"{text!r} at {self.page.url}")

    def take_home(self, name: str, to: Path) -> Path:
        with self.page.expect_download() as waiting:
            self.page.get_by_role("link", name=name).first.click()
        download: Download = waiting.value
        download.save_as(to)
        return to


def at_coordinator(browser: Browser, camera: Camera, base: str, user: str, password: str) -> Visitor:
    visitor = Visitor(browser, camera, base)
    visitor.look("/login")
    visitor.fill(Name=user, Password=password)
    visitor.press("Log in")
    expect(visitor.page.get_by_role("navigation", name="Pages")).to_be_visible()
    return visitor


def at_console(browser: Browser, camera: Camera, link: str, name: str, login: str) -> Visitor:
    """An account's first log-in, by the link that the console has printed or shown; ``name`` where the link does not know it."""
    base = link.partition("/welcome/")[0]
    visitor = Visitor(browser, camera, base)
    visitor.look(link)
    if name:
        visitor.fill(Your_full_name=name, Login=login)
    visitor.fill(Password=PASSWORD, The_same_once_more=PASSWORD)
    visitor.press("Set the password")
    visitor.look()
    visitor.fill(Login=login, Password=PASSWORD)
    visitor.press("Log in")
    expect(visitor.page.get_by_role("heading", level=1)).to_have_text("Requests")
    return visitor


def begin(ada: Visitor, name: str, text: str) -> None:
    ada.page.goto("/drafts")
    ada.page.locator("#name").fill(name)
    ada.press("Begin")
    save(ada, text)


def save(ada: Visitor, text: str) -> None:
    """The draft that is open; when the page with its faults is there."""
    revision = ada.page.locator("input[name=revision]").first
    before = int(revision.input_value())
    ada.page.locator("#text").fill(text)
    ada.press("Save and check")
    expect(revision).to_have_value(str(before + 1))


def submit(ada: Visitor) -> str:
    ada.press("Submit the study")
    ada.page.wait_for_url(re.compile("/studies/[0-9a-f]{64}"))
    return digest_of(ada.page)


def open_request(visitor: Visitor, digest: str) -> None:
    """Once the study has arrived there."""
    visitor.page.goto("/")
    link = visitor.page.locator(f'a[href="/requests/{digest}"]')
    until(lambda: link.count() or (visitor.page.reload() and None), f"a request at {visitor.page.url}")
    link.click()
    expect(visitor.page.get_by_role("heading", name="Decision", exact=True)).to_be_visible()


def decide(visitor: Visitor, digest: str, word: str, reason: str = "") -> None:
    open_request(visitor, digest)
    if reason:
        visitor.page.locator("#refusal").fill(reason)
    visitor.press(word)
    visitor.page.wait_for_url("**/*done=*")


def digest_of(page: Page) -> str:
    found = re.search(r"/studies/([0-9a-f]{64})", page.url)
    assert found is not None, page.url
    return found[1]


def until(look: Callable[[], Any], what: str) -> Any:
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        if found := look():
            return found
        time.sleep(0.3)
    raise AssertionError(f"it did not come: {what}")
