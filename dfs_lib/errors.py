"""Every error this project raises: its code, exit status, whether a retry helps, and what a person can do next.

Never raises, logs or prints by itself. The code is stable: it stands on the wire, in logs and in `--json`.

    DfsError
    ├── UsageError        the command or settings are wrong
    ├── Refusal           a correct answer that says no
    ├── NetworkError      the peer could not be reached or fell silent
    ├── ProtocolError     the peer broke the rules, or we did (Misuse)
    ├── NotPermitted      keys, tickets, roles
    └── IntegrityError    damage found or proven
"""

NOW, ELSEWHERE, LATER, NEVER = "now", "elsewhere", "later", "never"


class DfsError(Exception):
    """Base of all our errors.

    Keyword facts fill the class's one-sentence `template`; a fact that is not given shows as `?`. `facts` keeps them for
    `--json` and the wire (text, numbers or lists of them). `hint` says what to do next.
    """

    code = "bug"
    status = 70
    retry = NEVER
    template = "this is a bug in dfs: {detail}"
    hint = "please report it with the log of the command run again with -v"

    def __init__(self, message=None, **facts):
        self.facts = facts
        super().__init__(message or self.template.format_map(_Facts(facts)))

    @property
    def message(self):
        return self.args[0]


class _Facts(dict):
    """Facts for a template; a missing one shows as `?` rather than hiding the error behind a KeyError."""

    def __missing__(self, key):
        return "?"


def _error(name, base, code, template, hint=None, retry=None):
    """A concrete error class: one row of the tables below."""
    members = {"code": code, "template": template, "__doc__": template, "__module__": __name__}
    if hint is not None:
        members["hint"] = hint
    if retry is not None:
        members["retry"] = retry
    return type(name, (base,), members)


# -- usage: exit 2 ----------------------------------------------------------------------------------------------------
class UsageError(DfsError):
    """The command or settings are wrong."""

    code, status, template = "usage", 2, "{detail}"
    hint = "see --help of the command"


BadSetting = _error("BadSetting", UsageError, "bad_setting", "{name} from {origin}: {detail}",
                    "`dfs settings` prints every value and where it came from")


# -- refusals: exit 1 -------------------------------------------------------------------------------------------------
class Refusal(DfsError):
    """A correct answer that says no."""

    code, status, template = "refused", 1, "{detail}"
    hint = "nothing was changed"


NoSuchFile = _error("NoSuchFile", Refusal, "no_such_file", "no such file or directory: {path}",
                    "`dfs ls` on the directory above shows what is there")
FileExists = _error("FileExists", Refusal, "exists", "{path} exists already",
                    "choose another name, remove it first, or leave --no-clobber out")
VersionChanged = _error("VersionChanged", Refusal, "version_changed", "{path} is not at version {expected} any more: {found}",
                        "look at what is there now, then decide anew")
IsADirectory = _error("IsADirectory", Refusal, "is_directory", "{path} is a directory",
                      "use -r, or name a file")
NotADirectory = _error("NotADirectory", Refusal, "not_directory", "{path} is not a directory",
                       "a part of the path is a file; `dfs stat` shows which")
DirectoryNotEmpty = _error("DirectoryNotEmpty", Refusal, "not_empty", "{path} is not empty", "use rm -r to remove what it holds")
BadName = _error("BadName", Refusal, "bad_name", "the name {path!r} cannot be stored: {detail}",
                 "rename it; a path is absolute, its parts have 1 to 255 bytes of UTF-8 and no control character, 4096 bytes in all")
IntoItself = _error("IntoItself", Refusal, "into_itself", "{path} cannot be moved or copied into itself")
NoRoom = _error("NoRoom", Refusal, "no_room", "no room for {size} bytes: {detail}",
                "`dfs df` shows where space is; add a keeper or remove files", LATER)
TooFewKeepers = _error("TooFewKeepers", Refusal, "too_few_keepers",
                       "{live} live keeper(s) can take this, and a put promises {safe} durable copies",
                       "start another keeper (`dfs status` shows them), or promise less with --safe {live}", LATER)
NoLiveReplica = _error("NoLiveReplica", Refusal, "no_live_replica",
                       "no live keeper has block {index} of {path}; it was on {keepers}",
                       "start the keepers named; `dfs status` shows which are dead", LATER)
LeaseLapsed = _error("LeaseLapsed", Refusal, "lease_lapsed", "the upload lease lapsed before {path} was committed",
                     "put it again; what is already stored is used", NOW)
ResumeMismatch = _error("ResumeMismatch", Refusal, "resume_mismatch", "an upload of {path} cannot go on at byte {start}: {offset} bytes are stored",
                        "go on at {offset}, or send all of it", LATER)
NotMaster = _error("NotMaster", Refusal, "not_master", "{address} is not the active master", "name the active master", ELSEWHERE)
NotReady = _error("NotReady", Refusal, "not_ready", "the master has just started and waits for its keepers: {detail}",
                  "try again in a few seconds", LATER)
Busy = _error("Busy", Refusal, "busy", "{address} has no capacity for this now: {detail}", "try again in a moment", LATER)
NoSuchKeeper = _error("NoSuchKeeper", Refusal, "no_such_keeper", "no keeper is called {keeper}", "`dfs status` lists them")
KeeperRefused = _error("KeeperRefused", Refusal, "keeper_refused", "the master refuses keeper {keeper}: {detail}",
                       "see the reason; a copied data directory needs its keeper.json removed before it can join as a new keeper")
WrongCluster = _error("WrongCluster", Refusal, "wrong_cluster", "{what} belongs to cluster {theirs}, not to {ours}",
                      "point it at its own master, or give it an empty directory")
DirectoryInUse = _error("DirectoryInUse", Refusal, "directory_in_use", "{path} is in use by another process",
                        "one daemon a directory: stop the other, or name another directory")
DiskFault = _error("DiskFault", Refusal, "disk_fault", "the disk under {path} failed: {detail}",
                   "look at the machine's kernel log; its blocks are kept on other keepers", ELSEWHERE)
NoSuchUser = _error("NoSuchUser", Refusal, "no_such_user", "no user is called {name}", "`dfs admin user list` shows them")
UserExists = _error("UserExists", Refusal, "user_exists", "there is a user {name} already",
                    "`dfs admin user rotate` makes a new key; to change the role, remove the user first")
LocalFileError = _error("LocalFileError", Refusal, "local_file", "{path}: {detail}", "check the path, and who may read or write it")
TimedOut = _error("TimedOut", Refusal, "timed_out", "not reached within {seconds} s: {detail}", "`dfs status` tells what is missing", LATER)
SomeFailed = _error("SomeFailed", Refusal, "some_failed", "{n_failed} of {n} failed", "each is named above")
NeedsApproval = _error("NeedsApproval", Refusal, "needs_approval", "an order would drop {n} of this keeper's blocks, and {recent} went lately: somebody "
                       "has to say that it is meant", "`dfs admin pending` shows what waits, `dfs admin approve` lets it go on", LATER)
OrderFailed = _error("OrderFailed", Refusal, "order_failed", "{detail}", "the repair loop tries again", LATER)


# -- network: exit 3 --------------------------------------------------------------------------------------------------
class NetworkError(DfsError):
    """The peer could not be reached or fell silent."""

    code, status, retry, template = "network", 3, ELSEWHERE, "{address}: {detail}"
    hint = "check the address and the network"


ConnectFailed = _error("ConnectFailed", NetworkError, "connect_failed", "cannot connect to {address}: {detail}",
                       "is the daemon running there, is the port right, does a firewall let it through?")
PeerTimeout = _error("PeerTimeout", NetworkError, "timeout", "{address} did not answer within {seconds} s",
                     "is it a dfs daemon, and is the machine alive? `dfs status` shows the keepers")
PeerGone = _error("PeerGone", NetworkError, "peer_gone", "{address} closed the connection: {detail}",
                  "it may have stopped or been restarted; try again")


# -- protocol: exit 4 -------------------------------------------------------------------------------------------------
class ProtocolError(DfsError):
    """The peer broke the rules of the protocol."""

    code, status, retry, template = "protocol", 4, ELSEWHERE, "{detail}"
    hint = "is the peer a dfs daemon of the same version?"


BadFrame = _error("BadFrame", ProtocolError, "bad_frame", "a frame broke the rules: {detail}")
BadMessage = _error("BadMessage", ProtocolError, "bad_message", "a message broke the rules: {detail}")
OutOfTurn = _error("OutOfTurn", ProtocolError, "out_of_turn", "a message came out of turn: {detail}")
NotDfs = _error("NotDfs", ProtocolError, "not_dfs", "{address} does not speak dfs: {detail}",
                "check the port; another program answers there")
VersionMismatch = _error("VersionMismatch", ProtocolError, "version_mismatch",
                         "{address} speaks protocol {theirs}, this program speaks {ours}",
                         "use the same version of dfs on every machine", NEVER)
Misuse = _error("Misuse", ProtocolError, "misuse", "{detail}", "this is a bug in dfs", NEVER)


# -- permission: exit 6 -----------------------------------------------------------------------------------------------
class NotPermitted(DfsError):
    """Keys, tickets and roles."""

    code, status, template = "not_permitted", 6, "{detail}"
    hint = "ask whoever administers the cluster"


BadKey = _error("BadKey", NotPermitted, "bad_key", "the key does not open {address}: {detail}",
                "name the key file of this cluster with --key-file or DFS_KEY_FILE")
BadKeyFile = _error("BadKeyFile", NotPermitted, "bad_key_file", "{path} cannot be used as a key file: {detail}",
                    "`chmod 600` it if others can read it, else get the key of this cluster (`dfs keygen` makes one for a new cluster)")
BadTicket = _error("BadTicket", NotPermitted, "bad_ticket", "the ticket does not allow this: {detail}",
                   "ask the master again", ELSEWHERE)
BadJoinCode = _error("BadJoinCode", NotPermitted, "bad_join_code", "the join code does not hold: {detail}",
                     "`dfs admin invite` prints a fresh one; each is good once, for 15 minutes")
TlsRequired = _error("TlsRequired", NotPermitted, "tls_required", "{address} takes encrypted connections alone: {detail}",
                     "see --tls and --tls-ca in `dfs settings`, or start the whole cluster with --tls off")
NoTls = _error("NoTls", NotPermitted, "no_tls", "{address} does not speak TLS, and this side takes encrypted connections alone",
               "start that daemon with --tls require, or say --tls off here when all that travels may be read on the way")
NoSuchRole = _error("NoSuchRole", NotPermitted, "no_such_role", "{role} may not ask for {what}")


# -- integrity: exit 5 ------------------------------------------------------------------------------------------------
class IntegrityError(DfsError):
    """Damage found or proven: never hidden, never retried in place."""

    code, status, retry, template = "integrity", 5, ELSEWHERE, "{detail}"
    hint = "other replicas are tried by themselves"


ChecksumMismatch = _error("ChecksumMismatch", IntegrityError, "checksum", "chunk {chunk} of block {block} is damaged{where}",
                          "the replica is set aside and made again from a good one")
BlockMissing = _error("BlockMissing", IntegrityError, "block_missing", "block {block} is not on this keeper",
                      "other replicas are tried by themselves")
AllReplicasBad = _error("AllReplicasBad", IntegrityError, "all_replicas_bad",
                        "no good replica of block {index} of {path} is left: {detail}",
                        "bring back a keeper that had it; until then this part of the file is lost", NEVER)
CatalogDamaged = _error("CatalogDamaged", IntegrityError, "catalog_damaged", "the catalog in {path} is damaged: {detail}",
                        "restore it from a copy; the keepers still hold every block", NEVER)
CatalogFailed = _error("CatalogFailed", CatalogDamaged, "catalog_failed", "the master stops, because its catalog in {path} has failed: {detail}",
                       "what was acknowledged stands; see to the disk, then start the master again: it reads what is there", NEVER)


def _all_classes(base):
    yield base
    for child in base.__subclasses__():
        yield from _all_classes(child)


def by_code():
    """{code: class} of every error there is; unknown codes from a newer peer fall back to Refusal."""
    return {cls.code: cls for cls in _all_classes(DfsError)}


def from_wire(code, message, facts):
    """The error a peer's `Refused` stands for: its class by code, its message as sent, its facts as given."""
    error = by_code().get(code, Refusal)(message)
    error.facts = {str(key): value for key, value in facts.items()}
    return error


def no_key_wanted(address):
    """A BadKey for a daemon that takes everybody, met by somebody who has not said that this will do."""
    error = BadKey(f"{address} runs with --insecure: it asks nobody for a key, and proves nothing", address=address)
    error.hint = "add --insecure here if that is meant"
    return error
