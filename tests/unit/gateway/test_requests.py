"""Whole requests as bytes: what each route answers, who may, what browsers are told, and what connections survive."""

import base64
import io
import json
import zipfile

import gateway_helpers as helpers
import pytest

from dfs_lib import errors
from dfs_lib.gateway import access

FILES = {"/a.txt": b"hello world", "/d": None, "/d/x.png": b"PNG", "/d/e": None, "/d/<script>alert(1)<_script>.html": b"<b>", "/empty": b""}
HOSTILE = "<img src=x onerror=alert(1)>\"'&\u202eexe.txt"


@pytest.fixture
def gateway():
    return helpers.Gateway(helpers.Client(FILES))


# -- files out --------------------------------------------------------------------------------------------------------
def test_a_file_with_its_headers(gateway):
    answer = gateway.ask("GET", "/files/a.txt")
    assert (answer.status, answer.body) == (200, b"hello world")
    assert answer.headers["etag"] == '"7"' and answer.headers["last-modified"] == "Tue, 14 Nov 2023 22:13:20 GMT" and answer.headers["content-length"] == "11"
    assert answer.headers["content-type"] == "text/plain; charset=utf-8" and answer.headers["content-disposition"].startswith("inline")
    assert answer.headers["content-security-policy"].startswith("sandbox") and answer.headers["x-content-type-options"] == "nosniff"
    assert gateway.ask("GET", "/files/a.txt?download=1").headers["content-disposition"].startswith("attachment")
    head = gateway.ask("HEAD", "/files/a.txt")
    assert head.headers == answer.headers and head.body == b""
    assert gateway.ask("GET", "/files/empty").body == b""


def test_what_a_browser_would_run_is_only_downloaded(gateway):
    answer = gateway.ask("GET", "/files/d/%3Cscript%3Ealert(1)%3C_script%3E.html")
    assert answer.headers["content-disposition"].startswith("attachment") and answer.body == b"<b>"


def test_stretches(gateway):
    one = gateway.ask("GET", "/files/a.txt", Range="bytes=-5")
    assert (one.status, one.body, one.headers["content-range"]) == (206, b"world", "bytes 6-10/11")
    several = gateway.ask("GET", "/files/a.txt", Range="bytes=0-1,9-")
    boundary = several.headers["content-type"].partition("boundary=")[2]
    assert several.status == 206 and several.body == (
        f"\r\n--{boundary}\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Range: bytes 0-1/11\r\n\r\nhe"
        f"\r\n--{boundary}\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Range: bytes 9-10/11\r\n\r\nld\r\n--{boundary}--\r\n").encode()
    outside = gateway.ask("GET", "/files/a.txt", Range="bytes=11-")
    assert outside.status == 416 and outside.headers["content-range"] == "bytes */11"
    assert gateway.ask("GET", "/files/a.txt", Range="bytes=0-1", If_Range='"6"').status == 200


def test_conditions(gateway):
    unchanged = gateway.ask("GET", "/files/a.txt", If_None_Match='"7"')
    assert (unchanged.status, unchanged.body) == (304, b"") and unchanged.headers["etag"] == '"7"' and "content-length" not in unchanged.headers
    assert gateway.ask("GET", "/files/a.txt", If_Match='"6"').status == 412


@pytest.mark.parametrize("target, status", [("/files/none", 404), ("/files/%2e%2e/x", 400), ("/files/..", 400), ("/files/d/../a.txt", 400), ("/files/a%00", 400),
                                            ("/files/%ff", 400), ("/files/a//b", 400), ("/files/" + "x" * 300, 400), ("/files/%0a", 400),
                                            ("/files/a.txt/", 409), ("/none", 404), ("/api/none", 404), ("/..%2ffiles/a.txt", 404)])
def test_names_that_are_none(gateway, target, status):
    answer = gateway.ask("GET", target)
    assert answer.status == status and set(answer.json) >= {"error", "message"} and "Traceback" not in answer.body.decode()


def test_a_directory_as_json_html_and_zip(gateway):
    found = gateway.ask("GET", "/files/d").json
    assert found["path"] == "/d" and [entry["name"] for entry in found["entries"]] == ["<script>alert(1)<_script>.html", "e", "x.png"]
    assert found["entries"][2] == {"path": "/d/x.png", "name": "x.png", "type": "file", "size": 3, "version": 7, "mtime": "2023-11-14T22:13:20.000Z",
                                   "copies_wanted": 3, "copies_have": 2}
    moved = gateway.ask("GET", "/files/d", Accept="text/html,*/*;q=0.8")
    assert (moved.status, moved.headers["location"]) == (301, "/files/d/")
    page = gateway.ask("GET", "/files/d/", Accept="text/html")
    text = page.body.decode()
    assert "<script" not in text and "&lt;script&gt;" in text and 'href="/files/d/%3Cscript%3Ealert%281%29%3C_script%3E.html"' in text
    assert 'href="/files/"' in text and 'href="/files/d/e/"' in text and "default-src 'none'" in page.headers["content-security-policy"]
    archive = zipfile.ZipFile(io.BytesIO(gateway.ask("GET", "/files/d?zip=1").body))
    assert archive.testzip() is None and {name: archive.read(name) for name in archive.namelist()} == {
        "d/e/": b"", "d/x.png": b"PNG", "d/<script>alert(1)<_script>.html": b"<b>"}
    assert gateway.ask("HEAD", "/files/d").status == 200


def test_a_hostile_name_stays_text():
    gateway = helpers.Gateway(helpers.Client({f"/{HOSTILE}": b"x"}))
    text = gateway.ask("GET", "/files/", Accept="text/html").body.decode()
    assert "<img" not in text and "&lt;img" in text and "onerror=alert(1)&gt;" in text
    answer = gateway.ask("GET", "/files/%3Cimg%20src%3Dx%20onerror%3Dalert(1)%3E%22'%26%E2%80%AEexe.txt")
    assert answer.status == 200 and "\n" not in answer.headers["content-disposition"] and answer.headers["content-disposition"].count('"') == 2


def test_the_error_of_a_damaged_file_tells_no_more_than_it_should(gateway):
    gateway.client.failure = errors.AllReplicasBad(path="/a.txt", index=0, detail="x")
    assert gateway.ask("GET", "/files/a.txt").status == 500
    gateway.client.failure = RuntimeError("secret /etc/path")
    answer = gateway.ask("GET", "/files/a.txt")
    assert answer.status == 500 and answer.json["error"] == "bug" and "secret" not in answer.body.decode()


# -- files in and away ------------------------------------------------------------------------------------------------
def test_a_put_in_one_piece_and_in_chunks(gateway):
    new = gateway.ask("PUT", "/files/n%C3%B6.txt", b"twelve bytes", X_Dfs_Mtime="1700000000.5", X_Dfs_Copies="2")
    assert (new.status, new.headers["etag"], new.headers["location"]) == (201, '"8"', "/files/n%C3%B6.txt") and gateway.client.files["/nö.txt"] == b"twelve bytes"
    _put, path, options = gateway.client.asked[-1]
    assert (path, options["size"], options["copies"], options["mtime_at"], options["no_clobber"]) == ("/nö.txt", 12, 2, 1700000000.5, False)
    assert gateway.ask("PUT", "/files/a.txt", b"3\r\nnew\r\n0\r\n\r\n", Transfer_Encoding="chunked").status == 200
    assert gateway.client.files["/a.txt"] == b"new" and gateway.client.asked[-1][2]["size"] is None


def test_continue_is_said_when_the_body_is_wanted_and_only_then(gateway):
    head = f"PUT /files/%s HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {helpers.KEY.replace(' ', '+')}\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n"
    wanted = gateway.serve((head % "n").encode(), b"ab")
    assert [answer.status for answer in helpers.answers(wanted.out)] == [100, 201]
    refused = gateway.serve((head % "d").encode(), b"ab")
    found = helpers.answers(refused.out)
    assert [answer.status for answer in found] == [409] and found[0].headers["connection"] == "close"


@pytest.mark.parametrize("pieces", [(b"Content-Length: 10\r\n\r\n12345",), (b"Transfer-Encoding: chunked\r\n\r\n5\r\n12",), (b"Transfer-Encoding: chunked\r\n\r\n5\r\n12345\r\n0\r\n",),
                                    (b"Transfer-Encoding: chunked\r\n\r\n2\r\n12345\r\n0\r\n\r\n",)])
@pytest.mark.parametrize("silent", [False, True])
def test_a_body_that_breaks_off_stores_nothing(gateway, pieces, silent):
    head = f"PUT /files/n HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {helpers.KEY.replace(' ', '+')}\r\n".encode()
    connection = gateway.serve(head + pieces[0], silent=silent)
    assert "/n" not in gateway.client.files
    assert all(answer.status == 400 for answer in helpers.answers(connection.out))


def test_a_body_longer_than_it_says_is_the_next_request(gateway):
    head = f"PUT /files/n HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {helpers.KEY.replace(' ', '+')}\r\nContent-Length: 3\r\n\r\n".encode()
    found = helpers.answers(gateway.serve(head + b"abcGARBAGE\r\n\r\n").out)
    assert [answer.status for answer in found] == [201, 400] and gateway.client.files["/n"] == b"abc" and found[1].headers["connection"] == "close"


@pytest.mark.parametrize("headers, status", [({"X_Dfs_Copies": "0"}, 400), ({"X_Dfs_Copies": "17"}, 400), ({"X_Dfs_Copies": "x"}, 400), ({"X_Dfs_Mtime": "nan"}, 400),
                                             ({"X_Dfs_Mtime": "-1"}, 400), ({"Content_Encoding": "gzip"}, 400), ({"If_Match": '"6"'}, 412), ({"If_None_Match": '"7"'}, 412),
                                             ({"If_Unmodified_Since": "Mon, 13 Nov 2023 00:00:00 GMT"}, 412),
                                             ({"Content_Range": "bytes 0-4/5"}, 400), ({"Content_Range": "bytes x"}, 400)])
def test_puts_that_are_refused_before_anything_is_stored(gateway, headers, status):
    assert gateway.ask("PUT", "/files/a.txt", b"new", **headers).status == status
    assert gateway.client.files["/a.txt"] == b"hello world"


def test_a_put_to_a_file_that_has_not_changed_since_goes_through(gateway):
    assert gateway.ask("PUT", "/files/a.txt", b"new", If_Unmodified_Since="Tue, 14 Nov 2023 22:13:20 GMT").status == 200


@pytest.mark.parametrize("headers, expected", [
    ({}, None), ({"If_Match": '"7"'}, 7), ({"If_Match": "*"}, 7), ({"If_Match": '"3", "7"'}, 7), ({"If_None_Match": '"6"'}, None),
    ({"If_Unmodified_Since": "Tue, 14 Nov 2023 22:13:20 GMT"}, 7)])
def test_what_a_change_rests_on_is_looked_at_again_where_it_is_made(gateway, headers, expected):
    gateway.ask("PUT", "/files/a.txt", b"new", **headers)
    assert gateway.client.asked[-1][2]["expected_version"] == expected
    gateway.client.failure = None
    gateway.ask("DELETE", "/files/a.txt", **headers)
    assert gateway.client.asked[-1] == ("remove", "/a.txt", False, *(() if expected is None else (expected,)))


def test_who_came_second_is_told_that_it_changed(gateway):
    put = gateway.client.put

    def late(body, path, **options):
        put(body, path, **options)
        raise errors.VersionChanged(path=path, expected=7, found="version 8 is there")

    gateway.client.put = late
    answer = gateway.ask("PUT", "/files/a.txt", b"new", If_Match='"7"')
    assert answer.status == 412 and answer.json["error"] == "version_changed"


def test_a_put_needs_a_length_and_a_name(gateway):
    key = helpers.KEY.replace(" ", "+")
    bare = helpers.answers(gateway.serve(f"PUT /files/n HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {key}\r\n\r\n".encode()).out)
    assert bare[0].status == 411
    assert gateway.ask("PUT", "/files/n/", b"x").status == 400 and gateway.ask("PUT", "/files/d", b"x").status == 409


def test_no_clobber_and_going_on(gateway):
    gateway.ask("PUT", "/files/n", b"x", If_None_Match="*")
    assert gateway.client.asked[-1][2]["no_clobber"]
    gateway.ask("PUT", "/files/n", b"67890", Content_Range="bytes 5-9/10")
    assert (gateway.client.asked[-1][2]["size"], gateway.client.asked[-1][2]["start"]) == (10, 5)
    gateway.client.failure = errors.ResumeMismatch(path="/n", start=5, offset=4)
    answer = gateway.ask("PUT", "/files/n", b"67890", Content_Range="bytes 5-9/10")
    assert answer.status == 409 and answer.json["error"] == "resume_mismatch" and answer.json["offset"] == 4


def test_what_goes_on_says_which_file_it_is_of(gateway):
    for headers, query, mark in (({}, "", ""), ({"X_Dfs_Mtime": "1700000000"}, "&mtime=1700000000.0", "mtime 1700000000.000000"),
                                 ({"X_Dfs_Mtime": "1700000000.25"}, "&mtime=1700000000.25", "mtime 1700000000.250000")):
        gateway.ask("PUT", "/files/n", b"67890", Content_Range="bytes 5-9/10", **headers)
        assert gateway.client.asked[-1][2]["mark"] == mark
        assert gateway.ask("GET", f"/api/upload?path=/n&size=10{query}").json == {"offset": 1 << 24}
        assert gateway.client.asked[-1] == ("stored_of", "/n", 10, mark)
    assert gateway.ask("GET", "/api/upload?path=/n&size=10&mtime=soon").status == 400


def test_delete(gateway):
    assert gateway.ask("DELETE", "/files/d?recursive=1").status == 204 and gateway.client.asked[-1] == ("remove", "/d", True)
    assert gateway.ask("DELETE", "/files/a.txt").status == 204 and gateway.client.asked[-1] == ("remove", "/a.txt", False)
    assert gateway.ask("DELETE", "/files/a.txt", If_Match='"6"').status == 412 and gateway.ask("DELETE", "/files/?recursive=1").status == 403
    assert gateway.ask("PATCH", "/files/a.txt").status == 405


# -- who asks ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("target", ["/files/a.txt", "/api/session", "/api/list?path=/", "/api/status", "/api/events", "/api/throughput"])
def test_without_a_key_nothing_is_told(gateway, target):
    answer = gateway.ask("GET", target, key=None)
    assert answer.status == 401 and answer.json["error"] == "key_needed" and not gateway.made


def test_whoever_only_asks_whether_there_is_a_session_hears_that_there_is_none(gateway):
    assert gateway.ask("GET", "/api/session?optional=1", key=None).json == {"auth": "hmac", "user": None, "role": None, "home": None}
    assert not gateway.made
    assert gateway.ask("GET", "/api/session?optional=1").json["user"] == "anna"
    assert gateway.ask("GET", "/api/session?optional=1", key=None, Cookie="dfs_key_7080=nonsense").status == 401


def test_ways_to_give_a_key(gateway):
    basic = base64.b64encode(f"anyone:{helpers.KEY}".encode()).decode()
    for headers in ({"Authorization": f"Bearer {helpers.KEY.replace(' ', '+')}"}, {"Authorization": f"Basic {basic}"}, {"Authorization": f"bearer {helpers.KEY}"},
                    {"Cookie": f"x=y; dfs_key_7080={helpers.KEY.replace(' ', '+')}"}):
        assert gateway.ask("GET", "/api/session", key=None, **headers).json["user"] == "anna"
    assert {each.identity for each in gateway.made} == {"anna.1"} and len(gateway.made) == 1


@pytest.mark.parametrize("authorization", ["Bearer x", "Basic x", "Basic " + base64.b64encode(b"a:b").decode(), "Digest x", "Bearer dfs-node-keys-1+" + "ab" * 96])
def test_what_is_no_key(gateway, authorization):
    answer = gateway.ask("GET", "/api/session", key=None, Authorization=authorization)
    assert answer.status == 401 and answer.json["error"] == "bad_key"


def test_a_browser_on_a_file_is_asked_for_a_password_and_the_page_is_not(gateway):
    assert "www-authenticate" in gateway.ask("GET", "/files/", key=None).headers
    assert "www-authenticate" not in gateway.ask("GET", "/files/", key=None, X_Dfs="1").headers
    assert "www-authenticate" not in gateway.ask("GET", "/files/", key=None, Sec_Fetch_Mode="cors").headers
    assert "www-authenticate" not in gateway.ask("GET", "/api/session", key=None).headers


def test_the_session(gateway):
    answer = gateway.post("/api/session", {"key": helpers.KEY + "\n"}, key=None)
    assert answer.status == 200 and answer.json["role"] == "writer" and answer.json["user"] == "anna"
    assert answer.headers["set-cookie"] == f"dfs_key_7080={helpers.KEY.replace(' ', '+')}; Path=/; HttpOnly; SameSite=Strict"
    gateway.client.failure = errors.BadKey(address="m", detail="no")
    refused = gateway.post("/api/session", {"key": helpers.KEY}, key=None)
    assert refused.status == 401 and "set-cookie" not in refused.headers
    ended = gateway.ask("DELETE", "/api/session", X_Dfs="1", key=None)
    assert ended.headers["set-cookie"].startswith("dfs_key_7080=; ") and "Max-Age=0" in ended.headers["set-cookie"]


@pytest.mark.parametrize("host, name", [("gateway:7080", "dfs_key_7080"), ("gateway:7081", "dfs_key_7081"), ("[::1]:7082", "dfs_key_7082"), ("[::1]", "dfs_key"),
                                        ("gateway", "dfs_key"), ("gateway:", "dfs_key"), ("gateway:7;x=", "dfs_key"), ("gateway:123456", "dfs_key")])
def test_gateways_on_one_host_keep_sessions_of_their_own(gateway, host, name):
    """A browser sends both their cookies to both."""
    key = helpers.KEY.replace(" ", "+")
    begun = gateway.post("/api/session", {"key": helpers.KEY}, key=None, Host=host)
    assert begun.headers["set-cookie"].startswith(f"{name}={key}; ")
    both = "; ".join(f"{other}={key if other == name else 'of-another-gateway'}" for other in ("dfs_key", "dfs_key_7080", "dfs_key_7081", "dfs_key_7082"))
    assert gateway.ask("GET", "/api/session", key=None, Cookie=both, Host=host).status == 200


def test_a_key_that_opens_nothing_keeps_no_client(gateway):
    gateway.client.failure = errors.BadKey(address="m", detail="no")
    assert gateway.ask("GET", "/api/session").status == 401 and gateway.client.is_closed
    gateway.client.failure = None
    gateway.ask("GET", "/api/session")
    assert len(gateway.made) == 2


@pytest.mark.parametrize("headers, status", [
    ({"X_Dfs": "1"}, 200), ({"X_Dfs": "1", "Origin": "http://gateway:7080"}, 200), ({}, 403), ({"X_Dfs": "1", "Origin": "http://evil"}, 403),
    ({"X_Dfs": "1", "Origin": "null"}, 403), ({"X_Dfs": "1", "Origin": "http://gateway:7081"}, 403)])
def test_changes_from_other_sites_are_refused(gateway, headers, status):
    cookie = {"Cookie": f"dfs_key_7080={helpers.KEY.replace(' ', '+')}"}
    answer = gateway.post("/api/mkdir", {"path": "/new"}, key=None, **cookie, **headers)
    assert answer.status == status and ("/new" in gateway.client.files) == (status == 200)
    for method, target in (("PUT", "/files/n"), ("DELETE", "/files/a.txt"), ("DELETE", "/api/session")):
        found = gateway.ask(method, target, b"x" if method == "PUT" else b"", key=None, **cookie, **headers)
        assert (found.status == 403) == (status == 403)


@pytest.mark.parametrize("host, status", [("localhost:7080", 200), ("127.0.0.1:7080", 200), ("127.0.0.2", 200), ("[::1]:7080", 200), ("LOCALHOST", 200),
                                          ("evil.example:7080", 403), ("evil.localhost.example", 403), ("10.0.0.1:7080", 403), ("[fe80::1]", 403)])
def test_without_keys_on_loopback_no_name_of_another_site_will_do(host, status):
    for is_local, wanted in ((True, status), (False, 200)):
        gateway = helpers.Gateway(insecure=True, is_local=is_local)
        gateway.client.files["/a.txt"] = b"hello"
        found, = helpers.answers(gateway.serve(f"GET /files/a.txt HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()).out)
        assert found.status == wanted


def test_without_keys_the_browser_tells_sites_apart():
    gateway = helpers.Gateway(insecure=True)
    assert gateway.post("/api/mkdir", {"path": "/a"}, key=None).status == 200  # no browser: a program
    assert gateway.post("/api/mkdir", {"path": "/b"}, key=None, Sec_Fetch_Site="same-origin").status == 200
    assert gateway.post("/api/mkdir", {"path": "/c"}, key=None, Sec_Fetch_Site="cross-site").status == 403
    assert gateway.post("/api/mkdir", {"path": "/c"}, key=None, Origin="http://evil").status == 403
    assert "/c" not in gateway.client.files


@pytest.mark.parametrize("host, status", [
    ("127.0.0.1:7080", 200), ("127.0.0.1", 200), ("[::1]:7080", 200), ("localhost:7080", 200), ("page.localhost", 200), ("", 200),
    ("evil.example:7080", 403), ("127.0.0.1.evil.example", 403), ("localhost.evil.example", 403), ("gateway:7080", 403), ("0x7f.1", 403)])
def test_without_keys_no_other_name_leads_here(host, status):
    """A page whose name was made to point to 127.0.0.1 is our own site to its browser, headers and all."""
    gateway, own = helpers.Gateway(insecure=True, is_local=True), {"Host": host, "Sec_Fetch_Site": "same-origin"}
    if host:
        own["Origin"] = f"http://{host}"
    for method, target in (("GET", "/files/"), ("GET", "/api/list?path=/"), ("PUT", "/files/n")):
        answer = gateway.ask(method, target, b"x" if method == "PUT" else b"", key=None, **own)
        assert answer.status == 403 if status == 403 else answer.status < 300
    assert ("/n" in gateway.client.files) == (status == 200)
    elsewhere = helpers.Gateway(insecure=True)
    assert elsewhere.ask("GET", "/files/", key=None, Host="files.example").status == 200, "somebody insisted, and goes by a name"


def test_a_pattern_is_no_longer_than_a_name(gateway):
    """What it costs to read one grows with the square of its length: 30,000 brackets took minutes."""
    assert gateway.ask("GET", "/api/find?path=/&name=" + "[" * 255).status == 200
    assert gateway.ask("GET", "/api/find?path=/&name=" + "[" * 256).status == 400


def test_what_the_master_forbids(gateway):
    gateway.client.failure = errors.NotPermitted("anna is a reader")
    assert gateway.ask("PUT", "/files/n", b"x").status == 403 and gateway.ask("DELETE", "/files/a.txt").status == 403


# -- questions --------------------------------------------------------------------------------------------------------
def test_list_by_pages(gateway):
    first = gateway.ask("GET", "/api/list?path=/&limit=2").json
    assert [entry["name"] for entry in first["entries"]] == ["a.txt", "d"] and first["next"] == "d"
    assert gateway.ask("GET", "/api/list?path=/&limit=2&after=d").json["next"] is None
    for target in ("/api/list?path=/&limit=x", "/api/list?path=../x", "/api/list?path=/&limit=-1"):
        assert gateway.ask("GET", target).status == 400


def test_stat_find_usage_upload_why(gateway):
    gateway.client.status_answer = helpers.cluster_status([helpers.keeper(1)])
    blocks = gateway.ask("GET", "/api/stat?path=/a.txt").json["blocks"]
    assert blocks[0]["keepers"] == [{"keeper_id": "11" * 16, "name": "k1"}, {"keeper_id": "22" * 16, "name": "22222222"}]
    assert [entry["path"] for entry in gateway.ask("GET", "/api/find?path=/&name=PNG").json["entries"]] == ["/d/x.png"]
    assert gateway.ask("GET", "/api/find?path=/&name=*.png").json == {"entries": gateway.ask("GET", "/api/find?path=/&name=x.png").json["entries"], "truncated": False}
    assert gateway.ask("GET", "/api/find?path=/&name=*&limit=2").json["truncated"]
    assert gateway.ask("GET", "/api/usage?path=/").json["bytes"] == 30
    assert gateway.ask("GET", "/api/upload?path=/n&size=99999999").json == {"offset": 1 << 24}
    assert gateway.ask("GET", "/api/why?path=/a.txt").json == {"about": "it", "sentences": ["k1 is dead", "soon"], "next_try_s": 2.0}
    assert gateway.ask("GET", "/api/why?keeper=k1").status == 200 and gateway.client.asked[-1].keeper == "11" * 16
    assert gateway.ask("GET", "/api/why?keeper=k9").status == 404 and gateway.ask("GET", "/api/why").status == 400


def test_changes(gateway):
    assert gateway.post("/api/rename", {"from": "/a", "to": "/b"}).json == {"ok": True} and gateway.client.asked[-1] == ("rename", "/a", "/b", True)
    gateway.post("/api/rename", {"from": "/a", "to": "/b", "replace": True})
    assert gateway.client.asked[-1] == ("rename", "/a", "/b", False)
    assert gateway.post("/api/copies", {"path": "/a", "copies": 2}).status == 200 and gateway.client.asked[-1] == ("copies", "/a", 2)
    for target, value in (("/api/copies", {"path": "/a", "copies": 0}), ("/api/copies", {"path": "/a", "copies": True}), ("/api/mkdir", {"path": 5}), ("/api/mkdir", []),
                          ("/api/mkdir", {}), ("/api/rename", {"from": "/a"})):
        assert gateway.post(target, value).status == 400
    assert gateway.ask("POST", "/api/mkdir", b"{", Content_Type="application/json").status == 400
    assert gateway.ask("POST", "/api/mkdir", b"[" * 50_000, Content_Type="application/json").status == 400
    assert gateway.ask("POST", "/api/mkdir", b'{"path":"/x"}', Content_Type="text/plain").status == 400
    assert gateway.ask("POST", "/api/mkdir", b"x" * 70_000, Content_Type="application/json").status == 413
    assert gateway.ask("GET", "/api/mkdir").status == 405


def test_status_has_a_verdict(gateway):
    gateway.client.status_answer = helpers.cluster_status([helpers.keeper(1), helpers.keeper(2, "dead")], under_replicated=1)
    answer = gateway.ask("GET", "/api/status").json
    assert answer["verdict"] == {"level": "warning", "sentence": "nothing is lost; 1 block is short of copies: k2 is dead"} and answer["keepers"][1]["state"] == "dead"


def test_join_is_for_administrators(gateway):
    assert gateway.ask("GET", "/api/join").status == 403
    gateway.client.role = "admin"
    assert gateway.ask("GET", "/api/join").json == {"command": "dfs keeper --data DIR --master 10.0.0.1:7000 --join CODE", "expires_s": None}


# -- the page and monitoring ------------------------------------------------------------------------------------------
def test_static_files(gateway):
    page = gateway.ask("GET", "/", key=None)
    assert page.body == b"<p>page</p>" and page.headers["content-type"] == "text/html; charset=utf-8" and "script-src 'self'" in page.headers["content-security-policy"]
    assert gateway.ask("GET", "/", key=None, If_None_Match=page.headers["etag"]).status == 304
    assert gateway.ask("GET", "/app.js", key=None).headers["content-type"] == "text/javascript; charset=utf-8"
    for target in ("/../app.js", "/%2e%2e/app.js", "/static/../app.js", "/nothing", "/index.html%00"):
        assert gateway.ask("GET", target, key=None).status == 404
    assert gateway.ask("POST", "/", b"x", key=None).status == 405


def test_monitoring_open_or_closed(gateway):
    assert gateway.ask("GET", "/healthz", key=None).json == {"status": "ok"} and gateway.ask("GET", "/readyz", key=None).status == 200
    gateway.client.failure = errors.ConnectFailed(address="10.0.0.1:7000", detail="refused")
    assert gateway.ask("GET", "/readyz", key=None).status == 503 and gateway.ask("GET", "/healthz", key=None).status == 200
    gateway.client.failure = errors.BadKey(address="m", detail="no")
    assert gateway.ask("GET", "/readyz", key=None).status == 200  # it has no key of its own: a master that refuses it is there
    assert gateway.ask("GET", "/metrics", key=None).headers["content-type"].startswith("text/plain; version=0.0.4")
    closed = helpers.Gateway(metrics="key")
    assert closed.ask("GET", "/metrics", key=None).status == 401 and closed.ask("GET", "/metrics").status == 200


# -- connections ------------------------------------------------------------------------------------------------------
def test_requests_in_a_row_and_pipelined(gateway):
    one = f"GET /files/a.txt HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {helpers.KEY.replace(' ', '+')}\r\n\r\n".encode()
    put = one.replace(b"GET /files/a.txt", b"PUT /files/p").replace(b"\r\n\r\n", b"\r\nContent-Length: 3\r\n\r\n") + b"abc"
    data = one + put + one.replace(b"a.txt", b"p")
    for size in (1, 7, len(data)):
        connection = gateway.serve(*[data[at:at + size] for at in range(0, len(data), size)])
        assert [answer.body[:3] for answer in helpers.answers(connection.out)] == [b"hel", b'{"p', b"abc"]
        assert connection.was_known


def test_an_answer_leaves_in_one_system_call(gateway):
    connection = gateway.serve(b"GET /app.js HTTP/1.1\r\nHost: h\r\n\r\n")
    assert connection.n_sends == 1 and helpers.answers(connection.out)[0].body == b"let a"


def test_a_body_nobody_asked_for_does_not_become_a_request(gateway):
    smuggled = b"GET /healthz HTTP/1.1\r\nHost: h\r\n\r\n"
    head = f"GET /app.js HTTP/1.1\r\nHost: h\r\nContent-Length: {len(smuggled)}\r\n\r\n".encode()
    assert [answer.body for answer in helpers.answers(gateway.serve(head + smuggled).out)] == [b"let a"]


def test_what_is_no_request_ends_the_connection(gateway):
    connection = gateway.serve(b"GET / HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET / HTTP/1.1\r\nHost: h\r\n\r\n")
    found = helpers.answers(connection.out)
    assert [answer.status for answer in found] == [400] and found[0].headers["connection"] == "close" and connection.lingered and not connection.was_known


def test_a_head_that_does_not_come_in_time(gateway):
    class Slow(helpers.Connection):
        def receive_into(self, view):
            gateway.clock_s += 4
            return super().receive_into(view)

    connection = Slow(*[bytes([byte]) for byte in b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"])
    helpers.server.Service(gateway.app.handle, gateway.telemetry, clock=lambda: gateway.clock_s, now=lambda: helpers.NOW).serve(connection)
    assert [answer.status for answer in helpers.answers(connection.out)] == [408]
    quiet = Slow(silent=True)
    helpers.server.Service(gateway.app.handle, gateway.telemetry, clock=lambda: gateway.clock_s, now=lambda: helpers.NOW).serve(quiet)
    assert not quiet.out  # it has asked nothing: closed without a word


def test_http_1_0(gateway):
    connection = gateway.serve(f"GET /files/d HTTP/1.0\r\nAuthorization: Bearer {helpers.KEY.replace(' ', '+')}\r\n\r\n".encode())
    answer = helpers.answers(connection.out)[0]
    assert answer.headers["connection"] == "close" and "transfer-encoding" not in answer.headers and len(json.loads(answer.body)["entries"]) == 3


def test_a_download_that_the_client_leaves_is_no_bug(gateway, caplog):
    gateway.serve(f"GET /files/a.txt HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {helpers.KEY.replace(' ', '+')}\r\n\r\n".encode(), breaks_after=100)
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


# -- clients ----------------------------------------------------------------------------------------------------------
def test_idle_clients_beyond_the_limit_are_closed_and_busy_ones_are_not():
    made = []

    def make(addresses, settings, credentials, insecure):
        made.append(helpers.Client())
        return made[-1]

    clients = access.Clients((), None, False, most=2, make=make)
    with clients.of("a"), clients.of("b"):
        with clients.of("c"):
            assert not any(client.is_closed for client in made)
        assert [client.is_closed for client in made] == [False, False, True]
    with clients.of("d"):
        assert [client.is_closed for client in made] == [True, False, True, False]
    clients.close()
    assert all(client.is_closed for client in made)
    with pytest.raises(errors.Busy):
        clients.of("a")
