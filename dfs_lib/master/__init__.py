"""The master tracker: who has what, who lives, what to do about it. It moves no file's bytes."""
