"""Our errors as HTTP statuses, and as JSON that says what to do next."""

from dfs_lib import errors
from dfs_lib.gateway import http

# code of an error → status; families below stand in for the rest.
_STATUS = {
    errors.NoSuchFile.code: 404, errors.NoSuchUser.code: 404, errors.NoSuchKeeper.code: 404, errors.FileExists.code: 409,
    errors.IsADirectory.code: 409, errors.NotADirectory.code: 409, errors.DirectoryNotEmpty.code: 409, errors.IntoItself.code: 409,
    errors.BadName.code: 400, errors.NoRoom.code: 507, errors.TooFewKeepers.code: 503, errors.NoLiveReplica.code: 503,
    errors.LeaseLapsed.code: 503, errors.NotMaster.code: 503, errors.NotReady.code: 503, errors.Busy.code: 503,
    errors.AllReplicasBad.code: 500, errors.BadKey.code: 401, errors.BadKeyFile.code: 401, errors.PeerTimeout.code: 504,
}
_FAMILIES = ((errors.UsageError, 400), (errors.NotPermitted, 403), (errors.NetworkError, 502), (errors.ProtocolError, 502),
             (errors.IntegrityError, 500), (errors.Refusal, 409))


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
    return http.HttpError(status, error.code, error.message, headers=headers, hint=error.hint.format_map(errors._Facts(error.facts)), **facts)
