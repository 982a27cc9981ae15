"""Small real file systems for tests: one that gets full, one that turns read-only, one whose device fails. For root alone.

Never leaves one mounted: use `with`.
"""

import os
import subprocess

import pytest


def run(*words):
    return subprocess.run(words, capture_output=True, text=True, timeout=30)


class SmallDisk:
    """A tmpfs of so many bytes at `path`."""

    def __init__(self, path, size):
        self.path, self.size = path, size

    def __enter__(self):
        os.makedirs(self.path, exist_ok=True)
        done = run("mount", "-t", "tmpfs", "-o", f"size={self.size},mode=700", "none", self.path) if os.geteuid() == 0 else None
        if done is None or done.returncode:
            pytest.skip(f"no small file system can be mounted here: {done.stderr.strip() if done else 'that takes root'}")
        return self

    def __exit__(self, *_):
        done = run("umount", "-l", self.path)
        assert done.returncode == 0, done.stderr

    @property
    def filler(self):
        return os.path.join(self.path, "filler")

    def fill(self, leave=0):
        """Take all room but so many bytes."""
        facts = os.statvfs(self.path)
        size = max(0, facts.f_bavail * facts.f_frsize - leave)
        with open(self.filler, "ab", buffering=0) as out:
            try:
                while size > 0:
                    size -= out.write(bytes(min(size, 1 << 20)))
            except OSError:
                pass  # full: that was the aim

    def free(self):
        os.unlink(self.filler)

    def remount(self, how):
        """`ro` or `rw`."""
        done = run("mount", "-o", f"remount,{how}", self.path)
        assert done.returncode == 0, done.stderr


class FailingDisk:
    """An ext4 on a loop device whose image is sparse and lies on a tmpfs of its own: once that is full, writing to the device fails
    as a bad disk does, with EIO on fsync, and a journal that gives up."""

    def __init__(self, path, work, size=24 << 20):
        self.path, self.size = path, size
        self.below = SmallDisk(os.path.join(work, "below"), 2 * size)
        self.is_mounted = False

    def __enter__(self):
        self.below.__enter__()
        image = os.path.join(self.below.path, "image")
        try:
            with open(image, "wb") as out:
                out.truncate(self.size)
            os.makedirs(self.path, exist_ok=True)
            made = run("mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=1", image)
            mounted = run("mount", "-o", "loop,errors=continue", image, self.path) if made.returncode == 0 else made
        except FileNotFoundError as e:
            mounted = None
            why = str(e)
        if mounted is None or mounted.returncode:
            self.below.__exit__()
            pytest.skip(f"no loop device can be mounted here: {mounted.stderr.strip() if mounted else why}")
        self.is_mounted = True
        return self

    def __exit__(self, *_):
        run("umount", "-l", self.path)
        self.below.__exit__()

    def fail(self):
        self.below.fill()

    def mend(self):
        """A new device, so to speak, with what has reached the old one, mounted in its place. Nobody may use it meanwhile.

        The old one may live on for long: whoever entered a mount namespace of its own meanwhile (`ip netns exec` does) has its mount, too.
        """
        unmounted = run("umount", self.path)
        assert unmounted.returncode == 0, unmounted.stderr
        self.below.free()
        image, new = (os.path.join(self.below.path, name) for name in ("image", "new"))
        copied = run("cp", "--sparse=always", image, new)
        assert copied.returncode == 0, copied.stderr
        os.replace(new, image)
        checked = run("fsck.ext4", "-f", "-y", image)  # a journal that gave up is no good to start with
        assert checked.returncode in (0, 1), checked.stdout + checked.stderr
        mounted = run("mount", "-o", "loop,errors=continue", image, self.path)
        assert mounted.returncode == 0, mounted.stderr
