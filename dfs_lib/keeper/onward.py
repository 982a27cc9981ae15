"""The next keeper of a chain: a way to it, and one message with its body on that way, passed on as it arrives.

Never touches a block file and never chooses a keeper: the chain came with the message.
"""

import logging

from dfs_lib import errors
from dfs_lib.keeper import shared
from dfs_lib.model import KIB
from dfs_lib.net import streams
from dfs_lib.net.resting import Resting
from dfs_lib.wire import messages

log = logging.getLogger(__name__)

# The next keeper of a chain is given so long to be reached; then it counts as failed and the block goes on without it.
DIAL_S = 1.0
# … to take bytes. Less than the silence that a client allows us (upload.SILENCE_S), which waits meanwhile.
FORWARD_S = 1.2
# … and to give a sign of life while it syncs. Its Working frames come each half second. The client then finds another keeper in
# its place: with that, too, one frozen keeper holds nobody up for 2 s.
ANSWER_S = 1.3
# Bodies up to this are read, and sent, in one piece.
SMALL = 64 * KIB


class Peers:
    """Ways to other keepers: kept connections for small blocks, fresh ones for large."""

    def __init__(self, credentials, dial=streams.connect):
        self._credentials, self._connect = credentials, dial
        self.pool = streams.Pool(self.dial, keep=8)
        self.resting = Resting()

    def dial(self, host, port, timeout_s):
        return self._connect(host, port, self._credentials, timeout_s)

    def close(self):
        self.pool.close()


def put_block(message, chain):
    """`message` (PutBlock as it came, or is begun) as the first keeper of `chain` gets it, which passes it on to the rest."""
    return messages.PutBlock(block=message.block, size=message.size, meta=message.meta, ticket=chain[0]["ticket"], chain=chain[1:],
                             crc=message.crc)


class Onward:
    """One request on its way to the next keeper, which passes it on to the rest of the chain.

    A failure is remembered in `error` and stops nothing: the other copies matter more. One thread's.
    """

    def __init__(self, peers, hop, first, is_small, forward_s=FORWARD_S, answer_s=ANSWER_S):
        """hop: who it goes to; first: the request; is_small: its body is all there is, so that it may be sent once more."""
        self._peers, self._hop, self._first, self._is_small = peers, hop, first, is_small
        self._forward_s, self._answer_s = forward_s, answer_s
        self._stream = self._at = self._view = None
        self._kept = False
        self.error = None

    # -- out ------------------------------------------------------------------------------------------------------------
    def start(self, view):
        """Connect and send the first chunk; `view` must keep its bytes until `answer` when it is the only one."""
        self._view = view
        # What fits into the socket's buffer cannot stall in sending: one time-out for both saves four calls a block.
        if self._is_small and len(view) <= SMALL:
            self._forward_s = self._answer_s
        try:
            self._open(kept_will_do=self._is_small)
            try:
                self._send(self._first, view)
            except errors.PeerGone:
                if not self._kept:
                    raise
                self._again()
        except errors.DfsError as e:
            self._fail(e)

    def pass_on(self, crc, view):
        """Send one more chunk."""
        if self.error is None:
            try:
                self._send(messages.BlockChunk(crc=crc), view)
            except errors.DfsError as e:
                self._fail(e)

    def _open(self, kept_will_do):
        """Try the keeper's ports in order. A refused port means its process is away; silence means that the machine is."""
        host, failure = self._hop["host"], None
        for at in self._peers.resting.last([(host, port) for port in self._hop["ports"]]):
            try:
                if kept_will_do:
                    self._stream, self._kept = self._peers.pool.take(*at, DIAL_S)
                else:
                    self._stream, self._kept = self._peers.dial(*at, DIAL_S), False
            except (errors.ConnectFailed, errors.PeerGone) as e:
                self._peers.resting.note(at)
                failure = e
                continue
            except errors.NetworkError:
                self._peers.resting.note(at)
                raise
            self._at = at
            self._stream.set_timeout(self._forward_s)
            return
        raise failure

    def _send(self, message, view):
        try:
            self._stream.send(message, view)
        except errors.PeerGone:
            if not self._kept:
                self._stream.raise_last_words()  # it may have said why before it closed
            raise

    def _again(self):
        """A kept connection was stale: once more over a fresh one, while the only chunk is still at hand."""
        self._stream.close()
        self._peers.pool.forget(*self._at)
        self._open(kept_will_do=False)
        self._send(self._first, self._view)

    def _fail(self, error):
        self.error = error
        if isinstance(error, errors.PeerTimeout) and self._at is not None:
            self._peers.resting.note(self._at)  # a port that hangs is not the next block's first choice
        log.warning("chain broken request=%s next=%s reason=%s", type(self._first).__name__, self._hop["keeper"], error.message)
        self.close()

    # -- back -----------------------------------------------------------------------------------------------------------
    def answer(self, fits=None):
        """The next keeper's answer, waiting for it; None when something has failed on the way, or it does not fit the question."""
        if self.error is None:
            try:
                answer = self._answer()
                if fits is not None and not fits(answer):
                    raise errors.BadMessage(detail="it answers another question than was asked")
                self._give_back()
                return answer
            except errors.DfsError as e:
                self._fail(e)
        return None

    def failure(self):
        """The entry of `failed` for the next keeper."""
        return {"keeper": self._hop["keeper"], "error": self.error.code, "message": shared.reason_of(self.error)}

    def result(self):
        """(receipts, failed) of one block: of the next keeper and those after it."""
        written = self.answer()
        return (written.receipts, written.failed) if written is not None else ([], [self.failure()])

    def _answer(self):
        self._stream.set_timeout(self._answer_s)
        try:
            return self._stream.answer()
        except errors.PeerGone:
            if not (self._kept and self._is_small):
                raise
        self._again()
        self._stream.set_timeout(self._answer_s)
        return self._stream.answer()

    def _give_back(self):
        stream, self._stream = self._stream, None
        self._peers.pool.give(*self._at, stream)

    def close(self):
        """Let go of it; in the middle of a block the other side then forgets what it has."""
        if self._stream is not None:
            self._stream.close()
            self._stream = None
