"""Users, roles, homes, join codes and the audit log, as the master's service sees them."""

import json
import logging

import pytest
from master_helpers import KEYRING, Client, World

from dfs_lib import cluster_state, errors
from dfs_lib.master import permissions, users
from dfs_lib.wire import messages, trust

NONCE = "ab" * 32


@pytest.fixture
def world(tmp_path):
    world = World(str(tmp_path), n_keepers=2)
    yield world
    world.close()


def add(world, name, role, home="/", **more):
    return world.ask(messages.AddUser(name=name, role=role, home=home, nonce=NONCE, op=f"add {name}"), **more)


def test_the_key_shown_is_the_one_that_opens(world):
    shown = add(world, "anna", "writer", "/anna")
    key = trust.covered(KEYRING.secret_for("client", "admin"), NONCE, bytes.fromhex(shown.key))
    assert key == KEYRING.secret_for("client", shown.identity) and shown.key != key.hex()
    assert (shown.role, shown.home) == ("writer", "/anna") and shown.identity.startswith("anna.")
    assert add(world, "anna", "writer", "/anna") == shown, "the same request again"
    with pytest.raises(errors.UserExists):
        world.ask(messages.AddUser(name="anna", role="reader", home="/", nonce=NONCE, op="other"))


def test_the_catalog_holds_no_secret(world, tmp_path):
    shown = add(world, "anna", "writer")
    secret = KEYRING.secret_for("client", shown.identity)
    world.close()
    for path in tmp_path.iterdir():
        data = path.read_bytes()
        assert secret not in data and secret.hex().encode() not in data and shown.key.encode() not in data
    world.boot()


@pytest.mark.parametrize("name", ["", "admin", "Anna", "a.b", "a b", "-a", "a" * 33, "ä"])
def test_bad_names(world, name):
    if len(name) > 32:
        with pytest.raises(errors.BadMessage):
            add(world, name, "reader")
        return
    with pytest.raises(errors.BadName):
        add(world, name, "reader")


def test_rotate_and_remove_take_effect_at_once(world):
    first = add(world, "anna", "reader").identity
    world.ask(messages.Ping(), identity=first)
    second = world.ask(messages.RotateUser(name="anna", nonce=NONCE, op="r")).identity
    assert second != first
    with pytest.raises(errors.NotPermitted) as caught:
        world.ask(messages.Ping(), identity=first)
    assert caught.value.status == 6 and "newer key" in caught.value.message
    world.ask(messages.Ping(), identity=second)
    world.ask(messages.RemoveUser(name="anna", op="d"))
    with pytest.raises(errors.NotPermitted):
        world.ask(messages.Ping(), identity=second)
    third = add_again(world)
    assert len({first, second, third}) == 3, "a name that comes back is somebody else"
    for name in ("RotateUser", "RemoveUser"):
        rest = {"nonce": NONCE} if name == "RotateUser" else {}
        with pytest.raises(errors.NoSuchUser):
            world.ask(getattr(messages, name)(name="nobody", op=name, **rest))


def add_again(world):
    return world.ask(messages.AddUser(name="anna", role="reader", home="/", nonce=NONCE, op="again")).identity


def test_users_outlive_a_restart_and_are_listed(world):
    identities = [add(world, f"u{n:03d}", "reader").identity for n in range(130)]
    world.restart()
    first = world.ask(messages.ListUsers())
    rest = world.ask(messages.ListUsers(after=first.users[-1]["name"]))
    assert first.more and not rest.more and [one["identity"] for one in first.users + rest.users] == identities
    world.ask(messages.Ping(), identity=identities[0])


def test_keepers_hear_whose_tickets_are_void_and_forget_it_later(world):
    was = add(world, "anna", "writer").identity
    world.ask(messages.RemoveUser(name="anna", op="d"))

    def told():
        return world.tracker.users.refused(world.tracker.tick)

    assert told() == world.keepers[1].notify().refused_users == [trust.user_digest(was).hex()]
    world.now += 2000
    assert told() == []


def test_too_many_void_users_roll_the_ticket_key(world):
    table = world.tracker.users
    for n in range(messages.MAX_REFUSED_USERS):
        assert table.void(f"u.{n}", world.tracker.tick)
    add(world, "anna", "writer")
    before = world.tracker.ticket_key_id
    world.ask(messages.RemoveUser(name="anna", op="d"))
    assert world.tracker.ticket_key_id == before + 2


def test_the_ticket_key_rolls_with_time(world):
    def key_id():
        text, _serial = world.tracker.read_ticket("a" * 32, "b" * 32, 1, "admin")
        return trust.read_ticket(KEYRING.ticket, text).key_id

    assert key_id() == 0
    world.now += 36_000
    assert key_id() == 1


# -- roles and homes --------------------------------------------------------------------------------------------------
UPLOAD = {"path": "/anna/f", "size": 1, "copies": None, "safe": None, "block_size": None, "mtime_at": 0.0, "no_clobber": False,
          "parents": True, "resume": False, "version": None}


def opening(path):
    return messages.OpenUpload(uploads=[{**UPLOAD, "path": path}])


READS = [messages.Ping(), messages.Status(), messages.Stat(paths=["/"], blocks=False), messages.List(path="/", limit=10, have=False),
         messages.Usage(path="/"), messages.OpenDownload(files=[{"path": "/anna", "version": None, "first": 0, "n": 1}])]
WRITES = [opening("/x"), messages.MakeDirectory(path="/x", parents=False, op="1"), messages.Remove(path="/x", recursive=True, op="2"),
          messages.Rename(source="/x", target="/y", no_clobber=False, op="3"), messages.Copy(source="/x", target="/y", no_clobber=False, op="4"),
          messages.SetCopies(path="/x", copies=1, op="5"), messages.RecordSum(version=1, sha256="0" * 64),
          messages.GrantBlocks(upload="0" * 32, indexes=[0]), messages.CommitUpload(commits=[{"upload": "0" * 32, "size": 0, "blocks": []}]),
          messages.AbandonUpload(upload="0" * 32, keep=False)]
ADMINISTRATION = [messages.Scrub(keepers=[], start=True), messages.Rebalance(dry_run=True, start=False), messages.Invite(nonce=NONCE),
                  messages.AddUser(name="eve", role="admin", home="/", nonce=NONCE, op="6"), messages.ListUsers(),
                  messages.RemoveUser(name="eve", op="7"), messages.RotateUser(name="eve", nonce=NONCE, op="8")]


def test_a_home_itself_stays(world):
    world.ask(messages.MakeDirectory(path="/anna", parents=True, op="m"))
    anna = world.ask(messages.AddUser(name="anna", role="writer", home="/anna", nonce=NONCE, op="h")).identity
    with pytest.raises(errors.NotPermitted, match="may change what is in /anna, and not /anna itself"):
        world.ask(messages.Remove(path="/anna", recursive=True, op="r"), identity=anna)


def is_let_through(world, message, identity):
    try:
        world.ask(message, identity=identity)
    except errors.NotPermitted as e:
        assert e.code == "not_permitted" and e.status == 6 and " " in e.message
        assert type(message).__name__ not in e.message, "people have never heard of messages"
        return False
    except errors.DfsError:
        pass  # let through to a handler that had another reason
    return True


@pytest.mark.parametrize("role, n_kinds", [("reader", 1), ("writer", 2), ("admin", 3)])
def test_roles(world, role, n_kinds):
    identity = add(world, "somebody", role).identity
    before = len(world.queries().listing("/", "", 100)[0])
    for level, kind in enumerate((READS, WRITES, ADMINISTRATION)):
        for message in kind:
            assert is_let_through(world, message, identity) == (level < n_kinds), f"{role} asks {message}"
    if role == "reader":
        assert len(world.queries().listing("/", "", 100)[0]) == before and len(world.tracker.users.all()) == 1
        assert world.tracker.counters()["requests_not_permitted"] == len(WRITES) + len(ADMINISTRATION)


def test_what_nobody_thought_about_is_for_administrators():
    unknown = [cls for cls in messages.BY_CODE.values() if cls.kind == "request" and messages.CLIENT in cls.who
               and cls not in permissions.RULES]
    assert messages.AddUser in unknown
    checker = permissions.Permissions(type("Tracker", (), {"clock": staticmethod(lambda: 0.0)}))
    for cls in unknown:
        message = cls.__new__(cls)
        for field in cls.known:
            setattr(message, field, None)
        assert checker.rule(message).role == permissions.ADMIN
    for start in (False, True):
        assert checker.rule(messages.Scrub(keepers=[], start=start)).changes is start


INSIDE = [messages.MakeDirectory(path="/anna", parents=True, op="1"), opening("/anna/f"), messages.Stat(paths=["/anna", "/", "/anna/"], blocks=False),
          messages.List(path="/anna/", limit=5, have=False), messages.Remove(path="/anna/x", recursive=False, op="2"),
          messages.Rename(source="/anna/x", target="/anna/y", no_clobber=False, op="3"), messages.Usage(path="/anna")]
OUTSIDE = [messages.MakeDirectory(path="/annab", parents=True, op="1"), opening("/f"), opening("/anna"), messages.Stat(paths=["/anna", "/bob"], blocks=False),
           messages.Stat(paths=["/annab"], blocks=False), messages.List(path="/", limit=5, have=False), messages.Remove(path="/anna", recursive=True, op="2"),
           messages.Rename(source="/anna/x", target="/y", no_clobber=False, op="3"), messages.Rename(source="/x", target="/anna/y", no_clobber=False, op="4"),
           messages.Rename(source="/anna", target="/anna/y", no_clobber=False, op="5"), messages.Copy(source="/bob/x", target="/anna/x", no_clobber=False, op="6"),
           messages.Usage(path="/"), messages.SetCopies(path="/bob/x", copies=2, op="7"),
           messages.OpenDownload(files=[{"path": "/bob/x", "version": None, "first": 0, "n": 1}])]


@pytest.mark.parametrize("message, good", [(message, True) for message in INSIDE] + [(message, False) for message in OUTSIDE], ids=repr)
def test_homes(world, message, good):
    identity = add(world, "anna", "writer", "/anna").identity
    assert is_let_through(world, message, identity) is good


def test_a_version_is_no_way_around_a_home(world):
    """A download names a path and a version: the version's own path is what counts."""
    Client(world, "c9").put("/bob", 5)
    version = world.queries().entry("/bob").version
    identity = add(world, "anna", "writer", "/anna").identity
    assert not is_let_through(world, messages.OpenDownload(files=[{"path": "/anna/f", "version": version, "first": 0, "n": 1}]), identity)
    assert not is_let_through(world, messages.RecordSum(version=version, sha256="0" * 64), identity)
    assert is_let_through(world, messages.OpenDownload(files=[{"path": "/bob", "version": version, "first": 0, "n": 1}]),
                          add(world, "rita", "reader").identity)


# -- the audit log ----------------------------------------------------------------------------------------------------
def test_audit(world, caplog):
    caplog.set_level(logging.INFO, "dfs.audit")
    identity = add(world, "rita", "reader").identity
    world.ask(messages.MakeDirectory(path="/new\\n", parents=False, op="1"))
    with pytest.raises(errors.FileExists):
        world.ask(messages.MakeDirectory(path="/new\\n", parents=False, op="2"))
    for _ in range(3):
        is_let_through(world, messages.Remove(path="/new", recursive=False, op="3"), identity)
    world.ask(messages.Ping(), identity=identity)
    lines = [record.getMessage() for record in caplog.records if record.name == "dfs.audit"]
    assert len(lines) == 4 and all("from=client" in line for line in lines)
    assert "who=admin" in lines[0] and "AddUser" in lines[0] and lines[0].endswith("result=done") and NONCE not in lines[0]
    assert "MakeDirectory" in lines[1] and '"/new' in lines[1] and lines[2].endswith("result=exists")
    assert f"who={identity}" in lines[3] and "what=Remove result=not_permitted reason=rita is a reader" in lines[3]


@pytest.mark.parametrize("path", ["/plain", '/a "quoted"\\ ü\U0001f600 name', "/" + "ü" * 2000])
def test_the_audit_line_of_a_commit_is_what_json_says(path):
    published = {"path": path, "version": 5 << 32, "size": 0}
    said = json.dumps(dict(sorted(published.items())))
    assert permissions._committed("CommitUpload", published) == "CommitUpload " + said[:permissions._LONGEST]
    assert permissions._committed("CommitUpload", {"path": path, "rejected": [0]}) == f"CommitUpload {json.dumps({'path': path})[:permissions._LONGEST]}"


# -- join codes -------------------------------------------------------------------------------------------------------
def test_join_codes_are_good_once_and_lapse():
    now = [0.0]
    table = users.Invitations(lambda: now[0])
    name, secret = table.make()
    assert table.secret_for(name) == trust.join_secret(name, secret) and table.secret_for("00000000") is None
    table.use(name)
    assert table.secret_for(name) is None
    with pytest.raises(errors.BadJoinCode):
        table.use(name)
    late, _secret = table.make()
    now[0] = users.INVITATION_S
    assert table.secret_for(late) is None
    for _ in range(users.MAX_INVITATIONS):
        table.make()
    with pytest.raises(errors.Busy):
        table.make()


def test_an_invitation_is_readable_for_its_asker_alone(world):
    invited = world.ask(messages.Invite(nonce=NONCE))
    secret = trust.covered(KEYRING.secret_for("client", "admin"), NONCE + invited.name, bytes.fromhex(invited.secret))
    assert world.tracker.invitations.secret_for(invited.name) == trust.join_secret(invited.name, secret)


def test_requests_at_work_have_a_ceiling(tmp_path):
    world = World(str(tmp_path), max_requests=1)
    with world.tracker.requests, pytest.raises(errors.Busy):
        world.ask(messages.Ping())
    world.ask(messages.Ping())
    assert world.tracker.counters()["requests_refused"] == 1
    world.close()


def test_a_page_of_a_listing_has_a_ceiling(tmp_path):
    world = World(str(tmp_path), max_entries=2)
    for n in range(3):
        world.ask(messages.MakeDirectory(path=f"/d{n}", parents=False, op=str(n)))
    page = world.ask(messages.List(path="/", limit=100, have=False))
    assert len(page.entries) == 2 and page.more
    world.close()


# -- what answers name by themselves --------------------------------------------------------------------------------------------
@pytest.fixture
def short(world):
    """Files of anna and of bob whose repair waits, one block that both have, and anna's identity."""
    client = Client(world)
    for path in ("/anna", "/bob"):
        world.ask(messages.MakeDirectory(path=path, parents=False, op=path))
    client.put("/bob/plans", copies=3)
    client.put("/anna/diary", copies=3)
    client.put("/bob/shared", copies=3)
    world.ask(messages.Copy(source="/bob/shared", target="/anna/shared", no_clobber=False, op="cp"))
    world.steps(3)
    return add(world, "anna", "reader", "/anna").identity


def test_status_names_no_path_outside_the_home(world, short):
    world.tracker.alarm("sum-1", "/bob/plans: damaged", "a file: damaged")
    everybody, anna = (world.ask(messages.Status(), identity=identity) for identity in ("admin", short))
    assert {one["path"] for one in everybody.waiting} == {"/bob/plans", "/anna/diary", "/bob/shared"} and "/bob/plans: damaged" in everybody.alarms
    assert {one["path"] for one in anna.waiting} == {"/anna/diary", "/anna/shared"} and "a file: damaged" in anna.alarms
    assert "/bob" not in str(anna.to_header()) and anna.under_replicated == everybody.under_replicated == 3


def test_copies_under_way_are_named_within_the_home(world, short):
    world.keeper()
    blocks = {path: world.blocks_of(path)[0] for path in ("/bob/plans", "/anna/diary", "/anna/shared")}
    world.repairer.under_way = lambda most: [(block, 10, 1, (3,)) for block in blocks.values()]
    everybody, anna = (world.ask(messages.Status(), identity=identity) for identity in ("admin", short))
    assert [one["path"] for one in everybody.repairs] == ["/bob/plans", "/anna/diary", "/bob/shared"]
    assert [one["path"] for one in anna.repairs] == ["/anna/diary", "/anna/shared"]


def test_fsck_names_no_path_outside_the_home(world, short):
    kept = [{"block": world.blocks_of(path)[0], "where": "quarantine", "reason": "flipped"} for path in ("/bob/plans", "/anna/diary")]
    world.keepers[1].ask(messages.ReportKept(aside=0, quarantined=2, blocks=kept))
    ask = {"path": "/anna", "after": None, "all": True, "verify": False, "check": None}
    page = world.ask(messages.Inspect(**ask), identity=short)
    assert {one["path"] for one in page.files} == {"/anna/diary", "/anna/shared"} and "/bob" not in str(page.to_header())
    assert [one["path"] for one in page.kept[0]["blocks"]] == ["/anna/diary"] and page.kept[0]["quarantined"] == 2
    # A check of somebody else's, whose number can be guessed, is not handed over.
    check = world.ask(messages.Inspect(path="/", after=None, all=True, verify=True, check=None)).check
    world.steps(2)
    with pytest.raises(errors.Refusal, match="forgotten"):
        world.ask(messages.Inspect(**{**ask, "check": check}), identity=short)
    assert world.ask(messages.Inspect(path="/", after=None, all=True, verify=True, check=check)).files, "and is still its owner's"


def test_why_is_for_those_without_a_home(world, short):
    for question in ({"path": "/anna/diary"}, {"keeper": world.keepers[1].id}):
        with pytest.raises(errors.NotPermitted):
            world.ask(messages.Why(**question), identity=short)


def test_what_keepers_refuse_is_summed_up(world):
    said = {"strangers_refused": 2, "connections_refused": 0, "transfers_too_slow": 1, "requests_out_of_role": 0, "conversations_broken": 5,
            "transfers_refused": 0, "descriptors_short": 0}
    for number, keeper in world.keepers.items():
        keeper.ask(messages.Notify(events=[], used=0, free=10**9, n_blocks=0, sick="", pids=[], refusals={**said, "strangers_refused": number}))
    status = world.ask(messages.Status())
    assert status.counters["keepers_strangers_refused"] == 3 and status.counters["keepers_conversations_broken"] == 10
    text = cluster_state.refusals_text(status)
    assert "3 connections without a proof" in text and "2 transfers that trickled" in text and "(15 of them at keepers)" in text
    assert "too many" not in text, "what has not been is not told"
