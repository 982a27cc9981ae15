"""The second half of the table of messages: files, blocks, the cluster, keepers and users. `messages.py` says when it is loaded.

Others take these classes from `messages`, whose attributes they are too.
"""

from dfs_lib import model
from dfs_lib.wire import fields as f
from dfs_lib.wire.messages import CLIENTS, EVERYONE, JOINERS, KEEPERS, REFUSAL, Done, answer, define, request

# -- shapes that several messages share ---------------------------------------------------------------------------------
HOP = f.record(keeper=f.KEEPER_ID, host=f.HOST, ports=f.PORTS, ticket=f.TICKET)
CHAIN = f.list_of(HOP, 0, model.MAX_COPIES)
GRANT = f.record(index=f.INDEX, block=f.BLOCK_ID, chain=CHAIN)
GRANTS = f.list_of(GRANT, 0, 256)
STORED = f.record(index=f.INDEX, block=f.BLOCK_ID, size=f.SIZE, crcs=f.CHECKSUMS,
                  receipts=f.list_of(f.RECEIPT, 0, model.MAX_COPIES))
LABELS = f.mapping(16, f.text(64))

# -- uploads: client to master ------------------------------------------------------------------------------------------
UploadOpened = answer(
    11, "UploadOpened", "one result an upload asked for, in the same order",
    results=f.list_of(f.record(
        refused=f.optional(REFUSAL), upload=f.optional(f.UPLOAD_ID), version=f.optional(f.VERSION), copies=f.optional(f.COPIES),
        safe=f.optional(f.COPIES), block_size=f.optional(f.SIZE), lease_s=f.optional(f.SECONDS), grants=f.optional(GRANTS),
        n_stored=f.optional(f.COUNT)), 1, 128))
# mark: what tells the source from others of its size, of one who cannot compare what an interrupted upload has stored: a resume then goes
# on with the same mark alone. expected: the version that the path must still have, here and when it is published.
OpenUpload = request(
    10, "OpenUpload", "step 1: files to store; size null when unknown. Step 2 answers: where their first blocks go",
    UploadOpened, who=CLIENTS,
    uploads=f.list_of(f.record(
        path=f.PATH, size=f.optional(f.SIZE), copies=f.optional(f.COPIES), safe=f.optional(f.COPIES),
        block_size=f.optional(f.SIZE), mtime_at=f.TIME_AT, no_clobber=f.boolean(),
        parents=f.boolean(), resume=f.boolean(), version=f.optional(f.VERSION), mark=f.optional(f.text(64)),
        expected=f.optional(f.VERSION)), 1, 128))
BlocksGranted = answer(13, "BlocksGranted", "where the blocks go", grants=GRANTS)
GrantBlocks = request(12, "GrantBlocks", "fresh blocks for these indexes (one granted before gets a new id)", BlocksGranted,
                      who=CLIENTS, upload=f.UPLOAD_ID, indexes=f.list_of(f.INDEX, 1, 256))
RegrantBlock = request(14, "RegrantBlock", "other keepers for a block that some refused: the same id, `n` more places, none of `exclude`",
                       BlocksGranted, who=CLIENTS, upload=f.UPLOAD_ID, index=f.INDEX, n=f.COPIES,
                       exclude=f.list_of(f.KEEPER_ID, 0, 64))
StoredListed = answer(17, "StoredListed", "blocks of an interrupted upload that are durable", more=f.boolean(),
                      blocks=f.list_of(STORED, 0, 256))
ListStored = request(16, "ListStored", "what an interrupted upload has stored already, from index `first`", StoredListed,
                     who=CLIENTS, upload=f.UPLOAD_ID, first=f.INDEX)
BlocksRecorded = answer(19, "BlocksRecorded", "indexes whose receipts do not hold: put these again",
                        rejected=f.list_of(f.INDEX, 0, 256), lease_s=f.SECONDS)
RecordBlocks = request(18, "RecordBlocks", "blocks stored so far with the keepers' receipts; also renews the lease (empty list)",
                       BlocksRecorded, who=CLIENTS, upload=f.UPLOAD_ID, blocks=f.list_of(STORED, 0, 256))
UploadCommitted = answer(
    21, "UploadCommitted", "step 6: one result an upload; the catalog has it on disk",
    results=f.list_of(f.record(refused=f.optional(REFUSAL), path=f.optional(f.PATH), version=f.optional(f.VERSION),
                               size=f.optional(f.SIZE), copies_durable=f.optional(f.COUNT), copies=f.optional(f.COPIES), places=f.optional(f.COUNT),
                               keepers=f.optional(f.list_of(f.KEEPER_ID, 0, 64)), rejected=f.optional(f.list_of(f.INDEX, 0, 256))),
                      1, 128))
CommitUpload = request(
    20, "CommitUpload", "publish: total size, and receipts of blocks not yet recorded", UploadCommitted, who=CLIENTS,
    commits=f.list_of(f.record(upload=f.UPLOAD_ID, size=f.SIZE, blocks=f.list_of(STORED, 0, 256)), 1, 128))
AbandonUpload = request(22, "AbandonUpload", "give an upload up; its blocks are dropped (keep false) or kept a while for a resume",
                        Done, who=CLIENTS, upload=f.UPLOAD_ID, keep=f.boolean())

# -- downloads: client to master ----------------------------------------------------------------------------------------
# is_lost: no keeper is on record for it, dead ones included, so no wait brings it back.
SOURCE_BLOCK = f.record(index=f.INDEX, block=f.BLOCK_ID, size=f.SIZE, crcs=f.CHECKSUMS, sources=CHAIN, is_lost=f.optional(f.boolean()))
DownloadOpened = answer(
    31, "DownloadOpened", "one result a file: blocks from the index asked for, each with its keepers in the order to try",
    results=f.list_of(f.record(
        refused=f.optional(REFUSAL), path=f.optional(f.PATH), version=f.optional(f.VERSION), size=f.optional(f.SIZE),
        mtime_at=f.optional(f.TIME_AT), block_size=f.optional(f.SIZE), copies=f.optional(f.COPIES),
        blocks=f.optional(f.list_of(SOURCE_BLOCK, 0, 256)), more=f.optional(f.boolean())), 1, 128))
OpenDownload = request(
    30, "OpenDownload", "which blocks a file has and where; a version named is kept readable while it is being read",
    DownloadOpened, who=CLIENTS,
    files=f.list_of(f.record(path=f.PATH, version=f.optional(f.VERSION), first=f.INDEX, n=f.integer(0, 256)), 1, 128))
ReplicaBad = request(32, "ReplicaBad", "a replica was damaged, missing or unreadable when read", Done, who=EVERYONE,
                     block=f.BLOCK_ID, keeper=f.KEEPER_ID, reason=f.text(1000))

# -- the cluster: client to master --------------------------------------------------------------------------------------
# The scrub that a keeper does by itself: which round, how much of it is done, what was bad in it; the same of the round before.
SCRUB_STATE = f.record(round=f.COUNT, share=f.number(0, 1), left_s=f.SECONDS, blocks=f.COUNT, bad=f.COUNT, ended_at=f.optional(f.TIME_AT),
                       ended_bad=f.optional(f.COUNT))
# stopped: of one that is not heard, whether it had said farewell.
KEEPER_STATUS = f.record(
    keeper_id=f.KEEPER_ID, name=f.text(64), host=f.HOST, ports=f.list_of(f.PORT, 0, 16),
    state=f.one_of("live", "suspect", "dead", "draining"), reason=f.text(1000), used=f.SIZE, free=f.SIZE, blocks=f.COUNT, load=f.COUNT,
    heartbeat_age_s=f.optional(f.SECONDS), labels=LABELS, pids=f.list_of(f.COUNT, 0, 64), reported=f.boolean(), sick=f.text(1000),
    scrub=f.optional(SCRUB_STATE), stopped=f.optional(f.boolean()))
# Copies of the catalog on keepers. behind: rows of the log that a copy lacks; age_s: since it was last heard to be level, null: never.
CATALOG_COPIES = f.record(wanted=f.COUNT, copies=f.list_of(f.record(
    keeper_id=f.KEEPER_ID, name=f.text(64), epoch=f.EPOCH, sequence=f.COUNT, behind=f.COUNT, age_s=f.optional(f.SECONDS)), 0, 64))
ClusterStatus = answer(
    61, "ClusterStatus", "the whole cluster in numbers", cluster_id=f.CLUSTER_ID, epoch=f.EPOCH, files=f.COUNT, directories=f.COUNT,
    bytes=f.COUNT, under_replicated=f.COUNT, missing=f.COUNT, repairs_running=f.COUNT, repair_bytes_left=f.COUNT,
    repair_rate=f.number(0, 1e15), uploads=f.COUNT, strays=f.COUNT, safemode=f.text(1000), copies=f.COPIES, safe=f.COPIES,
    alarms=f.list_of(f.text(1000), 0, 64), waiting=f.list_of(
        f.record(path=f.PATH, reason=f.text(1000), next_try_s=f.SECONDS, placeless=f.optional(f.boolean())), 0, 64),
    counters=f.mapping(256, f.number(0, 1e18)), keepers=f.list_of(KEEPER_STATUS, 0, 5000), pid=f.COUNT,
    catalog_copies=f.optional(CATALOG_COPIES), encrypted=f.optional(f.boolean()),
    short=f.optional(f.list_of(f.record(have=f.COUNT, blocks=f.COUNT), 0, 64)),
    repairs=f.optional(f.list_of(f.record(path=f.PATH, block=f.BLOCK_ID, source=f.text(64), targets=f.list_of(f.text(64), 0, model.MAX_COPIES), bytes=f.SIZE,
                                          eta_s=f.optional(f.SECONDS)), 0, 64)))
Status = request(60, "Status", "how is the cluster?", ClusterStatus, who=CLIENTS)
ScrubReport = answer(65, "ScrubReport", "what scrubbers have found since `scrub` was asked for", running=f.COUNT, verified=f.COUNT, verified_bytes=f.COUNT,
                     bad=f.list_of(f.record(path=f.PATH, block=f.BLOCK_ID, keeper=f.KEEPER_ID, reason=f.text(1000)), 0, 1000))
RATE = f.number(0, 1e15)
# Of at most an hour; `at`: the end of a stretch of step_s seconds, whose mean rates in bytes a second follow.
TrafficMeasured = answer(
    281, "TrafficMeasured", "how much moves now, in all and by keeper, and how much did in the last hour as far as this master has run: "
    "[at, read by clients, written by clients, copied between keepers], bytes a second over each step", step_s=f.SECONDS,
    points=f.list_of(f.row(f.TIME_AT, RATE, RATE, RATE), 0, 400), read=RATE, write=RATE, copied=RATE,
    keepers=f.list_of(f.record(keeper_id=f.KEEPER_ID, read=RATE, write=RATE, copied=RATE), 0, 5000))
MeasureTraffic = request(280, "MeasureTraffic", "bytes that move through all keepers; `history` adds the last hour", TrafficMeasured, who=CLIENTS,
                         history=f.boolean())
Scrub = request(64, "Scrub", "re-read every replica now on these keepers (all when empty); `start` false only asks how it goes",
                ScrubReport, who=CLIENTS, keepers=f.list_of(f.KEEPER_ID, 0, 5000), start=f.boolean())
RebalancePlan = answer(67, "RebalancePlan", "moves planned or under way", running=f.COUNT,
                       moves=f.list_of(f.record(source=f.KEEPER_ID, target=f.KEEPER_ID, size=f.SIZE), 0, 1000))
Rebalance = request(66, "Rebalance", "even out how full keepers are; `dry_run` only says what would be done", RebalancePlan,
                    who=CLIENTS, dry_run=f.boolean(), start=f.boolean())

# -- operators: client to master ----------------------------------------------------------------------------------------
DRAINING = f.record(
    keeper_id=f.KEEPER_ID, name=f.text(64), state=f.one_of("live", "suspect", "dead"), draining=f.boolean(), blocks_left=f.COUNT,
    bytes_left=f.COUNT, eta_s=f.optional(f.SECONDS), text=f.text(1000),
    blockers=f.list_of(f.record(reason=f.text(1000), n=f.COUNT, path=f.PATH), 0, 16))
DrainReport = answer(71, "DrainReport", "how empty these keepers are; blockers: of the blocks left, why those looked at do not move",
                     keepers=f.list_of(DRAINING, 0, 5000))
Drain = request(70, "Drain", "empty these keepers, or (draining false) use them again; draining null only asks, about all that drain when empty",
                DrainReport, who=CLIENTS, keepers=f.list_of(f.KEEPER_ID, 0, 5000), draining=f.optional(f.boolean()))

FILE_STATE = f.one_of("healthy", "under-replicated", "missing", "corrupt")
INSPECTED_BLOCK = f.record(block=f.BLOCK_ID, index=f.INDEX, size=f.SIZE, have=f.COUNT, state=FILE_STATE, keepers=f.list_of(f.KEEPER_ID, 0, 64),
                           reason=f.text(1000))
INSPECTED_FILE = f.record(path=f.PATH, version=f.VERSION, size=f.SIZE, wanted=f.integer(0, model.MAX_COPIES), have=f.COUNT, state=FILE_STATE,
                          n_blocks=f.COUNT, n_bad=f.COUNT, blocks=f.list_of(INSPECTED_BLOCK, 0, 64))
DAMAGED = f.record(path=f.PATH, block=f.BLOCK_ID, keeper=f.KEEPER_ID, reason=f.text(1000))
KEPT_PLACE = f.one_of("aside", "quarantine")
KEPT = f.record(keeper_id=f.KEEPER_ID, name=f.text(64), strays=f.COUNT, aside=f.COUNT, quarantined=f.COUNT,
                blocks=f.list_of(f.record(block=f.BLOCK_ID, where=KEPT_PLACE, reason=f.text(300), path=f.optional(f.PATH)), 0, 100))
Inspected = answer(
    73, "Inspected", "a page of files; `check` and `running` while replicas are being read again: ask with `check` until none runs. The last page "
    "(`after` null) also has what keepers hold that no file uses", files=f.list_of(INSPECTED_FILE, 0, 500), n_files=f.COUNT, n_blocks=f.COUNT,
    after=f.optional(f.PATH), check=f.optional(f.COUNT), running=f.COUNT, verified=f.COUNT, verified_bytes=f.COUNT, unverified=f.COUNT,
    damaged=f.list_of(DAMAGED, 0, 1000), kept=f.list_of(KEPT, 0, 5000))
Inspect = request(72, "Inspect", "how whole are the files at and below a path, after the path `after`; all: healthy ones too; verify: have each "
                  "replica of the page read again first", Inspected, who=CLIENTS, path=f.PATH, after=f.optional(f.PATH), all=f.boolean(),
                  verify=f.boolean(), check=f.optional(f.COUNT))
REASON = f.record(text=f.text(2000), path=f.optional(f.PATH), block=f.optional(f.BLOCK_ID), index=f.optional(f.INDEX),
                  next_try_s=f.optional(f.SECONDS))
Reasons = answer(75, "Reasons", "sentences, the most important first; next_try_s: until what is planned is looked at again",
                 about=f.text(5000), reasons=f.list_of(REASON, 0, 200))
Why = request(74, "Why", "the decisions behind the present state of a path or of a keeper, in plain words", Reasons, who=CLIENTS,
              path=f.optional(f.PATH), keeper=f.optional(f.KEEPER_ID))
PendingListed = answer(
    77, "PendingListed", "drops that wait for an approval, by keeper; n_blocks: all it has; path: of one of them",
    pending=f.list_of(f.record(keeper_id=f.KEEPER_ID, name=f.text(64), n=f.COUNT, n_blocks=f.COUNT, reason=f.text(1000), path=f.optional(f.PATH)),
                      0, 5000))
Pending = request(76, "Pending", "which drops wait for a human; those on the keepers in `approve` may go on", PendingListed, who=CLIENTS,
                  approve=f.list_of(f.KEEPER_ID, 0, 5000))
Forget = request(78, "Forget", "a dead keeper will never return; force: even if it has the last copy of something", Done, who=CLIENTS,
                 keeper=f.KEEPER_ID, force=f.boolean())

# -- keeper to master ---------------------------------------------------------------------------------------------------
# Users removed while tickets of theirs may be about, by the 8 bytes that tickets know them by.
MAX_REFUSED_USERS = 256
REFUSED_USERS = f.list_of(f.hexadecimal(16), 0, MAX_REFUSED_USERS)
Registered = answer(
    81, "Registered", "welcome: the session for heartbeats, the master's reign and tick", cluster_id=f.CLUSTER_ID, epoch=f.EPOCH,
    session=f.hexadecimal(16), tick=f.COUNT, heartbeat_port=f.PORT, heartbeat_s=f.SECONDS, ticket_key_id=f.COUNT,
    refused_users=f.optional(REFUSED_USERS))
Register = request(
    80, "Register", "a keeper's process has started", Registered, who=KEEPERS, keeper=f.KEEPER_ID, incarnation=f.hexadecimal(32),
    cluster_id=f.optional(f.CLUSTER_ID), host=f.optional(f.HOST), ports=f.PORTS, labels=LABELS, pids=f.list_of(f.COUNT, 0, 64),
    used=f.SIZE, free=f.SIZE, n_blocks=f.COUNT, epoch=f.EPOCH, software=f.text(32))
BLOCK_RECORD_SIZE = 24
ReportBlocks = request(
    82, "ReportBlocks", "a page of the whole inventory, sorted; body: records of block id (16 bytes) and size (8 bytes), whose CRC-32 is crc", Done,
    who=KEEPERS, max_body=BLOCK_RECORD_SIZE * 40_000, first=f.boolean(), last=f.boolean(),
    crc=f.integer(0, 0xFFFFFFFF, "crc"))
EVENT = f.record(
    kind=f.one_of("stored", "dropped", "bad", "transfer_done", "order_done", "aside", "scrubbed"), block=f.optional(f.BLOCK_ID),
    size=f.optional(f.SIZE), stored=f.optional(f.list_of(f.row(f.BLOCK_ID, f.SIZE, f.CHECKSUMS), 1, 200)),
    serials=f.optional(f.list_of(f.COUNT, 0, 1000)), order=f.optional(f.COUNT), reason=f.optional(f.text(1000)),
    error=f.optional(f.text(64)), n=f.optional(f.COUNT), keepers=f.optional(f.list_of(f.KEEPER_ID, 0, model.MAX_COPIES)),
    sha256=f.optional(f.hexadecimal(64)))
# Running totals of bytes since the keeper's processes started: they begin anew with them. copied: to other keepers, by order of the master
# (repair, drains, rebalancing); what an upload's chain passes on is in none of them.
MOVED = f.record(from_clients=f.COUNT, to_clients=f.COUNT, copied=f.COUNT)
Notified = answer(85, "Notified", "the master's reign and tick, the ticket key in use, users whose tickets are void; follow: keep a copy of the "
                  "catalog", epoch=f.EPOCH, tick=f.COUNT, ticket_key_id=f.optional(f.COUNT), refused_users=f.optional(REFUSED_USERS),
                  follow=f.optional(f.boolean()))
# What a keeper's ports have refused since its start.
REFUSALS = f.record(strangers_refused=f.COUNT, connections_refused=f.COUNT, transfers_too_slow=f.COUNT, requests_out_of_role=f.COUNT,
                    conversations_broken=f.COUNT, transfers_refused=f.COUNT, descriptors_short=f.COUNT)
Notify = request(84, "Notify", "what has happened on a keeper, in order; also each second when nothing has", Notified, who=KEEPERS,
                 events=f.list_of(EVENT, 0, 500), used=f.SIZE, free=f.SIZE, n_blocks=f.COUNT, sick=f.text(1000),
                 pids=f.list_of(f.COUNT, 0, 64), tickets_refused=f.optional(f.COUNT), scrub=f.optional(SCRUB_STATE),
                 moved=f.optional(MOVED), refusals=f.optional(REFUSALS))
# version: of a "sum", whose blocks the keeper asks for page by page (LocateBlocks).
ORDER = f.record(order=f.COUNT, kind=f.one_of("copy", "drop", "verify", "scrub", "report", "sum"), block=f.optional(f.BLOCK_ID),
                 size=f.optional(f.SIZE), blocks=f.optional(f.list_of(f.BLOCK_ID, 0, 1000)), chain=f.optional(CHAIN),
                 rate=f.optional(f.COUNT), approved=f.optional(f.boolean()), version=f.optional(f.VERSION))
Orders = answer(87, "Orders", "what to do, in order of importance; empty when nothing came up", epoch=f.EPOCH,
                orders=f.list_of(ORDER, 0, 256))
AwaitOrders = request(86, "AwaitOrders", "wait up to so long for orders", Orders, who=KEEPERS, wait_s=f.SECONDS)
# Blocks in one page: a header of at most some 200 KiB with blocks of 1 GiB, and a GiB of a file with the usual ones.
MOST_LOCATED = 16
BlocksLocated = answer(286, "BlocksLocated", "the blocks from the index asked for on, each with its keepers in the order to try; none: that was the end",
                       blocks=f.list_of(SOURCE_BLOCK, 0, MOST_LOCATED))
LocateBlocks = request(285, "LocateBlocks", "where the next blocks are of the file whose SHA-256 this keeper was ordered to take; refused once nobody "
                       "wants it any more", BlocksLocated, who=KEEPERS, order=f.COUNT, first=f.INDEX)
ReportKept = request(
    79, "ReportKept", "what lies out of use on a keeper: how many block files in aside/ and quarantine/, and the first of them with reasons", Done,
    who=KEEPERS, aside=f.COUNT, quarantined=f.COUNT,
    blocks=f.list_of(f.record(block=f.BLOCK_ID, where=KEPT_PLACE, reason=f.text(300)), 0, 1000))
Farewell = request(88, "Farewell", "a clean stop: the longer grace applies", Done, who=KEEPERS)

# -- operators: what `dfs doctor` and a backup ask the master --------------------------------------------------------------
Examined = answer(271, "Examined", "the master's clock, version and UDP port, and how many datagrams came there that were no heartbeats",
                  at=f.TIME_AT, software=f.text(32), heartbeat_port=f.PORT, n_dropped=f.COUNT)
Examine = request(270, "Examine", "what a machine compares itself with", Examined, who=EVERYONE)
KeepersTried = answer(273, "KeepersTried", "for each port of the keepers asked about: why it could not be connected to, null when it could",
                      tried=f.list_of(f.record(keeper=f.KEEPER_ID, port=f.PORT, failure=f.optional(f.text(300))), 0, 1024))
TryKeepers = request(272, "TryKeepers", "have the master connect to each port of these keepers", KeepersTried, who=CLIENTS,
                     keepers=f.list_of(f.KEEPER_ID, 1, 64))
BackupMade = answer(275, "BackupMade", "a copy of the catalog that is whole: its id until it is let go, its size and SHA-256", backup=f.UPLOAD_ID,
                    size=f.SIZE, sha256=f.hexadecimal(64))
MakeBackup = request(274, "MakeBackup", "a consistent copy of the catalog, to be fetched piece by piece", BackupMade, who=CLIENTS)
BackupPart = answer(277, "BackupPart", "bytes of the copy, in hex", data=f.text(1 << 19))
FetchBackup = request(276, "FetchBackup", "up to 256 KiB of the copy from an offset on; offset null: it is not needed any more", BackupPart,
                      who=CLIENTS, backup=f.UPLOAD_ID, offset=f.optional(f.SIZE))

# -- who may: administrators to master, and keepers that join -----------------------------------------------------------
ROLE = f.one_of("reader", "writer", "admin")
USER_NAME = f.text(32)
UserKey = answer(101, "UserKey", "a user's identity, and its key under a pad of the asker's secret and the nonce it sent", identity=f.text(96),
                 role=ROLE, home=f.PATH, key=f.hexadecimal(64))
AddUser = request(100, "AddUser", "a user with a key of its own; the catalog keeps no secret", UserKey, who=CLIENTS, name=USER_NAME,
                  role=ROLE, home=f.PATH, nonce=f.NONCE, op=f.OPERATION_ID)
UsersListed = answer(103, "UsersListed", "users in name order", more=f.boolean(), users=f.list_of(
    f.record(name=USER_NAME, identity=f.text(96), role=ROLE, home=f.PATH, changed_at=f.TIME_AT), 0, 100))
ListUsers = request(102, "ListUsers", "the users after a name", UsersListed, who=CLIENTS, after=f.optional(USER_NAME))
RemoveUser = request(104, "RemoveUser", "a user's key opens nothing any more, from the next request on", Done, who=CLIENTS,
                     name=USER_NAME, op=f.OPERATION_ID)
RotateUser = request(105, "RotateUser", "a new key for a user; the old one opens nothing any more", UserKey, who=CLIENTS, name=USER_NAME,
                     nonce=f.NONCE, op=f.OPERATION_ID)
Identified = answer(261, "Identified", "who asks: a user's name (none for the cluster's own key), role and home", name=f.optional(USER_NAME), role=ROLE,
                    home=f.PATH)
Identify = request(260, "Identify", "whose key is this, and what may it do", Identified, who=CLIENTS)
Invited = answer(107, "Invited", "a join code: its name, and its secret under a pad of the asker's secret and the nonce it sent",
                 name=f.hexadecimal(8), secret=f.hexadecimal(32), lapses_s=f.SECONDS)
Invite = request(106, "Invite", "a code by which one keeper may join", Invited, who=CLIENTS, nonce=f.NONCE)
Joined = answer(109, "Joined", "node, ticket and clients key under a one-time pad of this conversation, and the code over them",
                keys=f.hexadecimal(192), proof=f.PROOF)
Join = request(108, "Join", "the keys that a keeper needs, once for each join code", Joined, who=JOINERS, software=f.text(32))

# -- blocks: client or keeper to keeper ---------------------------------------------------------------------------------
BLOCK_META = f.record(path=f.PATH, version=f.VERSION, index=f.INDEX, file_size=f.optional(f.SIZE), block_size=f.SIZE,
                      mtime_at=f.TIME_AT, copies=f.COPIES, last=f.boolean())
BlockWritten = answer(
    91, "BlockWritten", "step 4: fsynced here and down the chain, with each keeper's receipt; who failed, and why",
    receipts=f.list_of(f.RECEIPT, 1, model.MAX_COPIES),
    failed=f.list_of(f.record(keeper=f.KEEPER_ID, error=f.text(64), message=f.text(1000)), 0, model.MAX_COPIES))
PutBlock = request(
    90, "PutBlock", "step 3: a block, its first chunk as body; more come as BlockChunk; passed on down `chain` as it arrives",
    BlockWritten, who=EVERYONE, max_body=model.CHUNK_SIZE, block=f.BLOCK_ID, size=f.SIZE, meta=BLOCK_META, ticket=f.TICKET,
    chain=CHAIN, crc=f.integer(0, 0xFFFFFFFF, "crc"))
BlockChunk = define("continuation", 92, "BlockChunk", "the next chunk of the block, with its checksum", max_body=model.CHUNK_SIZE,
                     crc=f.integer(0, 0xFFFFFFFF, "crc"))
BlockData = answer(95, "BlockData", "the bytes asked for; the reader checks them against what the catalog vouches for",
                   max_body=1 << 30, size=f.SIZE)
GetBlock = request(94, "GetBlock", "a stretch of a block", BlockData, who=EVERYONE, block=f.BLOCK_ID, offset=f.SIZE,
                   count=f.SIZE, ticket=f.TICKET)

# -- small blocks: many in one message, client or keeper to keeper ---------------------------------------------------------
MOST_SMALL_BLOCKS = 128
_CRC = f.integer(0, 0xFFFFFFFF, "crc")
# Of each its file's name and version as the block's trailer has them: a small file is one block.
SMALL_BLOCK = f.record(block=f.BLOCK_ID, size=f.integer(1, model.CHUNK_SIZE, "bytes"), crc=_CRC, path=f.PATH, version=f.VERSION,
                       block_size=f.SIZE, mtime_at=f.TIME_AT, copies=f.COPIES,
                       tickets=f.list_of(f.TICKET, 1, model.MAX_COPIES))
BlocksWritten = answer(
    251, "BlocksWritten", "one result a block, in the same order: receipts of the keepers that hold it durably; who failed, and why",
    results=f.list_of(f.record(
        receipts=f.list_of(f.RECEIPT, 0, model.MAX_COPIES),
        failed=f.list_of(f.record(keeper=f.KEEPER_ID, error=f.text(64), message=f.text(1000)), 0, model.MAX_COPIES)), 1, MOST_SMALL_BLOCKS))
PutBlocks = request(
    250, "PutBlocks", "step 3 for small files: whole blocks of one chunk, one after another as body, with a ticket for this keeper and "
    "one for each after it; passed on down `chain` at once", BlocksWritten, who=EVERYONE, max_body=model.CHUNK_SIZE,
    blocks=f.list_of(SMALL_BLOCK, 1, MOST_SMALL_BLOCKS), chain=f.list_of(f.record(keeper=f.KEEPER_ID, host=f.HOST, ports=f.PORTS), 0,
                                                                          model.MAX_COPIES))
BlocksData = answer(
    253, "BlocksData", "the bytes of the blocks that can be given, one after another; of the others, why not", max_body=model.CHUNK_SIZE,
    results=f.list_of(f.record(refused=f.optional(REFUSAL)), 1, MOST_SMALL_BLOCKS))
GetBlocks = request(
    252, "GetBlocks", "small blocks, each whole", BlocksData, who=EVERYONE,
    blocks=f.list_of(f.record(block=f.BLOCK_ID, size=f.integer(1, model.CHUNK_SIZE, "bytes"), ticket=f.TICKET), 1, MOST_SMALL_BLOCKS))

# -- the catalog's copies: keeper to master (log_copy.py has the layouts of records and snapshots) ------------------------
COPY_PAGE = 1 << 20
SHA256 = f.hexadecimal(64, "SHA-256 of the body")
CatalogFollowed = answer(
    201, "CatalogFollowed", "body: records that follow, empty when nothing came up; snapshot: the place is not in the log, begin with a snapshot; "
    "kept false: this keeper need not keep a copy now", max_body=80 << 20, epoch=f.EPOCH, snapshot=f.boolean(), kept=f.boolean(), sha256=SHA256)
FollowCatalog = request(
    200, "FollowCatalog", "wait up to so long for what follows in the catalog's log after the last row that this keeper has durably (0, 0: none)",
    CatalogFollowed, who=KEEPERS, epoch=f.EPOCH, sequence=f.COUNT, wait_s=f.SECONDS)
SnapshotPage = answer(203, "SnapshotPage", "body: bytes of the snapshot `snapshot`, which has `size` bytes in all", max_body=COPY_PAGE,
                      epoch=f.EPOCH, snapshot=f.hexadecimal(32), size=f.SIZE, sha256=SHA256)
ReadSnapshot = request(202, "ReadSnapshot", "a page of a snapshot from `offset` on; snapshot null: the newest, made when there is none that will do",
                       SnapshotPage, who=KEEPERS, snapshot=f.optional(f.hexadecimal(32)), offset=f.SIZE)

# -- a new catalog from what keepers hold: keeper to a master that has none (its challenge names cluster 00…0) ------------
LOG_COPY = f.record(epoch=f.EPOCH, sequence=f.COUNT, at=f.TIME_AT, base_size=f.SIZE, log_size=f.SIZE)
RebuildAsks = answer(205, "RebuildAsks", "what the master wants of this keeper now: trailers after that block, its copy of the catalog from that "
                     "byte on, or nothing yet; text: how far it is", what=f.one_of("wait", "trailers", "copy"), after=f.optional(f.BLOCK_ID),
                     offset=f.optional(f.SIZE), text=f.text(1000))
OfferRebuild = request(
    204, "OfferRebuild", "a keeper with blocks of a cluster whose master has no catalog; also each second while it waits", RebuildAsks, who=KEEPERS,
    keeper=f.KEEPER_ID, cluster_id=f.CLUSTER_ID, epoch=f.EPOCH, host=f.optional(f.HOST), ports=f.PORTS, labels=LABELS, n_blocks=f.COUNT,
    copy=f.optional(LOG_COPY))
SendTrailers = request(
    206, "SendTrailers", "a page of what this keeper's block files say of themselves, sorted by id; body: zlib of a JSON list of [block, size, "
    "checksums, metadata] or, where a trailer cannot be believed, [block, null, reason]; last: it was the end", Done, who=KEEPERS,
    max_body=4 << 20, last=f.boolean(), sha256=SHA256)
SendCopy = request(207, "SendCopy", "a page of this keeper's copy of the catalog: its snapshot (base_size bytes), then its records; last: it was the end", Done,
                   who=KEEPERS, max_body=COPY_PAGE, offset=f.SIZE, last=f.boolean(), sha256=SHA256)
