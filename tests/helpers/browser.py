"""Headless Chromium, driven over a pipe: open a page, read what it shows, keep a picture of it."""

import base64
import itertools
import json
import os
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
TEXT = """
(() => {
  const walk = node => {
    if (node.nodeType === 3) return node.textContent;
    if (['STYLE', 'SCRIPT', 'TEMPLATE'].includes(node.nodeName)) return '';
    const children = [...(node.shadowRoot ? node.shadowRoot.childNodes : []), ...node.childNodes];
    return children.map(walk).join(' ');
  };
  return walk(document.documentElement).replace(/\\s+/g, ' ');
})()
"""
"""All text of the page, that inside shadow roots as well, as TensorBoard's older tabs are made of them."""


class Browser:
    """One page of Chromium's; a context manager."""

    def __init__(self, profile: Path, width: int = 1500, height: int = 1000) -> None:
        command, answers = os.pipe(), os.pipe()

        def hand_over() -> None:  # Chromium reads commands from 3 and answers on 4
            here, there = os.dup(command[0]), os.dup(answers[1])
            os.dup2(here, 3)
            os.dup2(there, 4)

        self.process = subprocess.Popen(
            [
                *(CHROMIUM or "chromium", "--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe"),
                *("--no-first-run", "--disable-background-networking", "--disable-component-update"),
                *(f"--user-data-dir={profile}", f"--window-size={width},{height}", "about:blank"),
            ],
            preexec_fn=hand_over,
            close_fds=False,
            stderr=subprocess.DEVNULL,
        )
        os.close(command[0])
        os.close(answers[1])
        self.commands, self.answers = os.fdopen(command[1], "wb", 0), os.fdopen(answers[0], "rb")
        self.numbers = itertools.count(1)
        self.buffer = b""
        targets = self.call("Target.getTargets", session=False)["targetInfos"]
        page = next(target["targetId"] for target in targets if target["type"] == "page")
        self.session = self.call("Target.attachToTarget", session=False, targetId=page, flatten=True)["sessionId"]

    def __enter__(self) -> "Browser":
        return self

    def __exit__(self, *error: object) -> None:
        self.process.terminate()
        self.process.wait(10)
        self.commands.close()
        self.answers.close()

    def call(self, method: str, session: bool = True, **parameters: Any) -> dict[str, Any]:
        """One command of the DevTools protocol; events that come before its answer are passed over."""
        number = next(self.numbers)
        message = {"id": number, "method": method, "params": parameters}
        self.commands.write(json.dumps(message | ({"sessionId": self.session} if session else {})).encode() + b"\0")
        while True:
            while b"\0" not in self.buffer:
                chunk = os.read(self.answers.fileno(), 1 << 16)
                if not chunk:
                    raise RuntimeError("Chromium has gone.")
                self.buffer += chunk
            line, self.buffer = self.buffer.split(b"\0", 1)
            answer = json.loads(line)
            if answer.get("id") == number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                return answer["result"]

    def open(self, address: str) -> None:
        self.call("Page.navigate", url=address)

    def evaluate(self, expression: str) -> Any:
        return self.call("Runtime.evaluate", expression=expression, returnByValue=True)["result"].get("value")

    def text_with(self, *words: str, seconds: float = 60) -> str:
        """The page's text once it holds all `words`; as it is at the end of the time, if it never does."""
        end = time.monotonic() + seconds
        while True:
            text = self.evaluate(TEXT) or ""
            if all(word in text for word in words) or time.monotonic() > end:
                return text
            time.sleep(0.5)

    def wait_for(self, expression: str, seconds: float = 60) -> None:
        """Until a JavaScript expression is true; the time is an end, not a claim."""
        end = time.monotonic() + seconds
        while not self.evaluate(expression) and time.monotonic() < end:
            time.sleep(0.1)

    def picture(self, path: Path) -> None:
        """Keep what is seen, once curves have come to rest."""
        time.sleep(1.5)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot")["data"]))
