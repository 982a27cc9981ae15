"""The page in a real browser, in front of a real cluster: upload, browse, rename, download, a keeper that dies meanwhile, hostile names.

Skipped, and says so, where there is no Chromium. PAGE_TEST_MIB=200 makes the large file as large as the promise speaks of.
"""

import os
import urllib.parse

import pytest

import browser
import live_cluster
from live_cluster import MIB, until

pytestmark = [pytest.mark.system, pytest.mark.skipif(browser.why_not() is not None, reason=str(browser.why_not()))]

LARGE_MIB = int(os.environ.get("PAGE_TEST_MIB", "24"))
BROKEN_MIB = 48  # three of the gateway's blocks: one is whole when the connection breaks in the second half
HOSTILE = ["<script>window.hacked=1<", "<img src=x onerror=window.hacked=1>", "\"quotes\" 'and' `ticks`.txt", "%2e%2e", "..%2f..%2fetc", "a&b=c?d#e.txt",
           "\u05e2\u05d1\u05e8\u05d9\u05ea (1).pdf", "evil\u202efdp.exe", "x" * 250, "javascript:window.hacked=1", "two  spaces", "back\\slash"]


@pytest.fixture(scope="module")
def cluster(shared_work):
    with live_cluster.LiveCluster(os.path.join(shared_work, "cluster"), keepers=3, web="127.0.0.1:0") as started:
        yield started


@pytest.fixture(scope="module")
def window(shared_work):
    with browser.Browser(shared_work) as opened:
        yield opened


@pytest.fixture
def page(cluster, window):
    """The page, signed in by the link that `dfs local` prints, in a folder of the test's own. Whatever the test did, the console has no error
    that it did not expect, and nothing came from anywhere else."""
    window.expected = ()
    window.command("DELETE", "/cookie")
    window.open("about:blank")
    window.console()
    sign_in(window, cluster, cluster.key_file)
    yield window
    errors = [message for level, message in window.console() if level == "SEVERE" and not any(each in message for each in window.expected)]
    assert errors == []
    assert foreign_addresses(window, cluster) == []


def sign_in(window, cluster, key_file):
    from dfs_lib.cli import web

    window.open(web.login_link(cluster.web_url, key_file))
    window.wait("return Boolean(document.querySelector('.listing > *'))", what="the files are there")


def go(window, cluster, path):
    """The page shows a folder."""
    window.open(f"{cluster.web_url}#/files{urllib.parse.quote(path)}")
    window.wait("return document.querySelector('.crumbs [aria-current]')?.textContent === arguments[0] && Boolean(document.querySelector('.listing:not([aria-busy]) > *'))",
                path.rpartition("/")[2] or "All files")


def foreign_addresses(window, cluster):
    """Whatever the page fetched from elsewhere than its gateway."""
    names = window.run("return performance.getEntries().filter((each) => ['resource', 'navigation'].includes(each.entryType)).map((each) => each.name)")
    assert len(names) > 20
    return [name for name in names if not name.startswith(cluster.web_url)]


def row(window, name):
    """Opens the menu of a file's row; waits for the row."""
    window.wait("return [...document.querySelectorAll('.entry .link')].some((each) => each.textContent === arguments[0])", name, what=f"a row {name!r}")


def focus_row(window, name):
    row(window, name)
    window.run("[...document.querySelectorAll('.entry .link')].find((each) => each.textContent === arguments[0]).focus()", name)


def watch_progress(window):
    """From now on the page notes, frame by frame, the states that the bars of uploads pass through, and what the panel and the banner say."""
    window.run("""
        window.seen = [];
        window.words = new Set();
        const look = () => {
            for (const each of document.querySelectorAll('.transfers li progress')) if (each.checkVisibility()) window.seen.push(each.value / each.max);
            for (const each of document.querySelectorAll('.transfers small, .transfers .rate, #banner')) if (each.checkVisibility()) window.words.add(each.textContent);
            window.looking = requestAnimationFrame(look);
        };
        cancelAnimationFrame(window.looking);
        look();
    """)


def uploaded(window, n, seconds=60):
    window.wait_text(f"{n}\u00a0file{'s' if n > 1 else ''} uploaded", ".transfers h2", seconds)
    window.run("cancelAnimationFrame(window.looking)")
    window.click(".transfers [aria-label=Close]")


def downloaded(window, name, seconds=60):
    path = os.path.join(window.downloads, name)
    until(lambda: os.path.exists(path), seconds, f"{name} is downloaded")
    return path


def test_a_key_in_the_address_is_taken_off_it_and_kept_nowhere(page, cluster):
    with open(cluster.key_file) as file:
        secret = file.read().split()[-1]
    assert page.url == f"{cluster.web_url}#/files/"
    kept = page.run("""return JSON.stringify([location.href, document.referrer, document.cookie, {...localStorage}, {...sessionStorage}, history.state,
                              document.documentElement.outerHTML, performance.getEntries().map((each) => each.name)])""")
    assert secret not in kept
    cookies = page.command("GET", "/cookie")
    assert [(cookie["httpOnly"], cookie["sameSite"], "expiry" in cookie) for cookie in cookies] == [(True, "Strict", False)]


def test_a_large_file_goes_up_with_progress_is_renamed_and_comes_back_the_same(page, cluster, shared_work):
    source = live_cluster.write_random(os.path.join(shared_work, "large.bin"), LARGE_MIB * MIB)
    watch_progress(page)
    with page.slow(LARGE_MIB * MIB / 2):
        page.choose("#file-picker", source)
        uploaded(page, 1, 120)
    seen = page.run("return window.seen")
    between = sorted({value for value in seen if 0 < value < 1})
    assert len(between) >= 2, f"no progress was to be seen: {seen[:20]}"
    assert seen == sorted(seen)
    focus_row(page, "large.bin")
    page.press("F2")
    page.element("dialog input")
    page.press(*"renamed", "Enter")  # the stem is marked: typing replaces it, and leaves the extension
    row(page, "renamed.bin")
    page.wait("return document.activeElement.textContent === 'renamed.bin'", what="the focus is on the renamed row")
    page.press("Enter")
    page.wait_text("Where it is", ".details")
    page.wait("return document.querySelectorAll('.details .chip').length >= 2", what="the keepers that have it")
    page.click(".details .button.main", "Download")
    assert live_cluster.digest(downloaded(page, "renamed.bin")) == live_cluster.digest(source)
    page.press("Escape")
    page.wait("return document.querySelector('.details').hidden && document.activeElement.textContent === 'renamed.bin'",
              what="the panel is closed and the focus back")


def test_a_dropped_folder_arrives_whole_with_empty_folders_and_strange_names(page, cluster, shared_work):
    folder = os.path.join(shared_work, "tree of things")
    os.makedirs(os.path.join(folder, "a", "empty"))
    os.makedirs(os.path.join(folder, "b <b>"))
    for number, name in enumerate(("one.txt", "a/two.bin", "a/%2e%2e", "b <b>/\u00fcber \"x\".dat", "b <b>/nothing")):
        live_cluster.write_random(os.path.join(folder, name), number * 70_000 if name != "b <b>/nothing" else 0)
    watch_progress(page)
    page.drop(folder)
    uploaded(page, 5)
    row(page, "tree of things")
    back = os.path.join(shared_work, "back")
    os.mkdir(back)
    cluster.dfs("get", "-r", "/tree of things", back)
    assert live_cluster.same_trees(folder, os.path.join(back, "tree of things")) == ""
    # Once more: the names are there, one question for all of them, and both are kept.
    page.drop(folder)
    page.wait_text("5 names are there already", "dialog")
    page.click("dialog button", "Keep both")
    uploaded(page, 5)
    assert sorted(entry["path"] for entry in cluster.json("ls", "-R", "/tree of things") if "(2)" in entry["path"]) == [
        "/tree of things/a/%2e%2e (2)", "/tree of things/a/two (2).bin", "/tree of things/b <b>/nothing (2)",
        "/tree of things/b <b>/\u00fcber \"x\" (2).dat", "/tree of things/one (2).txt"]


def test_hostile_names_are_text_and_go_nowhere_else(page, cluster, shared_work):
    with cluster.client() as client:
        client.mkdir("/hostile")
        for number, name in enumerate(HOSTILE):
            path = live_cluster.write_random(os.path.join(shared_work, "hostile"), 1000 + number, number)
            client.put(path, f"/hostile/{name}")
        client.mkdir("/hostile/<b>folder")
    go(page, cluster, "/hostile")
    shown = page.run("return [...document.querySelectorAll('.entry .link bdi')].map((each) => each.textContent)")
    assert set(shown) == {name.replace("\u202e", "\u2039202E\u203a") for name in HOSTILE} | {"<b>folder"}
    assert page.run("return document.querySelectorAll('main script, main img, main b').length") == 0
    sizes = page.run("""return Promise.all([...document.querySelectorAll('.entry.file .link')].map(async (each) => {
        const answer = await fetch(each.href);
        return [new URL(each.href).pathname, (await answer.blob()).size];
    }))""")
    assert sorted(size for _path, size in sizes) == [1000 + number for number in range(len(HOSTILE))]
    assert {urllib.parse.unquote(path) for path, _size in sizes} == {f"/files/hostile/{name}" for name in HOSTILE}
    for name in (HOSTILE[0], HOSTILE[7].replace("\u202e", "\u2039202E\u203a")):
        focus_row(page, name)
        page.press("Enter")
        page.wait("return document.querySelector('.details h2')?.textContent === arguments[0]", name)
        page.press("Escape")
    focus_row(page, "<b>folder")
    page.press("Enter")
    page.wait("return document.querySelector('.crumbs [aria-current]')?.textContent === '<b>folder'")
    assert page.run("return window.hacked ?? null") is None


def test_deleting_says_what_will_go_and_search_finds_what_is_left(page, cluster, shared_work):
    small = live_cluster.write_random(os.path.join(shared_work, "small"), 5000)
    with cluster.client() as client:
        for path in ("/going/below/one.csv", "/going/below/two.csv", "/going/three.csv", "/staying/four.csv"):
            client.put(small, path, parents=True)
    go(page, cluster, "/")
    focus_row(page, "going")
    page.press("Delete")
    page.wait_text("3\u00a0files and 2\u00a0folders, 15.0\u00a0kB", "dialog")
    page.press("Escape")  # and nothing has happened
    page.wait("return document.activeElement.textContent === 'going'", what="the focus is back on the row")
    page.press("Delete")
    page.click("dialog button", "Delete 3")
    page.wait("return ![...document.querySelectorAll('.entry .link')].some((each) => each.textContent === 'going')", what="the folder is gone")
    page.press("/")
    page.press(*"four.")
    page.wait_text("in /staying", ".entry")
    assert page.run("return document.querySelectorAll('.entry').length") == 1
    assert [entry["path"] for entry in cluster.json("find", "/", "--name", "*.csv")] == ["/staying/four.csv"]


def test_new_folder_move_copies_wanted_the_join_command_and_the_dark(page, cluster, shared_work):
    small = live_cluster.write_random(os.path.join(shared_work, "small"), 5000)
    cluster.dfs("mkdir", "/desk")
    cluster.dfs("put", small, "/desk/paper.txt")
    go(page, cluster, "/desk")
    page.click("#new-folder")
    page.element("dialog input")
    page.press(*"a/b", "Enter")
    page.wait_text("cannot contain a slash", "dialog .fault")
    page.press("Backspace", "Backspace", "Enter")
    page.wait("return document.activeElement.textContent === 'a'", what="the focus is on the new folder")
    focus_row(page, "paper.txt")
    page.press("Enter")
    page.click(".details [aria-label='One copy less']")
    page.click(".details button", "Set")
    page.wait_text("2\u00a0copies wanted", ".toasts")
    assert cluster.json("stat", "/desk/paper.txt")[0]["copies_wanted"] == 2
    page.click(".details [aria-label='Move']")
    page.click("dialog .folders button", "a")
    page.wait("return document.querySelector('dialog input').value === '/desk/a'")
    page.click("dialog button", "Move here")
    page.wait("return document.querySelectorAll('.entry').length === 1", what="the file is in the folder")
    assert [entry["path"] for entry in cluster.json("ls", "/desk/a")] == ["/desk/a/paper.txt"]
    page.run("location.hash = '#/join'")
    page.click("#make-command")
    page.wait_text("--join ", "#join-command")
    light = page.run("return getComputedStyle(document.body).backgroundColor")
    page.click("#theme")
    page.command("POST", "/refresh", {})
    page.wait("return Boolean(document.querySelector('#make-command'))")
    assert page.run("return getComputedStyle(document.body).backgroundColor") != light


def test_without_a_key_the_page_asks_for_one_and_says_nothing_else(page, cluster):
    page.command("DELETE", "/cookie")
    page.open("about:blank")
    page.open(f"{cluster.web_url}#/cluster")
    page.wait("return document.activeElement.id === 'key'", what="the key is asked for")
    assert page.run("return document.querySelector('#top').hidden && document.querySelectorAll('.entry').length === 0")
    assert page.run("return Promise.all(['api/list?path=/', 'api/status', 'files/'].map((each) => fetch(each).then((answer) => answer.status)))") == [401] * 3
    page.expected = ("the server responded with a status of 401",)


def test_sizes_times_and_names_are_told_as_people_read_them(page, cluster):
    cases = {"size(0)": "0 B", "size(999)": "999 B", "size(1000)": "1.0 kB", "size(300000)": "300 kB", "size(999999)": "1.0 MB", "size(4.2e6)": "4.2 MB",
             "size(82.3e9)": "82.3 GB", "duration(0.04)": "0 s", "duration(9.94)": "9.9 s", "duration(59.6)": "1 min", "duration(125)": "2 min 5 s",
             "duration(12000)": "3 h 20 min", "duration(400000)": "4 d", "count(1, 'file')": "1 file", "count(12034, 'copy', 'copies')": "12,034 copies",
             "parent('/a/b')": "/a", "parent('/a')": "/", "join('/', 'a')": "/a", "isBelow('/ab', '/a')": False, "isBelow('/a/b', '/a')": True,
             "fileUrl('/a b/%2e%2e/ü?#')": "files/a%20b/%252e%252e/%C3%BC%3F%23", "folderLink('/')": "#/files/",
             "freeName('a.tar.gz', (each) => each === 'a.tar (2).gz')": "a.tar (3).gz", "freeName('.hidden', () => false)": ".hidden (2)",
             "nameFault('x')": "", "nameFault('..') !== ''": True, "nameFault('a/b') !== ''": True, "nameFault('ü'.repeat(128)) !== ''": True}
    # The page's policy lets no text become a script: what is to be called is looked up, and its arguments are read by the driver's own eval.
    told = page.run("return import('/format.js').then((format) => { window.format = format; })")
    told = {case: page.run(f"const {{{', '.join(NAMES)}}} = window.format; return {case}") for case in cases}
    assert {case: value.replace(" ", " ") if isinstance(value, str) else value for case, value in told.items()} == cases


NAMES = ("size", "duration", "count", "parent", "join", "isBelow", "fileUrl", "folderLink", "freeName", "nameFault")


def test_a_reader_sees_no_way_to_write_and_has_none(page, cluster, shared_work):
    key = cluster.dfs("admin", "user", "add", "rita", "--role", "reader").strip()
    page.click(".top button[aria-haspopup]")
    page.click(".menu .item", "Sign out")
    page.type("#key", "dfs-user-key-1 rita.1 " + "0" * 64)
    page.click("button", "Sign in")
    page.wait("return document.querySelector('#key-fault').textContent.length > 0", what="a wrong key is told")
    page.expected = ("/api/session - Failed to load resource: the server responded with a status of 401",)
    page.run("document.querySelector('#key').value = ''")
    page.type("#key", key)
    page.click("button", "Sign in")
    page.wait_text("reader", ".top")
    page.wait("return Boolean(document.querySelector('.listing > *'))")
    words = page.run("return [...document.querySelectorAll('button, a')].map((each) => each.textContent + (each.getAttribute('aria-label') || '')).join('|')")
    for word in ("Upload", "New folder", "Join", "Rename", "Delete"):
        assert word not in words
    page.expected += ("/files/by-hand.txt - Failed to load resource: the server responded with a status of 403",
                      "/api/mkdir - Failed to load resource: the server responded with a status of 403")
    assert page.run("""return Promise.all([fetch('files/by-hand.txt', {method: 'PUT', body: 'x', headers: {'X-Dfs': '1'}}),
        fetch('api/mkdir', {method: 'POST', body: '{"path":"/by-hand"}', headers: {'X-Dfs': '1', 'Content-Type': 'application/json'}})])
        .then((all) => all.map((each) => each.status))""") == [403, 403]


def test_an_upload_goes_on_after_its_gateway_was_killed_and_the_page_says_so_meanwhile(page, cluster, shared_work):
    source = live_cluster.write_random(os.path.join(shared_work, "broken.bin"), BROKEN_MIB * MIB, 7)
    page.run("""
        window.sent = [];
        const set = XMLHttpRequest.prototype.setRequestHeader;
        XMLHttpRequest.prototype.setRequestHeader = function (name, value) { if (name === 'Content-Range') window.sent.push(value); return set.call(this, name, value); };
    """)
    watch_progress(page)
    with page.slow(BROKEN_MIB * MIB / 4):
        page.choose("#file-picker", source)
        # The first time the browser may begin again by itself, and say nothing; the second time it leaves that to the page.
        for share in (0.2, 0.7):
            page.wait("return window.seen.some((each) => each > arguments[0])", share, seconds=30, what="it is under way")
            os.kill(gateway_pid(cluster), 9)
    page.expected = ("net::ERR_",)
    page.wait("const words = [...window.words].join('|'); return words.includes('goes on in') && words.includes('Not connected')",
              what="the page says that it is interrupted, and that it goes on")
    uploaded(page, 1)
    page.wait("return document.querySelector('#banner').hidden", what="it is connected again")
    sent = page.run("return window.sent")
    assert len(sent) == 1 and int(sent[0].split()[1].partition("-")[0]) >= 12 * MIB, f"it began again from the start: {sent}"
    back = os.path.join(shared_work, "broken.back")
    cluster.dfs("get", "/broken.bin", back)
    assert live_cluster.digest(back) == live_cluster.digest(source)


def test_a_keeper_killed_during_a_download_shows_within_5_s_and_the_download_completes(page, cluster, shared_work):
    source = live_cluster.write_random(os.path.join(shared_work, "watched.bin"), LARGE_MIB * MIB, 9)
    cluster.dfs("put", source, "/watched.bin")
    go(page, cluster, "/")
    row(page, "watched.bin")
    with page.slow(LARGE_MIB * MIB / 12):
        page.run("location.href = 'files/watched.bin?download=1'")  # as by a link; the slow network holds for this way of asking
        pid = gateway_pid(cluster)
        name = until(lambda: next((found[0] for port in live_cluster.dialled_ports([pid]) if (found := cluster.keeper_of_port(port))), None), 10,
                     "a keeper sends to the gateway")
        page.run("location.hash = '#/cluster'")
        page.wait("return document.querySelectorAll('.keepers .badge.live').length === 3", what="three keepers are live")
        cluster.keepers[name].kill()
        page.wait("return [...document.querySelectorAll('.keepers tbody tr')].some((each) => each.textContent.includes(arguments[0]) && /suspect|dead/.test(each.textContent))",
                  name, seconds=5, what=f"{name} is shown as gone")
        page.wait_text(f"Keeper {name}", ".happenings", seconds=2)
        assert not os.path.exists(os.path.join(page.downloads, "watched.bin")), "it was over before the keeper died"
    assert live_cluster.digest(downloaded(page, "watched.bin")) == live_cluster.digest(source)
    page.click(".keepers .link", name)
    page.wait("return document.querySelectorAll('dialog .reasons li').length > 0", what="why it is so")
    page.press("Escape")


def test_what_others_move_is_drawn_and_a_stopped_keeper_is_called_so(page, cluster, shared_work):
    """The plot is the cluster's: a put of the command line shows, and the minutes before the page was opened."""
    source = live_cluster.write_random(os.path.join(shared_work, "others.bin"), 24 * MIB, 12)
    page.open(f"{cluster.web_url}#/cluster")
    page.wait("return document.querySelectorAll('.keepers .badge.live').length >= 2", what="keepers are live")
    cluster.dfs("put", source, "/others.bin")
    page.wait("const told = document.querySelector('.plot-legend .write b').textContent; return !told.startsWith('0') && told.endsWith('B/s')", seconds=8,
              what="the rate of the put")
    page.wait("return (document.querySelector('.plot .line.write')?.getAttribute('d') || '').split('L').length >= 2", seconds=30, what="a line from before")
    name = next(name for name, state in cluster.states().items() if state == "live")
    cluster.keepers[name].ask_to_stop()
    page.wait("return [...document.querySelectorAll('.keepers tbody tr')].some((each) => each.querySelector('.link').textContent === arguments[0] && "
              "each.querySelector('.badge.stopped')?.textContent.includes('stopped'))", name, what=f"{name} is shown as stopped")
    page.wait_text(f"Keeper {name} was stopped", ".happenings", seconds=3)
    page.click(".keepers .link", name)
    page.wait("return document.querySelector('dialog .reasons li')?.textContent.startsWith('stopped: ')", what="why says so too")
    page.press("Escape")


def gateway_pid(cluster):
    """The process that serves the page, as soon as it does."""
    def find():
        for pid in live_cluster.local.group_members(cluster.master.process.pid):
            try:
                with open(f"/proc/{pid}/cmdline", "rb") as words:
                    if b"\0gateway\0" in words.read():
                        return pid
            except OSError:
                continue
        return None

    return until(find, 10, "a gateway runs")
