"""A real Chromium without a window, driven over the WebDriver protocol of chromedriver: JSON over HTTP, nothing to install for Python.

Starts two programs of Debian's packages `chromium` and `chromium-driver`, with a profile of their own and no network but loopback.
Never sleeps and hopes: what the page is to show is waited for with a deadline.
"""

import base64
import contextlib
import http.client
import json
import os
import shutil
import signal
import subprocess
import tempfile
import threading
import time

# No look-up of anybody's hosts: the browser then speaks to the pages under test alone.
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync", "--disable-default-apps", "--disable-extensions", "--disable-dev-shm-usage"]
ELEMENT = "element-6066-11e4-a52e-4f735466cecf"
KEYS = {"Enter": "\ue007", "Escape": "\ue00c", "F2": "\ue032", "Delete": "\ue017", "ArrowDown": "\ue015", "ArrowUp": "\ue013", "Tab": "\ue004",
        "Space": " ", "Backspace": "\ue003", "Home": "\ue011", "End": "\ue010"}


def why_not():
    """Why no browser can be started here; None when one can."""
    missing = [name for name in ("chromium", "chromedriver") if shutil.which(name) is None]
    if missing:
        return f"no {' and no '.join(missing)}: apt-get install chromium chromium-driver"
    return None


def _pids_naming(text):
    """Processes that have this text in their command line."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as words:
                if text.encode() in words.read():
                    found.append(int(pid))
        except OSError:
            continue
    return found


class WebDriverError(Exception):
    """What chromedriver answered instead of a value."""

    def __init__(self, error, message):
        super().__init__(f"{error}: {message.splitlines()[0] if message else ''}")
        self.error = error


class Browser:
    """One browser with one window. A context manager; `directory` holds its profile and its downloads, and is left behind."""

    def __init__(self, directory, width=1280, height=860):
        self.downloads = os.path.join(directory, "downloads")
        self._profile = tempfile.mkdtemp(prefix="profile-", dir=directory)
        os.makedirs(self.downloads, exist_ok=True)
        self._log = open(os.path.join(directory, "chromedriver.log"), "ab")
        self._environment = {**os.environ, "HOME": directory, "TMPDIR": self._profile}
        self._start_driver()
        try:
            flags = [*FLAGS, f"--user-data-dir={self._profile}", f"--window-size={width},{height}"]
            options = {"args": flags, "prefs": {"download.default_directory": self.downloads, "download.prompt_for_download": False}}
            capabilities = {"browserName": "chrome", "goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
            answer = self._call("POST", "/session", {"capabilities": {"alwaysMatch": capabilities}})
            self._session = f"/session/{answer['sessionId']}"
        except BaseException:
            self._end()
            raise

    def _start_driver(self):
        """chromedriver, and its port. It takes a free port of one family and the same of the other, which may be taken: then once more."""
        for _try in range(5):
            self._driver = subprocess.Popen(["chromedriver", "--port=0", "--log-level=WARNING"], stdout=subprocess.PIPE, stderr=self._log,
                                            start_new_session=True, env=self._environment)
            said = []
            for line in self._driver.stdout:
                said.append(line.decode(errors="replace").strip())
                if b"started successfully on port" in line:
                    # Whatever else it prints must not fill the pipe.
                    threading.Thread(target=self._driver.stdout.read, name="chromedriver output", daemon=True).start()
                    self._port = int(line.rstrip(b". \r\n").rpartition(b" ")[2])
                    return
            self._driver.wait()
            self._driver.stdout.close()
        raise WebDriverError("session not created", f"chromedriver ended at once: {' '.join(said)}")

    def _call(self, method, path, body=None, timeout=60):
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=timeout)
        try:
            connection.request(method, path, None if body is None else json.dumps(body), {"Content-Type": "application/json"})
            value = json.loads(connection.getresponse().read())["value"]
        finally:
            connection.close()
        if isinstance(value, dict) and "error" in value:
            raise WebDriverError(value["error"], value.get("message", ""))
        return value

    def command(self, method, path, body=None, timeout=60):
        """One command of this session."""
        return self._call(method, self._session + path, body, timeout)

    def devtools(self, name, **parameters):
        """One command of the browser's own protocol, for what WebDriver has no word for."""
        return self.command("POST", "/goog/cdp/execute", {"cmd": name, "params": parameters})

    # -- pages --------------------------------------------------------------------------------------------------------
    def open(self, url):
        self.command("POST", "/url", {"url": url})

    @property
    def url(self):
        return self.command("GET", "/url")

    def resize(self, width, height, scale=1):
        """The page's own size, as on a screen of so many points: also narrower than a window can be."""
        self.devtools("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=scale, mobile=False)

    def prefer(self, scheme):
        """What the system is said to prefer: light or dark."""
        self.devtools("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    @contextlib.contextmanager
    def slow(self, bytes_per_second):
        """A network of this rate, both ways, for as long as the `with` lasts: what is under way then stays so long enough to be seen."""
        self.devtools("Network.enable")
        self._limit(int(bytes_per_second))
        try:
            yield
        finally:
            self._limit(-1)
            self.devtools("Network.disable")

    def _limit(self, rate):
        self.devtools("Network.emulateNetworkConditions", offline=False, latency=0, downloadThroughput=rate, uploadThroughput=rate)

    def screenshot(self, path):
        with open(path, "wb") as out:
            out.write(base64.b64decode(self.command("GET", "/screenshot")))

    def console(self):
        """What the console said since it was last asked: [(level, message)]."""
        return [(entry["level"], entry["message"]) for entry in self.command("POST", "/se/log", {"type": "browser"})]

    # -- what is on them ----------------------------------------------------------------------------------------------
    def run(self, script, *arguments):
        """The value of a script's `return`."""
        return self.command("POST", "/execute/sync", {"script": script, "args": list(arguments)})

    def find(self, selector):
        """The first element of a CSS selector, None where there is none."""
        try:
            return self.command("POST", "/element", {"using": "css selector", "value": selector})[ELEMENT]
        except WebDriverError as e:
            if e.error == "no such element":
                return None
            raise

    def wait(self, script, *arguments, seconds=10, what=None):
        """The first true value of a script's `return`, asked again and again. Raises AssertionError after so many seconds."""
        end_s = time.monotonic() + seconds
        while not (value := self.run(script, *arguments)):
            if time.monotonic() > end_s:
                text = self.run("return document.body.innerText")
                raise AssertionError(f"not within {seconds} s: {what or script}\nthe page says:\n{text[:2000]}")
            time.sleep(0.02)
        return value

    def wait_text(self, text, selector="body", seconds=10):
        """Until an element's visible text contains these words."""
        self.wait("const at = document.querySelector(arguments[0]); return Boolean(at) && at.innerText.includes(arguments[1])", selector, text,
                  seconds=seconds, what=f"{text!r} in {selector}")

    def element(self, selector, text=None, seconds=10):
        """The first visible element of a selector (whose text contains `text`), as soon as there is one."""
        found = self.wait("""
            return [...document.querySelectorAll(arguments[0])].find((each) => each.checkVisibility() && !each.disabled
                && (arguments[1] === null || each.textContent.includes(arguments[1]))) || null
        """, selector, text, seconds=seconds, what=f"{selector} {text or ''}")
        return found[ELEMENT]

    def click(self, selector, text=None, seconds=10):
        """A click of the mouse on it. What was replaced between finding and clicking is found once more."""
        for tries_left in (2, 1, 0):
            try:
                return self.command("POST", f"/element/{self.element(selector, text, seconds)}/click", {})
            except WebDriverError as e:
                if e.error not in ("stale element reference", "element click intercepted") or not tries_left:
                    raise

    def type(self, selector, text):
        """Characters typed into it, after what is there; for a file input the path of a file."""
        self.command("POST", f"/element/{self.element(selector)}/value", {"text": text})

    def choose(self, selector, *paths):
        """Files, or one directory, into a file input, also a hidden one."""
        self.command("POST", f"/element/{self.find(selector)}/value", {"text": "\n".join(paths)})

    def press(self, *keys):
        """Keys, one after the other, where the focus is."""
        actions = [{"type": kind, "value": KEYS.get(key, key)} for key in keys for kind in ("keyDown", "keyUp")]
        self.command("POST", "/actions", {"actions": [{"type": "key", "id": "keyboard", "actions": actions}]})

    def drop(self, *paths, x=400, y=400):
        """Files and directories, dragged from elsewhere and dropped on the page: the browser's own drop, with its own entries."""
        data = {"items": [], "files": list(paths), "dragOperationsMask": 1}
        for kind in ("dragEnter", "dragOver", "drop"):
            self.devtools("Input.dispatchDragEvent", type=kind, x=x, y=y, data=data)

    # -- the end ------------------------------------------------------------------------------------------------------
    def close(self):
        try:
            self.command("DELETE", "", timeout=10)
        except (OSError, WebDriverError, http.client.HTTPException):
            pass  # it went by itself; its group is ended below
        finally:
            self._end()

    def _end(self):
        # The browser is in a group of its own: its processes are known by the profile, which is nobody else's.
        for pid in [self._driver.pid, *_pids_naming(self._profile)]:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        self._driver.wait()
        self._log.close()
        shutil.rmtree(self._profile, ignore_errors=True)

    def __enter__(self):
        return self

    def __exit__(self, *_exception):
        self.close()
