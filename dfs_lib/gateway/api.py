"""`/api/…`: what the page and scripts ask in JSON. Each row of ROUTES is one question.

Never decides who may: it asks with the key that came along, and the master answers.
"""

import json

from dfs_lib import __version__, cluster_state, errors, model
from dfs_lib.gateway import access, files, http, listing, shapes
from dfs_lib.wire import messages

MAX_BODY = 64 << 10
FIND_MOST, FIND_LOOKS_AT = 1000, 200_000
# Characters of a pattern: no name is longer, and what a pattern costs to read grows with the square of its length.
FIND_PATTERN = 255


# -- what comes in ----------------------------------------------------------------------------------------------------
def asked(exchange):
    """The JSON object in the body."""
    kind = exchange.header("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise http.HttpError(400, "bad_request", "the body is to be JSON, and Content-Type to say so")
    try:
        value = json.loads(exchange.body.read_all(MAX_BODY))
    except (ValueError, RecursionError) as e:
        raise http.HttpError(400, "bad_request", "the body is no JSON") from e
    if not isinstance(value, dict):
        raise http.HttpError(400, "bad_request", "the body is no JSON object")
    return value


def _text(values, name, default=None):
    value = values.get(name, default)
    if not isinstance(value, str):
        raise http.HttpError(400, "bad_request", f"{name} is missing, or is no text")
    return value


def _number(values, name, default, most):
    value = values.get(name, default)
    try:
        if isinstance(value, (bool, float)) or isinstance(value, str) and not value.isascii():
            raise ValueError
        number = int(value)
    except (ValueError, TypeError) as e:
        raise http.HttpError(400, "bad_request", f"{name} is missing, or is no whole number") from e
    if not 0 <= number <= most:
        raise http.HttpError(400, "bad_request", f"{name} goes from 0 to {most}")
    return number


# -- names ------------------------------------------------------------------------------------------------------------
def list_directory(exchange, client):
    query = exchange.query
    path = model.clean_path(_text(query, "path", "/"))
    limit = max(1, min(_number(query, "limit", listing.MAX_LIMIT, 1 << 31), listing.MAX_LIMIT))
    entries, after = listing.page(client, path, query.get("after") or None, limit)
    exchange.answer_json(200, {"path": path, "entries": [shapes.entry_record(entry) for entry in entries], "next": after})


def stat(exchange, client):
    found = client.stat(model.clean_path(_text(exchange.query, "path")), blocks=True)
    names = {keeper["keeper_id"]: keeper["name"] for keeper in client.status().keepers} if found.get("blocks") else {}
    exchange.answer_json(200, shapes.stat_record(found, names))


def find(exchange, client):
    """Names below a path. It looks at so many at most, and says so when it has not seen all."""
    import re
    from fnmatch import translate

    path, name = model.clean_path(_text(exchange.query, "path", "/")), _text(exchange.query, "name")
    if len(name) > FIND_PATTERN:
        raise http.HttpError(400, "bad_request", f"no name is longer than {FIND_PATTERN} characters, and so is no pattern")
    limit = max(1, min(_number(exchange.query, "limit", 200, 1 << 31), FIND_MOST))
    pattern = name if any(character in name for character in "*?[") else f"*{name}*"
    fits = re.compile(translate(pattern.casefold())).match
    found, n_seen, truncated = [], 0, False
    for entry in client.walk(path):
        n_seen += 1
        if fits(model.parent_and_name(entry.path)[1].casefold()):
            if len(found) == limit:
                truncated = True
                break
            found.append(shapes.entry_record(entry))
        if n_seen >= FIND_LOOKS_AT:
            truncated = True
            break
    exchange.answer_json(200, {"entries": found, "truncated": truncated})


def usage(exchange, client):
    used = client.usage(model.clean_path(_text(exchange.query, "path", "/")))
    exchange.answer_json(200, {"files": used.files, "directories": used.directories, "bytes": used.size, "stored": used.stored})


def mkdir(exchange, client):
    values = asked(exchange)
    client.mkdir(_text(values, "path"), parents=values.get("parents") is True)
    exchange.answer_json(200, {"ok": True})


def rename(exchange, client):
    values = asked(exchange)
    client.rename(_text(values, "from"), _text(values, "to"), no_clobber=values.get("replace") is not True)
    exchange.answer_json(200, {"ok": True})


def copies(exchange, client):
    values = asked(exchange)
    number = _number(values, "copies", None, model.MAX_COPIES)
    if not number:
        raise http.HttpError(400, "bad_request", f"copies go from 1 to {model.MAX_COPIES}")
    client.set_copies(_text(values, "path"), number)
    exchange.answer_json(200, {"ok": True})


def upload(exchange, client):
    size = _number(exchange.query, "size", None, model.MAX_FILE_SIZE)
    mark = files.mark_of(files.mtime_of(exchange.query.get("mtime")))
    exchange.answer_json(200, {"offset": client.stored_of(_text(exchange.query, "path"), size, files.block_size_of(size), mark)})


# -- the cluster ------------------------------------------------------------------------------------------------------
def status(exchange, client):
    exchange.answer_json(200, cluster_state.status_record(client.status(), client.traffic()))


def why(exchange, client):
    path, keeper = exchange.query.get("path"), exchange.query.get("keeper")
    if (path is None) == (keeper is None):
        raise http.HttpError(400, "bad_request", "name a path or a keeper")
    if keeper is not None:
        keeper = next((each["keeper_id"] for each in client.status().keepers if keeper in (each["name"], each["keeper_id"])), None)
        if keeper is None:
            raise errors.NoSuchKeeper(keeper=exchange.query["keeper"])
    answer = client.ask(messages.Why(path=None if path is None else model.clean_path(path), keeper=keeper))
    soon = [reason["next_try_s"] for reason in answer.reasons if reason["next_try_s"] is not None]
    exchange.answer_json(200, {"about": answer.about, "sentences": [reason["text"] for reason in answer.reasons],
                               "next_try_s": min(soon) if soon else None})


def join(exchange, client):
    """The command that adds a keeper. GET says it with a gap where the code goes; POST makes the code, which is good once."""
    me = identity(exchange, client)
    if me["role"] != "admin":
        raise errors.NotPermitted("adding a keeper needs an administrator")
    code, lapses_s = "CODE", None
    if exchange.request.method == "POST":
        exchange.body.read_all(MAX_BODY)
        from dfs_lib.client import admin

        code, lapses_s = admin.invite(client)
    host, port = client.master_address
    host = f"[{host}]" if ":" in host else host
    exchange.answer_json(200, {"command": f"dfs keeper --data DIR --master {host}:{port} --join {code}", "expires_s": lapses_s})


# -- who asks ---------------------------------------------------------------------------------------------------------
def identity(exchange, client):
    """Who the key of this client belongs to, as GET /api/session says it; encrypted: whether this very connection is."""
    answer = client.ask_identity()
    return {"auth": client.credentials.auth, "user": answer.name, "role": answer.role, "home": answer.home, "cluster_id": client.cluster_id,
            "software": __version__, "encrypted": exchange.is_encrypted}


def session(exchange, client):
    exchange.answer_json(200, identity(exchange, client))


def begin_session(exchange, clients):
    """The key of the body becomes a cookie that no script can read, if it opens anything."""
    line = access.plain(_text(asked(exchange), "key"))
    with clients.of(access.credentials(line)) as client:
        answer = identity(exchange, client)
    exchange.answer_json(200, answer, [_cookie(exchange, line.replace(" ", "+"))])


def end_session(exchange):
    exchange.answer_json(200, {"ok": True}, [_cookie(exchange, "", "; Max-Age=0")])


def _cookie(exchange, value, more=""):
    return "Set-Cookie", f"{access.cookie_name(exchange)}={value}; Path=/; HttpOnly; SameSite=Strict{'; Secure' if exchange.is_encrypted else ''}{more}"


# path below /api/: {method: handler(exchange, client)}
ROUTES = {
    "session": {"GET": session},
    "list": {"GET": list_directory}, "stat": {"GET": stat}, "find": {"GET": find}, "usage": {"GET": usage}, "upload": {"GET": upload},
    "mkdir": {"POST": mkdir}, "rename": {"POST": rename}, "copies": {"POST": copies},
    "status": {"GET": status}, "why": {"GET": why}, "join": {"GET": join, "POST": join},
}
