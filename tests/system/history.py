"""Whether what several clients did and saw at the same time can be told as one story: one operation after the other, each with the
outcome that its client was given, each at some moment between its question and its answer.

Never asks a cluster. Of every operation it knows when it was asked and answered, and what came of it; an operation whose answer was lost
may have happened at any moment until some time later, or never.

    call ──▶ pending ──▶ every story so far is continued by those pending operations that it takes to explain this answer ──▶ return
    a story: what is under each name now, and which pending operations have happened in it; equal ones are one

What only looks (a get, a refusal) is told as soon as a story lets it: it changes nothing, so that sooner is as good as later.
Source: Lowe, "Testing for linearizability", 2017 (just-in-time linearization, with memory of configurations).
"""

from collections import namedtuple

# kind: put, get, remove, rename, copy; target: of a rename or copy; value: what a put stored, what a get found (None: nothing there)
# outcome: "ok", "absent" (the path, or the source, was not there), "unknown" (no answer), "refused" (nothing happened; says nothing more)
Done = namedtuple("Done", "number kind path target value outcome asked_s answered_s")

# Beyond this many stories at once the history says too little to be judged.
MOST_STORIES = 500_000


class Impossible(AssertionError):
    """No story explains this answer."""


def check(operations, names, unknown_s=30.0):
    """Raise Impossible at the first answer that no story explains.

    operations: Done records in any order; names: all names there are, each with nothing under it at first.
    unknown_s: how long after it was given up an operation without an answer may still happen
    Returns the most stories there were at once.
    """
    index = {name: at for at, name in enumerate(names)}
    events = []
    for done in operations:
        if done.outcome != "refused":
            events.append((done.asked_s, 0, done.number, done))
            events.append((done.answered_s + (unknown_s if done.outcome == "unknown" else 0.0), 1, done.number, done))
    pending, stories, most = {}, {((None,) * len(names), frozenset())}, 1
    for _at_s, is_end, number, done in sorted(events, key=lambda event: event[:3]):
        if not is_end:
            pending[number] = done
            stories = {_look(state, happened, {number: done}, index) for state, happened in stories}
            continue
        if done.outcome == "unknown":
            stories = {(state, happened - {number}) for state, happened in stories}
        else:
            before, stories = stories, _explain(stories, done, pending, index)
            if not stories:
                raise Impossible(_text(done, before, names))
        del pending[number]
        most = max(most, len(stories))
    return most


def _explain(stories, done, pending, index):
    """The stories in which `done` has happened, reached from these; it is forgotten as pending."""
    found, seen, open_ = set(), set(stories), list(stories)
    while open_:
        state, happened = open_.pop()
        if done.number in happened:
            found.add((state, happened - {done.number}))
            continue
        for number, other in pending.items():
            after = None if number in happened else _after(state, other, index)
            if after is None:
                continue
            story = _look(after, happened | {number}, pending, index)
            if story not in seen:
                seen.add(story)
                open_.append(story)
        if len(seen) > MOST_STORIES:
            raise Impossible(f"more than {MOST_STORIES} stories: too much was asked at once to be judged")
    return found


def _after(state, done, index):
    """What is under the names after this operation; None when it cannot have this outcome now, or only looks."""
    at = index[done.path]
    if done.kind == "get" or done.outcome == "absent":
        return None
    if done.kind != "put" and state[at] is None:
        return None
    after = list(state)
    if done.kind == "put":
        after[at] = done.value
    elif done.kind == "remove":
        after[at] = None
    else:
        after[index[done.target]] = state[at]
        if done.kind == "rename" and done.target != done.path:
            after[at] = None
    return tuple(after)


def _look(state, happened, pending, index):
    """The story with everything told that only looks and is explained by this state."""
    seen = [number for number, done in pending.items() if number not in happened and (
        done.kind == "get" and done.outcome == "ok" and state[index[done.path]] == done.value
        or done.outcome == "absent" and state[index[done.path]] is None)]
    return state, happened.union(seen) if seen else happened


def _text(done, stories, names):
    told = "; or ".join(", ".join(f"{name}={value}" for name, value in zip(names, state) if value is not None) or "nothing at all"
                        for state, _happened in list(stories)[:4])
    what = f" -> {done.target}" if done.target else f" = {done.value}" if done.kind in ("put", "get") else ""
    return f"operation {done.number}, {done.kind} {done.path}{what}, is told as {done.outcome} between {done.asked_s:.3f} and " \
           f"{done.answered_s:.3f}: there was {told}"
