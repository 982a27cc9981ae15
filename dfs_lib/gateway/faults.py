"""Our errors as HTTP statuses, and as JSON that says what to do next."""

from dfs_lib import errors
from dfs_lib.gateway import http

# code of an error → status; families below stand in for the rest.
_STATUS = {
    errors.NoSuchFile.code: 404, errors.NoSuchUser.code: 404, errors.NoSuchKeeper.code: 404, errors.FileExists.code: 409,
    errors.IsADirectory.code: 409, errors.NotADirectory.code: 409, errors.DirectoryNotEmpty.code: 409, errors.IntoItself.code: 409,
    errors.BadName.code: 400, errors.NoRoom.code: 507, errors.TooFewKeepers.code: 503, errors.NoLiveReplica.code: 503,
    errors.VersionChanged.code: 412, errors.LeaseLapsed.code: 503, errors.NotMaster.code: 503, errors.NotReady.code: 503, errors.Busy.code: 503,
    errors.AllReplicasBad.code: 500, errors.BadKey.code: 401, errors.BadKeyFile.code: 401, errors.PeerTimeout.code: 504,
}
_FAMILIES = ((errors.UsageError, 400), (errors.NotPermitted, 403), (errors.NetworkError, 502), (errors.ProtocolError, 502),
             (errors.IntegrityError, 500), (errors.Refusal, 409))


# What to do next where the words for the command line say it with options; None: nothing fits that the page or curl could do.
_HINTS = {
    errors.DirectoryNotEmpty.code: "?recursive=1 removes what it holds as well", errors.IsADirectory.code: "name a file in it",
    errors.FileExists.code: "choose another name, or remove it first",
    errors.NoSuchFile.code: "look what is there: the directory above lists it", errors.NotADirectory.code: "a part of the path is a file",
    errors.TooFewKeepers.code: "start another keeper", errors.NoRoom.code: "add a keeper or remove files",
    errors.NoLiveReplica.code: "start the keepers named", errors.BadKey.code: "take the line of a key file of this cluster",
    errors.BadKeyFile.code: "take the line of a key file of this cluster",
}


def hint_of(error):
    """What to do next, in words that fit a page and curl as well, or None."""
    hint = _HINTS.get(error.code) or error.hint.format_map(errors._Facts(error.facts))
    return None if any(words in hint for words in ("`dfs ", "--", " -r")) else hint


def status_of(error):
    """The HTTP status of one of our errors."""
    return _STATUS.get(error.code) or next((status for kind, status in _FAMILIES if isinstance(error, kind)), 500)


def as_http(error):
    """An HttpError for one of ours."""
    status = status_of(error)
    headers = []
    if status == 503:
        headers.append(("Retry-After", "2"))
    facts = {"offset": error.facts["offset"]} if isinstance(error, errors.ResumeMismatch) else {}
    hint = hint_of(error)
    return http.HttpError(status, error.code, error.message, headers=headers, **({"hint": hint} if hint else {}), **facts)
