# SPDX-License-Identifier: Apache-2.0
"""A real Chromium, driven over its debugging pipe: what a person does with mouse and keyboard, and what they see."""

from __future__ import annotations

import base64
import contextlib
import fcntl
import json
import os
import select
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--disable-extensions", "--mute-audio"),
    *("--hide-scrollbars", "--force-color-profile=srgb", "--remote-debugging-pipe"),
)
KEYS = {"Tab": 9, "Enter": 13, "Escape": 27, "Backspace": 8, "ArrowUp": 38, "ArrowDown": 40, "ArrowLeft": 37, "End": 35}
PATIENCE = 30.0


def find_browser() -> str | None:
    """The browser that ``EDGE_TEST_BROWSER`` names, or one on the path."""
    named = os.environ.get("EDGE_TEST_BROWSER")
    return named or next((path for name in NAMES if (path := shutil.which(name))), None)


class Browser:
    """A browser process and one page in it.

    Parameters
    ----------
    folder : Path
        For its profile and its downloads.
    flags : str
        Further ones.
    """

    def __init__(self, folder: Path, size: tuple[int, int] = (1280, 800), *flags: str) -> None:
        path = find_browser()
        assert path is not None
        self.downloads = folder / "downloads"
        self.downloads.mkdir(parents=True)
        theirs_in, self._out = _pipe()
        self._in, theirs_out = _pipe()
        null = os.open(os.devnull, os.O_RDWR)
        actions = [(os.POSIX_SPAWN_DUP2, fd, at) for fd, at in ((null, 1), (null, 2), (theirs_in, 3), (theirs_out, 4))]
        arguments = [
            path,
            *FLAGS,
            *flags,
            f"--user-data-dir={folder / 'profile'}",
            f"--window-size={size[0]},{size[1]}",
        ]
        environment = {**os.environ, "HOME": str(folder), "XDG_CONFIG_HOME": str(folder), "XDG_CACHE_HOME": str(folder)}
        self._pid = os.posix_spawn(path, arguments, environment, file_actions=actions, setpgroup=0)
        for fd in (theirs_in, theirs_out, null):
            os.close(fd)
        self._rest, self._next, self._session = b"", 0, ""
        self.problems: list[str] = []
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "DOM", "Network"):
            self.send(f"{domain}.enable")
        self.send(
            "Emulation.setDeviceMetricsOverride", width=size[0], height=size[1], deviceScaleFactor=1, mobile=False
        )
        self.send("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(self.downloads))

    def close(self) -> None:
        os.close(self._out)
        os.close(self._in)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._pid, signal.SIGKILL)
        os.waitpid(self._pid, 0)

    def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        """One command, and its answer."""
        number = self._post(method, **parameters)
        end = time.monotonic() + PATIENCE
        while (answer := self._read(end)).get("id") != number:
            self._heard(answer)
        assert "error" not in answer, f"{method}: {answer['error']}"
        return answer["result"]

    def _post(self, method: str, **parameters: Any) -> int:
        self._next += 1
        message = {"id": self._next, "method": method, "params": parameters}
        if self._session and not method.startswith(("Target.", "Browser.")):
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        return self._next

    def _read(self, end: float) -> dict[str, Any]:
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._in], [], [], max(0.0, end - time.monotonic()))
            assert ready, "the browser does not answer"
            chunk = os.read(self._in, 1 << 20)
            assert chunk, "the browser has ended"
            self._rest += chunk
        line, _, self._rest = self._rest.partition(b"\0")
        return json.loads(line)

    def _heard(self, event: dict[str, Any]) -> None:
        """Whatever a page complains about: exceptions, refusals of its security policy, requests that fail."""
        params = event.get("params", {})
        if event.get("method") == "Runtime.exceptionThrown":
            self.problems.append(json.dumps(params["exceptionDetails"])[:600])
        if event.get("method") == "Log.entryAdded" and params["entry"]["level"] == "error":
            self.problems.append(f"{params['entry']['text']} {params['entry'].get('url', '')}")
        if event.get("method") == "Page.javascriptDialogOpening":
            self._post("Page.handleJavaScriptDialog", accept=True)  # whoever left unsaved edits wants to
        if event.get("method") == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])

    requests: list[str] = []  # noqa: RUF012  # of the class: a browser serves one test module

    # What a person does

    def go(self, url: str) -> None:
        self.send("Page.navigate", url=url)
        self.wait(f"location.href.startsWith({json.dumps(url.split('#')[0])}) && document.readyState === 'complete'")

    def drop(self, *paths: Path, at: str = "#light") -> None:
        """Drag files from the desktop onto an element and let go."""
        x, y = self.middle(at)
        data = {"items": [], "files": [str(path) for path in paths], "dragOperationsMask": 1}
        for kind in ("dragEnter", "dragOver", "drop"):
            self.send("Input.dispatchDragEvent", type=kind, x=x, y=y, data=data)

    def choose(self, selector: str, path: Path) -> None:
        """Take a file in the file picker that belongs to an input."""
        root = self.send("DOM.getDocument")["root"]["nodeId"]
        node = self.send("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.send("DOM.setFileInputFiles", nodeId=node, files=[str(path)])

    def hover(self, selector: str) -> None:
        x, y = self.middle(selector)
        self.mouse("mouseMoved", x, y)

    def click(self, selector: str) -> None:
        x, y = self.middle(selector)
        for kind in ("mouseMoved", "mousePressed", "mouseReleased"):
            self.mouse(kind, x, y, button="left" if kind != "mouseMoved" else "none", clickCount=1)

    def drag(self, selector: str, dx: float, dy: float, steps: int = 8, **how: Any) -> None:
        x, y = self.middle(selector)
        button = how.pop("button", "left")
        self.mouse("mouseMoved", x, y)
        self.mouse("mousePressed", x, y, button=button, clickCount=1, **how)
        for i in range(1, steps + 1):
            self.mouse("mouseMoved", x + dx * i / steps, y + dy * i / steps, button=button, **how)
        self.mouse("mouseReleased", x + dx, y + dy, button=button, **how)

    def wheel(self, selector: str, delta: float) -> None:
        x, y = self.middle(selector)
        self.mouse("mouseWheel", x, y, deltaX=0, deltaY=delta)

    def mouse(self, kind: str, x: float, y: float, **how: Any) -> None:
        self.send("Input.dispatchMouseEvent", type=kind, x=x, y=y, **how)

    def key(self, name: str, *, shift: bool = False) -> None:
        code = KEYS.get(name) or ord(name.upper())
        text = {"Enter": "\r"}.get(name, name if len(name) == 1 else "")
        base = {"key": name, "windowsVirtualKeyCode": code, "modifiers": 8 if shift else 0}
        self.send("Input.dispatchKeyEvent", type="keyDown" if text else "rawKeyDown", text=text, **base)
        self.send("Input.dispatchKeyEvent", type="keyUp", **base)

    def type(self, text: str) -> None:
        for character in text:
            self.send("Input.dispatchKeyEvent", type="char", text=character)

    # What a person sees

    def eval(self, expression: str) -> Any:
        answer = self.send("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def middle(self, selector: str) -> tuple[float, float]:
        place = self.eval(
            f"(() => {{ const e = document.querySelector({json.dumps(selector)}); if (!e) return null; "
            "e.scrollIntoView({block: 'nearest'}); const r = e.getBoundingClientRect(); "
            "return r.width && r.height ? [r.x + r.width / 2, r.y + r.height / 2] : null })()"
        )
        assert place, f"{selector} is not to be seen"
        return place[0], place[1]

    def seen(self, selector: str) -> bool:
        return bool(self.eval(f"Boolean(document.querySelector({json.dumps(selector)})?.getClientRects().length)"))

    def text(self, selector: str) -> str:
        return str(self.eval(f"document.querySelector({json.dumps(selector)}).textContent"))

    def wait(self, expression: str, seconds: float = PATIENCE) -> Any:
        """Until an expression is true."""
        safe = f"(() => {{ try {{ return {expression} }} catch {{ return false }} }})()"
        return self.until(lambda: self.eval(safe), expression, seconds)

    def until(self, true: Callable[[], Any], what: str, seconds: float = PATIENCE) -> Any:
        end = time.monotonic() + seconds
        while not (value := true()):
            assert time.monotonic() < end, f"still not: {what}; {self.problems}"
            time.sleep(0.02)
        return value

    def picture(self, path: Path | None = None) -> bytes:
        data = base64.b64decode(self.send("Page.captureScreenshot", format="png")["data"])
        if path is not None:
            path.write_bytes(data)
        return data


def _pipe() -> tuple[int, int]:
    """A pipe whose ends are out of the way of the numbers that the browser wants."""
    ends = os.pipe()
    moved = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 16) for fd in ends]
    for fd in ends:
        os.close(fd)
    return moved[0], moved[1]
